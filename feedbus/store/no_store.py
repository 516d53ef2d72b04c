"""The store of a project without a database: no transactions, no inbox, no outbox."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NoReturn, Unpack

from feedbus.errors import UsageError
from feedbus.records.payloads import Payload
from feedbus.records.publish_arguments import NO_KEY
from feedbus.store.protocol import OutboxRow, Store
from feedbus.store.sql import SqlStore
from feedbus.topology import Queue
from feedbus.wire.message_options import PublishOptions


class NoStore:
    """The store of a topology without [store]; it has no locks, no transactions and no rows.

    It has the methods of every store, so its callers need no special case.
    """

    session_type: type | None = None
    in_transaction = False

    def __init__(self) -> None:
        """Create the store; there is nothing to configure."""
        self.outbox = NoOutbox()
        self.inbox = NoInbox()

    def transaction(self) -> AbstractContextManager[None]:
        """Return a context manager that does nothing: each effect takes place immediately."""
        return nullcontext()

    def is_outage(self, error: BaseException) -> bool:
        """Return False: without a store, no error is an outage of the store."""
        del error
        return False

    @contextmanager
    def exclusive(self, name: str, *, wait_seconds: float = 0.0) -> Iterator[bool]:
        """Yield False: the lock is not acquired, because without a store no work needs a lock.

        The arguments are ignored.
        """
        del name, wait_seconds
        yield False

    def set_up(self) -> None:
        """Do nothing: there are no tables to create."""

    def ready(self) -> None:
        """Do nothing: there is no database that could be unavailable."""

    def close(self) -> None:
        """Do nothing: there is no connection to close."""


class NoOutbox:
    """The outbox of a project without a store: it is always empty and accepts no messages."""

    def put(
        self,
        exchange: str,
        payload: Payload,
        key: str = NO_KEY,
        *,
        message_id: str | None = None,
        **options: Unpack[PublishOptions],
    ) -> OutboxRow:
        """Raise UsageError: there is no store that could keep the message."""
        del exchange, payload, key, message_id, options
        refuse()

    def put_many(
        self,
        exchange: str,
        rows: Iterable[tuple[str, Mapping[str, Any], str]],
        options: PublishOptions | None = None,
    ) -> list[int]:
        """Raise UsageError: there is no store that could keep the messages."""
        del exchange, rows, options
        refuse()

    def pending(
        self,
        limit: int = 100,
        older_than_seconds: float = 0.0,
        *,
        after: int = 0,
        up_to: int | None = None,
        keys: Collection[tuple[str, str]] | None = None,
    ) -> list[OutboxRow]:
        """Return an empty list: no message is kept."""
        del limit, older_than_seconds, after, up_to, keys
        return []

    def remove(self, ids: Sequence[int]) -> int:
        """Return 0: there are no rows to remove."""
        del ids
        return 0


class NoInbox:
    """The inbox of a project without a store: it is always empty and cannot record messages."""

    def seen(self, queue: str, ids: Sequence[str]) -> list[str]:
        """Return an empty list: nothing was recorded."""
        del queue, ids
        return []

    def add_new(self, queue: str, ids: Sequence[str]) -> list[str]:
        """Raise UsageError: there is no store that could record which messages were handled."""
        del queue, ids
        refuse()

    def remove(self, queue: str, ids: Sequence[str]) -> None:
        """Do nothing: nothing was recorded."""
        del queue, ids

    def forget(self, older_than_seconds: float, limit: int = 1_000) -> int:
        """Return 0: there are no ids to delete."""
        del older_than_seconds, limit
        return 0


def refusing_autocommit(store: Store, queue: Queue) -> AbstractContextManager[None]:
    """Return a context manager in which the handlers of a queue are called.

    On a queue with `store = false`, handlers have no transaction. A peewee model would commit each
    of its writes immediately, also if the handler then fails. So in the block, such a write outside
    of `database.atomic()` raises UsageError.

    Args:
        store: the store of the topology.
        queue: the queue.

    """
    if queue.store or not isinstance(store, SqlStore):
        return nullcontext()
    return store.refusing_autocommit(queue.name)


def refuse() -> NoReturn:
    """Raise the UsageError of an operation that needs a store."""
    msg = 'there is no store: add [store] to the topology, such as url = "sqlite:///var/store.db"'
    raise UsageError(msg)
