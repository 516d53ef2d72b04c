"""The bus of a program: a publish call waits until the broker has confirmed the messages."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, Unpack

from feedbus import broker, wrong_argument
from feedbus.bus.interface import Bus
from feedbus.bus.outbox_requests import request_of
from feedbus.bus.publish_requests import Request, refuse_closed
from feedbus.bus.record_encoding import pack_pairs
from feedbus.bus.sender import Sender
from feedbus.bus.shared_sender import SharedSender
from feedbus.bus.transaction_blocks import TransactionBlocks
from feedbus.metrics import Metrics
from feedbus.records.packs import Pack, pack_of_one
from feedbus.records.payloads import Payload
from feedbus.records.publish_arguments import (
    NO_KEY,
    check_columns,
    check_many,
    check_record,
    taken,
    without_key,
)
from feedbus.records.publish_options import envelope_of
from feedbus.store import Store, check_is_store
from feedbus.store.protocol import OutboxRow
from feedbus.topology import Topology
from feedbus.wire.message_options import Envelope, PublishOptions

TIMEOUT_SECONDS = 10.0  # how long a publish tries again during an outage, by default


class LiveBus(Bus):
    """A bus with its own connection, for any thread; feedbus.connect() returns one.

    The bus connects at the first publish, and reconnects after an outage. If the broker has no
    objects of the topology, the bus declares the topology. Messages that several threads publish at
    the same time are sent together, with one wait for their confirms. Messages that are published
    in a `with` block of transaction() are sent after the commit. A forked process gets its own
    connection. A program usually creates one bus, and closes the bus before the program ends.
    """

    PAIRS_AT_ONCE = 5_000  # publish_many() reads and sends this many pairs at a time
    CONFIRM_SECONDS = (2.0, 10.0)  # the range of the time limit for a confirm

    def __init__(
        self,
        topology: Topology,
        metrics: Metrics | None = None,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        store: Store | None = None,
    ) -> None:
        """Create a bus; it connects at the first publish.

        During an outage, a publish call sends its messages again, with the same ids, until
        timeout_seconds are over. After that no attempt begins, but the last one may end later:
        each attempt waits for confirms for as long as timeout_seconds, but for at least 2 s and
        at most 10 s (CONFIRM_SECONDS).

        Args:
            topology: the topology of the system.
            metrics: counts the published records.
            timeout_seconds: how long to try again during an outage of the broker, or while a queue
                is full.
            store: an open store for transaction(). close() does not close this store. By default,
                the bus opens the topology's store at the first transaction, and close() closes the
                topology's store.

        """
        if not isinstance(topology, Topology):
            wrong_argument.refuse("topology", "a parsed topology", topology)
        if metrics is not None and not isinstance(metrics, Metrics):
            wrong_argument.refuse("metrics", "Metrics or None", metrics)
        wrong_argument.check_seconds("timeout_seconds", timeout_seconds)
        if store is not None:
            check_is_store(store)
        self._topology = topology
        self._clock = broker.clock(topology)
        self._metrics = metrics
        self._timeout_seconds = timeout_seconds
        self._given_store = store
        self._is_closed = False
        self._reset()
        _buses.add(self)

    def _reset(self) -> None:
        """Give the bus new locks, and a sender without a connection.

        The constructor calls this method. A forked process calls it for the buses that the process
        has inherited: their connections belong to the parent, and their locks may be locked.
        """
        self._shared_sender = SharedSender(
            self._topology, self._new_sender(), self._timeout_seconds
        )
        self._transaction_blocks = TransactionBlocks(
            self._topology, self._clock, self._shared_sender, self._given_store
        )
        self._current_transaction = self._transaction_blocks.current

    def unique(self) -> str:
        """Return a unique message id, for the argument message_id of publish()."""
        return self._clock.unique()

    def _new_sender(self) -> Sender:
        min_seconds, max_seconds = self.CONFIRM_SECONDS
        return Sender(
            self._topology,
            self._metrics,
            timeout_seconds=min(max(self._timeout_seconds, min_seconds), max_seconds),
            blocked_seconds=max(self._timeout_seconds, min_seconds),
            nacked_seconds=self._timeout_seconds,
        )

    def __enter__(self) -> Self:
        """Return the bus itself."""
        self._is_closed = False
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection; from now on, a publish raises UsageError."""
        self._is_closed = True
        self.close()

    def publish(
        self,
        exchange: str,
        payload: Payload,
        key: str = NO_KEY,
        *,
        message_id: str | None = None,
        **options: Unpack[PublishOptions],
    ) -> None:
        """Publish one record; return when the broker has confirmed it.

        Args:
            exchange: the name of the exchange in topology.toml.
            payload: the payload of the record.
            key: the routing key. For an exchange with shards it is required, because the key
                selects the shard. key="" is allowed there: all messages with this key go to the
                same shard. Without shards, the key is "" by default.
            message_id: the id of the record. A queue with `once = true` handles only one of several
                records with the same id. By default, the record gets an id that no other record
                has.
            options: `headers` maps names to texts, numbers, flags or None. `priority` is a number
                from 0 to 255. `expires` is the time for which the message may wait in a queue.
                `delay` is the time by which feedbus delays the message. Each of these two times is
                a text such as "10m", or a number of seconds.

        Raises:
            TypeError: an argument has a wrong type.
            ValueError: an option is out of its limits.
            UsageError: there is no such exchange, the record cannot be published, or the exchange
                has shards and there is no key.
            Unroutable: the message was returned, because no queue matches.
            PublishError: the broker refused the message, for example because a queue is full.
            BrokerOutage: the broker was unavailable for too long; the message may have arrived.

        """
        fields = check_record(exchange, payload, key, message_id)
        envelope = envelope_of(options, "message_id") if options else None
        if key is NO_KEY:
            key = without_key(exchange, has_shards=self._has_shards(exchange))
        self._send(exchange, pack_of_one(message_id or self.unique(), key, fields), envelope)

    def _has_shards(self, exchange: str) -> bool:
        return self._topology.exchange(exchange).hashed

    def _publish_enveloped(
        self, exchange: str, fields: Mapping[str, Any], key: str, envelope: Envelope
    ) -> None:
        self._send(exchange, pack_of_one(self.unique(), key, fields), envelope)

    def publish_many(
        self,
        exchange: str,
        pairs: Iterable[tuple[Payload, str]],
    ) -> int:
        """Publish (payload, routing key) pairs; return how many the broker has confirmed.

        Args:
            exchange: the name of the exchange in topology.toml.
            pairs: any iterable of (payload, routing key) pairs. The bus reads the pairs in groups,
                and only one group is in memory at a time.

        Raises:
            TypeError: an argument has a wrong type, or an item of pairs is not a pair.
            UsageError: there is no such exchange, or a record cannot be published.
            Unroutable: messages were returned, because no queue matches. All other messages before
                them were published; messages after them may not have been sent.
            PublishError: the broker refused messages; messages after them may not have been sent.
            BrokerOutage: the broker was unavailable for too long; messages without a confirm may
                have arrived.

        """
        check_many(exchange, pairs)
        origin, count, remaining = self.unique(), 0, iter(pairs)
        while run := taken(pairs, remaining, count, self.PAIRS_AT_ONCE):
            for pack in pack_pairs(run, f"{origin}.{count}", first=count):
                self._send(exchange, pack)
            count += len(run)
        return count

    def publish_columns(
        self,
        exchange: str,
        columns: Mapping[str, Sequence[Any]],
        keys: Sequence[str] | str,
        *,
        shared: Mapping[str, Any] | None = None,
    ) -> int:
        """Publish records by column; return how many the broker has confirmed.

        Args:
            exchange: the name of the exchange in topology.toml.
            columns: the fields in which the records differ. Each is mapped to a list with one value
                per record.
            keys: a list with one routing key per record, or the name of the column that contains
                the routing keys.
            shared: the other fields. Each is mapped to the value that all records have.

        Raises:
            TypeError: an argument has a wrong type.
            UsageError: columns differ in length, `keys` is a name that no column has, there
                is no such exchange, or a record cannot be published.
            Unroutable: messages were returned, because no queue matches; the others were published.
            PublishError: the broker refused messages, for example because a queue is full.
            BrokerOutage: the broker was unavailable for too long; messages without a confirm may
                have arrived.

        """
        check_columns(exchange, columns, keys, shared)
        pack = Pack.numbered(self.unique(), keys, shared or {}, columns)
        if len(pack):
            self._send(exchange, pack)
        return len(pack)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Commit the block's changes in the store together with the messages that it publishes.

        Messages that this thread publishes in the block go to the outbox, a table of the store. The
        bus sends them immediately after the commit. If the broker is unavailable then, the relay
        sends them later. The relay is a thread that `feedbus up` runs. After a rollback, nothing is
        sent. If two blocks of this method are nested, they are one transaction.

        Yields the store's session: SQLAlchemy's Session, or peewee's database.

        Raises:
            UsageError: the topology has no [store], or this thread is in a transaction of a store
                that was begun without this bus, for example of a handler or of another bus. The bus
                does not know when that transaction commits. Or, with peewee, the project's models
                use another database, which is open. Or the block has caught the error of a
                statement that PostgreSQL answers with a rollback of the whole transaction.
            StoreOutage: the store became unavailable. If the connection was lost during the commit,
                it is unknown whether the store has committed, so the block must be idempotent. In
                all other cases, nothing was committed.

        Example:
            with bus.transaction() as session:
                session.add(Order(product="chair"))
                bus.publish("orders", {"product": "chair"}, key="chair")

        """
        if self._is_closed:
            refuse_closed()
        with self._transaction_blocks.block() as session:
            yield session

    def close(self) -> None:
        """Close the connection, and the store if the bus opened it.

        A later publish connects again. But after a `with` block of the bus, which also calls this
        method, a publish raises UsageError.
        """
        self._shared_sender.close()
        self._transaction_blocks.close()

    def _send(self, exchange: str, pack: Pack, envelope: Envelope | None = None) -> None:
        if self._is_closed:
            refuse_closed()
        request = Request(exchange, pack, envelope)
        if self._current_transaction.transaction is not None:
            payloads = self._shared_sender.encode_for_outbox(request)
            self._current_transaction.transaction.add(request, payloads)
            return
        self._shared_sender.send(request)
        request.raise_error()

    def selects_shards(self, exchange: str) -> bool:
        """Whether the messages of an exchange are divided among shards; True for an unknown name.

        The relay, which publishes the rows of the outbox, calls this. If the result is True, the
        relay sends at most one row of each key at a time, to keep the order of the key. A name is
        unknown if topology.toml does not contain the exchange any more.

        Args:
            exchange: the name of the exchange in topology.toml.

        """
        return self._topology.selects_shards(exchange)

    def publish_rows(self, rows: Sequence[OutboxRow]) -> Sequence[Exception | None]:
        """Publish rows of an outbox together; return an error, or None, for each row.

        The rows are sent in the given order. But if the broker refuses a row, it can still accept
        later rows with the same key. So for an exchange with shards, the relay calls this method
        with at most one row of each key.

        Args:
            rows: the rows, in the order in which they are published.

        """
        requests = [request_of(row, self._clock) for row in rows]
        self._shared_sender.send_together(requests)
        return [request.error() for request in requests]

    def send_together(self, requests: Sequence[Request]) -> None:
        """Send several requests in order, and set the `outcome` of each request.

        The method raises no BrokerOutage: an outage becomes the outcome of each request that could
        not be sent.

        AsyncBus calls this with the messages that several tasks publish at the same time.

        Args:
            requests: one request for each publish call, with the records of the call.

        """
        self._shared_sender.send_together(requests)


_buses: weakref.WeakSet[LiveBus] = weakref.WeakSet()
# The objects that a forked process has inherited from its parent. This list keeps them, because
# Python would otherwise delete them as garbage, and so close the connections of the parent.
_inherited: list[object] = []


def _reset_in_child() -> None:
    for bus in list(_buses):
        _inherited.extend((bus._shared_sender, bus._transaction_blocks))  # noqa: SLF001 -- this module's own class
        bus._reset()  # noqa: SLF001 -- as above


os.register_at_fork(after_in_child=_reset_in_child)
