"""The protocol of a store: the methods that an object must have to be used as a store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, Unpack

from feedbus.records.payloads import Payload
from feedbus.records.publish_arguments import NO_KEY
from feedbus.wire.message_options import PublishOptions


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A row of the outbox: a message that has the same message id each time that it is published.

    Attributes:
        id: the number of the row. Each new row has a higher number than all rows before, including
            rows that were removed.
        exchange: the name of the exchange in topology.toml.
        key: the routing key.
        payload: a JSON object as text.
        message_id: the id of the message.
        options: the options of publish() as JSON, if there are any.
        created_at: when the row was added, in microseconds since 1970.

    """

    id: int
    exchange: str
    key: str
    payload: str
    message_id: str
    options: str | None = None
    created_at: int = 0


class Outbox(Protocol):
    """The messages that are committed in the store, and that the broker has not confirmed yet.

    A store has one Outbox object for the rows of its project.
    """

    def put(
        self,
        exchange: str,
        payload: Payload,
        key: str = NO_KEY,
        *,
        message_id: str | None = None,
        **options: Unpack[PublishOptions],
    ) -> OutboxRow:
        """Add a message in the caller's transaction, and return its row.

        Args:
            exchange: the name of the exchange in topology.toml.
            payload: a mapping, or an instance of a message type.
            key: the routing key. An exchange with shards needs a key, because the key selects the
                shard. The key "" is allowed: all messages with this key go to the same shard.
                Without shards, the key is "" by default.
            message_id: the id of the message; by default a random id. Example: with the id
                "receipt-17" for order 17, a receipt that is added twice has the same id both times.
            options: `headers`, `priority` (0 to 255), `expires` and `delay`. `expires` and `delay`
                are each a number of seconds, or a text such as "30s".

        Raises:
            TypeError: an argument has a wrong type.
            UsageError: there is no such exchange, the record cannot be published, or the exchange
                has shards and there is no key.
            ValueError: an option is out of its limits.
        """

    def put_many(
        self,
        exchange: str,
        rows: Iterable[tuple[str, Mapping[str, Any], str]],
        options: PublishOptions | None = None,
    ) -> list[int]:
        """Add messages in the caller's transaction, in order; return the ids of their rows.

        Args:
            exchange: the name of the exchange in topology.toml.
            rows: a (routing key, payload, message id) tuple for each message.
            options: the headers, priority, expires and delay of all messages; the caller has
                checked them. None for no options.
        """

    def pending(
        self,
        limit: int = 100,
        older_than_seconds: float = 0.0,
        *,
        after: int = 0,
        up_to: int | None = None,
        keys: Collection[tuple[str, str]] | None = None,
    ) -> list[OutboxRow]:
        """Return the rows with the lowest ids, in the order of their ids.

        Args:
            limit: the largest number of rows to return.
            older_than_seconds: do not return younger rows, because the process that added them may
                still be publishing them. But return a row whose time is in the future by more than
                older_than_seconds: the clock was set back, and the row must not wait for its time.
            after: only rows with a higher id.
            up_to: only rows with this id or a lower one; None for all ids.
            keys: only rows with one of these pairs of exchange and routing key; None for all rows.
        """

    def remove(self, ids: Sequence[int]) -> int:
        """Delete rows by their ids, after the broker has confirmed the messages.

        Returns:
            The number of deleted rows; another process may have deleted some before.

        """


class Inbox(Protocol):
    """The ids of the messages that the consumers of each queue with `once = true` have handled.

    A store has one Inbox object for the rows of its project.
    """

    def seen(self, queue: str, ids: Sequence[str]) -> list[str]:
        """Return which of the given message ids a queue of topology.toml has handled before."""

    def add_new(self, queue: str, ids: Sequence[str]) -> list[str]:
        """Store message ids in the caller's transaction; return the ids that are new in the table.

        The handler's effects are in the same transaction, so the ids are stored if, and only if,
        the effects are committed. An id that is twice in `ids` is returned once.

        Args:
            queue: the name of the queue in topology.toml.
            ids: the message ids.

        """

    def remove(self, queue: str, ids: Sequence[str]) -> None:
        """Delete ids that add_new() has stored in the same transaction.

        If a handler has failed for some messages of a batch, the caller deletes their ids, so that
        these messages can be handled again.

        Args:
            queue: the name of the queue in topology.toml.
            ids: the message ids.
        """

    def forget(self, older_than_seconds: float, limit: int = 1_000) -> int:
        """Delete the oldest ids that are older than a given age; return how many were deleted.

        The relay calls it. The age is the option keep_handled of [store].

        Args:
            older_than_seconds: the age, in seconds, above which an id is deleted.
            limit: the largest number of ids to delete. With a small number, other transactions
                wait only a short time for the end of this one.
        """


class Store(Protocol):
    """The interface of the database in which handlers store their effects.

    feedbus has implementations for peewee and SQLAlchemy; a project can write another one. Each
    process opens one store for its topology.
    """

    @property
    def session_type(self) -> type | None:
        """The type of the session of a transaction, or None if the store has no sessions.

        A handler gets the session if one of its parameters is annotated with this type.
        """

    @property
    def outbox(self) -> Outbox:
        """The table of the messages that are committed and must still be published."""

    @property
    def inbox(self) -> Inbox:
        """The table of the ids of the messages that were handled."""

    @property
    def in_transaction(self) -> bool:
        """Whether this thread has begun a transaction, which transaction() would join."""

    def transaction(self) -> AbstractContextManager[Any]:
        """Commit all effects of a `with` block, or none; join a transaction that is already open.

        The block gets the session that handlers can request, or None if the store has no sessions.

        Raises:
            StoreOutage: the store became unavailable. If the connection was lost during the commit,
                it is unknown whether the store has committed, so the block must be idempotent. In
                all other cases, nothing was committed.
            UsageError: a statement of the block has failed or has ended the transaction, and the
                block has caught its error. Then the database would not commit the whole block.

        """

    def is_outage(self, error: BaseException) -> bool:
        """Whether an error means that the store is unavailable, full or not set up.

        The result is False for an error that a message or its handler may have caused.
        """

    def exclusive(self, name: str, *, wait_seconds: float = 0.0) -> AbstractContextManager[bool]:
        """Hold a lock in a `with` block; yield whether this process holds the lock.

        Only one process can hold the lock of a name. The lock is released if its holder dies.

        The block may be a transaction: in feedbus's stores, it is one on PostgreSQL, but not on
        SQLite. In a transaction, an error that leaves the block undoes the block's changes.

        Args:
            name: the name of the lock, such as "relay.shop".
            wait_seconds: how long to wait while another process holds the lock.
        """

    def set_up(self) -> None:
        """Create feedbus's own tables, or upgrade the tables of an earlier version.

        Raises:
            StoreOutage: the store is unavailable, or cannot be written to.
            UsageError: the tables belong to a newer version.

        """

    def ready(self) -> None:
        """Check that the store answers, on a new connection if the old one is lost.

        Raises:
            StoreOutage: the store does not answer; the text says why and what to do.

        """

    def close(self) -> None:
        """Close all connections to the database; do nothing if none is open."""
