"""A channel with the methods, events and errors of py-amqp's, so that one code drives both."""

# ruff: noqa: A002, ARG002, FBT001, FBT002 -- the signatures are py-amqp's

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from amqp.exceptions import (
    AccessRefused,
    AMQPNotImplementedError,
    ChannelError,
    NotAllowed,
    PreconditionFailed,
    RecoverableConnectionError,
)
from amqp.exceptions import ConnectionError as BrokenConnection
from amqp.protocol import queue_declare_ok_t
from kombu.transport import pyamqp
from kombu.transport.base import StdChannel, to_rabbitmq_queue_arguments

from feedbus.transports.sqlite import declarations, delivery, owners
from feedbus.transports.sqlite.confirms import Outcome, Outgoing, store
from feedbus.transports.sqlite.consumers import Arrival, Consumer
from feedbus.transports.sqlite.content import check_key, pack, unpack
from feedbus.transports.sqlite.file import Transaction
from feedbus.transports.sqlite.routing import EXCHANGE, QUEUE, Queue

if TYPE_CHECKING:
    from feedbus.transports.sqlite.connection import Connection

BUFFERED_MESSAGES = 500
BUFFERED_BYTES = 8_000_000


class Held(NamedTuple):
    """A delivery that a client has not settled yet."""

    message: int
    consumer: Consumer | None


class Channel(StdChannel):
    """A channel; errors of AMQP close it and open it anew, as py-amqp does."""

    Message = pyamqp.Message
    no_ack_consumers: Any

    def __init__(self, connection: Connection, channel_id: int) -> None:
        """Open the channel; its connection keeps it."""
        self.connection: Connection | None = connection
        self.channel_id = channel_id
        self.is_open = True
        self.events: dict[str, set[Callable[..., None]]] = defaultdict(set)
        self._start()

    def _start(self) -> None:
        self.consumers: dict[str, Consumer] = {}
        self.no_ack_consumers = set()
        self.shared_prefetch = 0
        self._prefetch = 0
        self._held: dict[int, Held] = {}
        self._last_tag = 0
        self._confirming = False
        self._published = 0
        self._outgoing: list[Outgoing] = []
        self._outgoing_bytes = 0
        self._untold: list[Outcome] = []

    # -- what py-amqp's channel offers besides methods of the protocol

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make the amqp Message that basic_publish takes."""
        prepare: Any = pyamqp.Channel.prepare_message
        return prepare(self, body, priority, content_type, content_encoding, headers, properties)

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> Any:
        """Turn Kombu's options of a queue into x-arguments."""
        return to_rabbitmq_queue_arguments(arguments or {}, **kwargs)

    def message_to_python(self, raw_message: Any) -> Any:
        """Make Kombu's message of a delivered one."""
        return self.Message(raw_message, channel=self)

    def held(self) -> int:
        """Return how many deliveries the consumers of this channel hold together."""
        return sum(consumer.held for consumer in self.consumers.values())

    @property
    def _link(self) -> Connection:
        if self.connection is None or not self.is_open:
            msg = "the channel is closed; open another"
            raise RecoverableConnectionError(msg)
        self.connection.check_open()
        return self.connection

    @contextmanager
    def _method(self) -> Iterator[Transaction]:
        # What was published before on this channel is stored before, as on one TCP stream.
        link = self._link
        self.flush()
        with self._refusals(), link.write() as tx:
            yield tx

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except ChannelError:
            self._revive()
            raise
        except BrokenConnection:
            if self.connection is not None:
                self.connection.close()
            raise

    def _revive(self) -> None:
        self._outgoing.clear()
        self._let_go()
        self._start()

    def _let_go(self) -> None:
        link = self._link
        if link.owner is None:
            return
        with link.write() as tx:
            for consumer in list(self.consumers.values()):
                unseen = link.forget(consumer)
                delivery.put_back(tx, link.owner, unseen, delivered=False)
                owners.end_consumer(tx, consumer.id)
            delivery.put_back(tx, link.owner, [held.message for held in self._held.values()])
        self._held.clear()

    def close(self) -> None:
        """Close the channel: consumers end and what they hold goes back to its place."""
        link = self.connection
        if link is None or not self.is_open:
            return
        if link.connected:
            self.flush()
            self._let_go()
        self.is_open = False
        link.channels.pop(self.channel_id, None)
        self.connection = None

    # -- exchanges and queues

    def exchange_declare(
        self,
        exchange: str,
        type: str = "direct",
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Declare an exchange, or with passive only ask whether it exists."""
        with self._method() as tx:
            if passive:
                if exchange and exchange not in tx.routes.exchanges:
                    declarations.no_exchange(exchange)
                return
            declarations.declare_exchange(
                tx,
                exchange,
                type,
                durable=durable,
                auto_delete=auto_delete,
                arguments=arguments or {},
            )

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete an exchange and its bindings."""
        with self._method() as tx:
            declarations.delete_exchange(tx, exchange, if_unused=if_unused)

    def exchange_bind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Let destination get what source routes by that key."""
        with self._method() as tx:
            declarations.bind(
                tx, source, EXCHANGE, destination, check_key(routing_key), arguments or {}
            )

    def exchange_unbind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Undo exchange_bind."""
        with self._method() as tx:
            declarations.unbind(
                tx, source, EXCHANGE, destination, check_key(routing_key), arguments or {}
            )

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> queue_declare_ok_t:
        """Declare a queue, or with passive only ask; return its name and counts."""
        owner = self._link.enlist() if exclusive else self._link.owner
        with self._method() as tx:
            if passive:
                found = declarations.find_queue(tx, queue, owner)
            else:
                found = declarations.declare_queue(
                    tx,
                    queue or f"amq.gen-{uuid.uuid4().hex}",
                    owner,
                    durable=durable,
                    exclusive=exclusive,
                    auto_delete=auto_delete,
                    arguments=arguments or {},
                )
            if found.expiring:
                delivery.expire_head(tx, found)
            (consumers,) = tx.execute(
                "SELECT count(*) FROM consumers WHERE queue = ?", (found.id,)
            ).fetchone()
            return queue_declare_ok_t(found.name, tx.depth(found.id), consumers)

    def queue_bind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Let a queue get what exchange routes by that key."""
        with self._method() as tx:
            declarations.find_queue(tx, queue, self._link.owner, (50, 20))
            declarations.bind(tx, exchange, QUEUE, queue, check_key(routing_key), arguments or {})

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Undo queue_bind."""
        with self._method() as tx:
            declarations.find_queue(tx, queue, self._link.owner, (50, 50))
            declarations.unbind(tx, exchange, QUEUE, queue, check_key(routing_key), arguments or {})

    def queue_delete(
        self,
        queue: str = "",
        if_unused: bool = False,
        if_empty: bool = False,
        nowait: bool = False,
    ) -> int:
        """Delete a queue; return how many ready messages went with it, 0 when there is none."""
        with self._method() as tx:
            if queue not in tx.routes.queues:
                return 0
            found = declarations.find_queue(tx, queue, self._link.owner, (50, 40))
            return declarations.delete_queue(tx, found, if_unused=if_unused, if_empty=if_empty)

    def queue_purge(self, queue: str = "", nowait: bool = False) -> int:
        """Forget a queue's ready messages; return how many there were."""
        with self._method() as tx:
            found = declarations.find_queue(tx, queue, self._link.owner, (50, 30))
            return delivery.purge(tx, found)

    # -- publishing

    def confirm_select(self, nowait: bool = False) -> None:
        """Number what is published from now on, and tell its fate when events are drained."""
        self.flush()
        self._confirming = True

    def basic_publish(
        self,
        msg: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
    ) -> None:
        """Publish a message: at once, or in confirm mode with those around it in one transaction.

        Raises:
            NotFound: no such exchange; in confirm mode told when the messages are stored.
            FileUnavailable: it could not be stored, so it is not confirmed either.
            UnicodeError: the routing key is not UTF-8.

        """
        if immediate:
            refusal = "NOT_IMPLEMENTED - immediate=true"
            raise AMQPNotImplementedError(refusal, (60, 40))
        self._link.check_open()
        content = pack(msg, exchange, routing_key)
        tag = 0
        if self._confirming:
            self._published += 1
            tag = self._published
        self._outgoing.append(Outgoing(tag, content, msg, mandatory))
        self._outgoing_bytes += len(content.body)
        if not self._confirming or self._is_full():
            self.flush()

    def _is_full(self) -> bool:
        return len(self._outgoing) >= BUFFERED_MESSAGES or self._outgoing_bytes >= BUFFERED_BYTES

    def flush(self) -> None:
        """Store what is buffered; its confirms and returns are told at the next drain."""
        if not self._outgoing:
            return
        outgoing, self._outgoing, self._outgoing_bytes = self._outgoing, [], 0
        with self._link.write(durable=self._confirming) as tx:
            outcomes, failure = store(tx, outgoing)
        self._untold += outcomes
        if failure is not None:
            self.tell()
            self._revive()
            raise failure

    def tell(self) -> bool:
        """Call back for returns and confirms; False when there were none to tell."""
        untold, self._untold = self._untold, []
        for outcome in untold:
            outcome.tell(self.events)
        return bool(untold)

    # -- consuming

    def basic_qos(
        self,
        prefetch_size: int = 0,
        prefetch_count: int = 0,
        a_global: bool = False,
    ) -> None:
        """Limit unsettled deliveries: of each consumer started later, or of all together."""
        if prefetch_size:
            msg = "NOT_IMPLEMENTED - prefetch_size!=0"
            raise AMQPNotImplementedError(msg, (60, 10))
        if a_global:
            self.shared_prefetch = prefetch_count
        else:
            self._prefetch = prefetch_count

    def basic_consume(
        self,
        queue: str = "",
        consumer_tag: str = "",
        no_local: bool = False,
        no_ack: bool = False,
        exclusive: bool = False,
        nowait: bool = False,
        callback: Callable[[Any], None] | None = None,
        arguments: Mapping[str, Any] | None = None,
        on_cancel: Callable[[str], None] | None = None,
    ) -> str:
        """Start a consumer; callback gets each amqp Message when events are drained."""
        link = self._link
        tag = consumer_tag or f"amq.ctag-{uuid.uuid4().hex}"
        owner = link.enlist()
        with self._method() as tx:
            if tag in self.consumers:
                msg = f"NOT_ALLOWED - attempt to reuse consumer tag '{tag}'"
                raise NotAllowed(msg, (60, 20))
            owners.reap(tx, link.file.live, owner)
            found = declarations.find_queue(tx, queue, owner, (60, 20))
            self._check_exclusive(tx, found, exclusive=exclusive)
            (identity,) = tx.execute(
                "INSERT INTO consumers (queue, owner, tag, exclusive) VALUES (?,?,?,?)"
                " RETURNING id",
                (found.id, owner, tag, exclusive),
            ).fetchone()
            tx.owners_changed = True
        consumer = Consumer(
            identity,
            self,
            found.id,
            tag,
            no_ack,
            self._prefetch,
            found.single_active,
            callback,
            on_cancel,
        )
        self.consumers[tag] = link.consumers[identity] = consumer
        if no_ack:
            self.no_ack_consumers.add(tag)
        return tag

    def _check_exclusive(self, tx: Transaction, queue: Queue, *, exclusive: bool) -> None:
        rows = tx.execute("SELECT exclusive FROM consumers WHERE queue = ?", (queue.id,)).fetchall()
        if any(taken for (taken,) in rows) or (exclusive and rows):
            msg = f"ACCESS_REFUSED - queue '{queue.name}' in vhost '/' in exclusive use"
            raise AccessRefused(msg, (60, 20))

    def basic_cancel(self, consumer_tag: str, nowait: bool = False) -> None:
        """End a consumer; what it was handed stays with this channel to settle."""
        link = self._link
        consumer = self.consumers.get(consumer_tag)
        if consumer is None or link.owner is None:
            return
        unseen = link.forget(consumer)
        with self._method() as tx:
            delivery.put_back(tx, link.owner, unseen, delivered=False)
            owners.end_consumer(tx, consumer.id)

    def deliver(self, arrival: Arrival, consumer: Consumer) -> None:
        """Hand a claimed message to its consumer's callback."""
        message = self._open(arrival, consumer)
        message.delivery_info["consumer_tag"] = consumer.tag
        if consumer.callback is not None:
            consumer.callback(message)

    def _open(self, arrival: Arrival, consumer: Consumer | None) -> Any:
        if arrival.content is None:
            msg = "a message without content was to be delivered"
            raise RuntimeError(msg)
        message = unpack(*arrival.content, channel=self)
        self._last_tag += 1
        message.delivery_info |= {
            "delivery_tag": self._last_tag,
            "redelivered": arrival.returns > 0,
        }
        if arrival.returns and arrival.counted:
            headers = message.properties.setdefault("application_headers", {})
            headers["x-delivery-count"] = arrival.returns
        if not arrival.settled:
            self._held[self._last_tag] = Held(arrival.message, consumer)
        return message

    def basic_get(self, queue: str = "", no_ack: bool = False) -> Any:
        """Return one message of a queue, None when it is empty."""
        owner = self._link.enlist()
        with self._method() as tx:
            found = declarations.find_queue(tx, queue, owner, (60, 70))
            declarations.touch(tx, found)
            taken = delivery.claim(tx, found, owner, 1, 1)
            if not taken:
                return None
            ((message, returns),) = taken
            content = delivery.content_of(tx, message)
            if no_ack:
                delivery.settle(tx, owner, [message])
            left = tx.depth(found.id)
        arrival = Arrival(None, message, returns, found.quorum, no_ack, content)
        got = self._open(arrival, None)
        got.delivery_info["message_count"] = left
        return got

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """Settle a delivery, or with multiple all up to it (0: all); stored when this returns.

        Raises:
            PreconditionFailed: no such delivery is unsettled on this channel.
            RecoverableConnectionError: this connection was taken for dead, and others have it.

        """
        with self._method() as tx:
            tags = self._tags(delivery_tag, multiple=multiple)
            messages = [self._held[tag].message for tag in tags]
            owner = self._link.owner or 0
            held = delivery.settle(tx, owner, messages)
            fenced = held < len(messages) and not owners.is_entered(tx, owner)
        self._released(tags)
        if fenced:
            self._link.fence()

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        """Return a delivery to its place in the queue, or dead-letter it.

        Raises:
            PreconditionFailed: no such delivery is unsettled on this channel.
            RecoverableConnectionError: this connection was taken for dead, and others have it.

        """
        with self._method() as tx:
            tags = self._tags(delivery_tag, multiple=False)
            message = self._held[delivery_tag].message
            owner = self._link.owner or 0
            if requeue:
                held = bool(delivery.put_back(tx, owner, [message]))
            else:
                held = delivery.reject(tx, owner, message)
            fenced = not held and not owners.is_entered(tx, owner)
        self._released(tags)
        if fenced:
            self._link.fence()

    def basic_recover(self, requeue: bool = False) -> None:
        """Return all unsettled deliveries of this channel to their places."""
        with self._method() as tx:
            if not requeue:
                msg = "NOT_IMPLEMENTED - requeue=false"
                raise AMQPNotImplementedError(msg, (60, 110))
            tags = list(self._held)
            messages = [self._held[tag].message for tag in tags]
            delivery.put_back(tx, self._link.owner or 0, messages)
        self._released(tags)

    def _tags(self, delivery_tag: int, *, multiple: bool) -> list[int]:
        if multiple and not delivery_tag:
            return list(self._held)
        if delivery_tag not in self._held:
            msg = f"PRECONDITION_FAILED - unknown delivery tag {delivery_tag}"
            raise PreconditionFailed(msg, (60, 80))
        if not multiple:
            return [delivery_tag]
        return [tag for tag in self._held if tag <= delivery_tag]

    def _released(self, tags: list[int]) -> None:
        for tag in tags:
            consumer = self._held.pop(tag).consumer
            if consumer is not None:
                consumer.held -= 1
