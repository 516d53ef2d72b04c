"""The outbox and the inbox as tables of any SQLite or PostgreSQL database."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, Protocol

from feedbus.store.protocol import Entry

Dialect = Literal["sqlite", "postgresql"]

SLICE = 1_000  # rows a statement
ROW = ("routing_key", "payload", "message_id")
SERIAL = {"sqlite": "integer", "postgresql": "bigserial"}  # types of a number given by the table
CREATE = (
    """
    CREATE TABLE IF NOT EXISTS feedbus_outbox (
        id {serial} NOT NULL PRIMARY KEY,
        exchange text NOT NULL,
        routing_key text NOT NULL,
        payload text NOT NULL,
        message_id text NOT NULL,
        created_at bigint NOT NULL
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS feedbus_inbox (
        queue text NOT NULL,
        message_id text NOT NULL,
        created_at bigint NOT NULL,
        PRIMARY KEY (queue, message_id)
    )
    """,
    "CREATE INDEX IF NOT EXISTS inbox_created_at ON feedbus_inbox (created_at)",
)
DROP = ("DROP TABLE IF EXISTS feedbus_inbox", "DROP TABLE IF EXISTS feedbus_outbox")


class Cursor(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""

    def fetchall(self) -> Sequence[Any]:
        """Return its rows."""


class Database(Protocol):
    """What the tables need of a store."""

    dialect: Dialect

    def execute(self, sql: str, parameters: Mapping[str, Any]) -> Cursor:
        """Execute a statement with parameters of the form :name, in the caller's transaction."""


class Table:
    """What both tables share: how lists are given to each kind of database."""

    def __init__(self, database: Database) -> None:
        """Use the table of a database."""
        self._execute = database.execute
        self._sqlite = database.dialect == "sqlite"

    def _values(self, name: str, kind: str) -> str:
        """Return the SQL of a table of one column, value, that holds a list's values."""
        if self._sqlite:
            return f"json_each(:{name})"
        return f"unnest(CAST(:{name} AS {kind}[])) AS given(value)"

    def _list(self, values: Sequence[Any]) -> Any:
        return json.dumps(values, ensure_ascii=False) if self._sqlite else list(values)


class SqlOutbox(Table):
    """The table feedbus_outbox."""

    def __init__(self, database: Database) -> None:
        """Use the table of a database."""
        super().__init__(database)
        if self._sqlite:
            columns = ", ".join(f"json_extract(value, '$[{place}]')" for place in range(len(ROW)))
            source = "json_each(:rows) ORDER BY key"
        else:
            columns = ", ".join(ROW)
            arrays = ", ".join(f"CAST(:{name} AS text[])" for name in ROW)
            source = f"unnest({arrays}) WITH ORDINALITY AS given({columns}, place) ORDER BY place"
        self._put_rows = (
            "INSERT INTO feedbus_outbox (exchange, created_at, routing_key, payload, message_id)"  # noqa: S608 -- no input in it
            f" SELECT :exchange, :now, {columns} FROM {source} RETURNING id"
        )

    def put(
        self,
        exchange: str,
        payload: Mapping[str, Any],
        key: str = "",
        *,
        message_id: str | None = None,
    ) -> Entry:
        """Add a message, within the caller's transaction."""
        text, name = _text(payload), message_id or uuid.uuid4().hex
        made = self._execute(
            "INSERT INTO feedbus_outbox (exchange, routing_key, payload, message_id, created_at)"
            " VALUES (:exchange, :key, :payload, :message_id, :now) RETURNING id",
            {"exchange": exchange, "key": key, "payload": text, "message_id": name, "now": now()},
        )
        return Entry(int(made.fetchall()[0][0]), exchange, key, text, name)

    def put_many(
        self, exchange: str, rows: Iterable[tuple[str, Mapping[str, Any], str]]
    ) -> list[int]:
        """Add (routing key, payload, message id) rows in order; return the ids of the rows."""
        ids: list[int] = []
        moment, left = now(), iter(rows)
        while slice_ := [(key, _text(payload), name) for key, payload, name in islice(left, SLICE)]:
            made = self._execute(
                self._put_rows, {"exchange": exchange, "now": moment} | self._rows(slice_)
            )
            ids += sorted(int(row[0]) for row in made.fetchall())
        return ids

    def _rows(self, rows: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
        if self._sqlite:
            return {"rows": json.dumps(rows, ensure_ascii=False)}
        return dict(zip(ROW, map(list, zip(*rows, strict=True)), strict=True))

    def pending(
        self, limit: int = 100, older_than_seconds: float = 0.0, *, after: int = 0
    ) -> list[Entry]:
        """Return the oldest rows, in the order in which they were put."""
        moment, margin = now(), int(older_than_seconds * 1_000_000)
        rows = self._execute(
            "SELECT id, exchange, routing_key, payload, message_id FROM feedbus_outbox"
            " WHERE id > :after AND (created_at <= :oldest OR created_at > :future)"
            " ORDER BY id LIMIT :limit",
            {"after": after, "oldest": moment - margin, "future": moment + margin, "limit": limit},
        )
        return [Entry(*row) for row in rows.fetchall()]

    def remove(self, ids: Sequence[int]) -> int:
        """Delete rows whose messages the broker has confirmed; return how many there were."""
        if not ids:
            return 0
        source = self._values("ids", "bigint")
        sql = f"DELETE FROM feedbus_outbox WHERE id IN (SELECT value FROM {source})"  # noqa: S608 -- no input in it
        return sum(
            self._execute(sql, {"ids": self._list(ids[start : start + SLICE])}).rowcount
            for start in range(0, len(ids), SLICE)
        )


class SqlInbox(Table):
    """The table feedbus_inbox."""

    def seen(self, queue: str, ids: Sequence[str]) -> list[str]:
        """Return those of some messages that a queue has handled before."""
        found = self._execute(
            "SELECT message_id FROM feedbus_inbox WHERE queue = :queue AND message_id IN"  # noqa: S608 -- no input in it
            f" (SELECT value FROM {self._values('ids', 'text')})",
            {"queue": queue, "ids": self._list(list(dict.fromkeys(ids)))},
        )
        return [row[0] for row in found.fetchall()]

    def unseen(self, queue: str, ids: Sequence[str]) -> list[str]:
        """Record these messages as handled by a queue, and return those that were not before."""
        distinct = list(dict.fromkeys(ids))
        if not distinct:
            return []
        # WHERE true: SQLite would otherwise read ON CONFLICT as a join's condition.
        rows = self._execute(
            "INSERT INTO feedbus_inbox (queue, message_id, created_at)"  # noqa: S608 -- no input in it
            f" SELECT :queue, value, :now FROM {self._values('ids', 'text')} WHERE true"
            " ON CONFLICT DO NOTHING RETURNING message_id",
            {"queue": queue, "now": now(), "ids": self._list(distinct)},
        )
        new = {row[0] for row in rows.fetchall()}
        return [each for each in distinct if each in new]

    def forget(self, older_than_seconds: float) -> int:
        """Delete rows of messages that were handled so long ago; return how many."""
        oldest = now() - int(older_than_seconds * 1_000_000)
        sql = "DELETE FROM feedbus_inbox WHERE created_at < :oldest"
        return self._execute(sql, {"oldest": oldest}).rowcount


def create_tables(database: Database) -> None:
    """Create the outbox and the inbox where they are missing."""
    for statement in CREATE:
        database.execute(statement.format(serial=SERIAL[database.dialect]), {})


def drop_tables(database: Database) -> None:
    """Drop the outbox and the inbox with all that they hold."""
    for statement in DROP:
        database.execute(statement, {})


def now() -> int:
    """Return this moment as the tables keep it: in microseconds since 1970, UTC."""
    return time.time_ns() // 1_000


def _text(payload: Mapping[str, Any]) -> str:
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
