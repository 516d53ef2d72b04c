"""The inbox, on SQLite or PostgreSQL: the ids of the records that were handled."""

from __future__ import annotations

from collections.abc import Sequence

from feedbus.store.tables import ROWS_AT_ONCE, Database, Table, now


class SqlInbox(Table):
    """The inbox of one project, in the table feedbus_inbox."""

    def __init__(self, database: Database, project: str) -> None:
        """Create the object.

        Args:
            database: the database that has the table.
            project: the name of the project; other projects can have rows in the same table.
        """
        super().__init__(database, project)
        # WHERE true: otherwise SQLite would read ON CONFLICT as the condition of a join.
        self._add = (
            "INSERT INTO feedbus_inbox (project, queue, message_id, created_at)"  # noqa: S608 -- no input in it
            f" SELECT :project, :queue, value, :now FROM {self._values('ids', 'text')} WHERE true"
            " ON CONFLICT DO NOTHING RETURNING message_id"
        )

    def seen(self, queue: str, ids: Sequence[str]) -> list[str]:
        """Return which of the given message ids a queue of topology.toml has handled before."""
        rows = self._execute(
            "SELECT message_id FROM feedbus_inbox WHERE project = :project AND queue = :queue"  # noqa: S608 -- no input in it
            f" AND message_id IN (SELECT value FROM {self._values('ids', 'text')})",
            {
                "project": self._project,
                "queue": queue,
                "ids": self._list(list(dict.fromkeys(ids))),
            },
        )
        return [row[0] for row in rows.fetchall()]

    def add_new(self, queue: str, ids: Sequence[str]) -> list[str]:
        """Store message ids in the caller's transaction; return the ids that are new in the table.

        Args:
            queue: the name of the queue in topology.toml.
            ids: the message ids; an id that is twice in the list is returned once.

        """
        distinct = list(dict.fromkeys(ids))
        if not distinct:
            return []
        rows = self._execute(
            self._add,
            {
                "project": self._project,
                "queue": queue,
                "now": now(self._clock),
                "ids": self._list(distinct),
            },
        )
        new = {row[0] for row in rows.fetchall()}
        return [each for each in distinct if each in new]

    def remove(self, queue: str, ids: Sequence[str]) -> None:
        """Delete ids that add_new() has stored in the same transaction, because handling failed.

        Args:
            queue: the name of the queue in topology.toml.
            ids: the message ids.
        """
        self._execute(
            "DELETE FROM feedbus_inbox WHERE project = :project AND queue = :queue"  # noqa: S608 -- no input in it
            f" AND message_id IN (SELECT value FROM {self._values('ids', 'text')})",
            {"project": self._project, "queue": queue, "ids": self._list(list(ids))},
        )

    def forget(self, older_than_seconds: float, limit: int = ROWS_AT_ONCE) -> int:
        """Delete the oldest ids that are older than a given age; return how many were deleted.

        The relay calls it, with the option keep_handled of [store].

        Args:
            older_than_seconds: the age, in seconds, above which an id is deleted.
            limit: the largest number of ids to delete.
        """
        deleted = self._execute(
            "DELETE FROM feedbus_inbox WHERE (project, queue, message_id) IN"
            " (SELECT project, queue, message_id FROM feedbus_inbox"
            " WHERE project = :project AND created_at < :oldest"
            " ORDER BY created_at LIMIT :limit)",
            {
                "project": self._project,
                "oldest": now(self._clock) - int(older_than_seconds * 1_000_000),
                "limit": limit,
            },
        )
        return deleted.rowcount
