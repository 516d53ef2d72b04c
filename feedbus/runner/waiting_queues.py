"""The queues in which records wait so that their keys stay in order, as one consumer reads them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from feedbus import broker
from feedbus.broker import entities
from feedbus.broker.confirm_channel import PatientPublisher
from feedbus.broker.names import Names
from feedbus.dispatch.ordered_retries import OrderedRetries
from feedbus.generations.drain import following
from feedbus.generations.emptying import portable
from feedbus.generations.probes import LOST_SECONDS, Probes
from feedbus.logs import EventLog
from feedbus.ring import Ring
from feedbus.topology import Consumer, Topology
from feedbus.wire import Delivery
from feedbus.wire.amqp import Channel, Connection
from feedbus.wire.constants import FENCE

events = EventLog(__name__)

PREFETCH = 65_535  # the most that AMQP has; a quorum queue takes 0 for 2,000
BESIDE = ".waiting"  # at the end of a subscription's tag
GO_ON_SHARE = 0.9  # of the limit: a consumer that holds goes on when no more records wait
COUNT_SECONDS = 0.2  # at most so often it is noted how many records wait
MOST_MOVED = 50_000  # to one waiting queue: who reads it begins with all, at most PREFETCH
RENEWED_SECONDS = 300.0  # deliveries that are older are given back and taken again
RENEWED_SHARE = 0.5  # of the broker's consumer timeout, where that is shorter


@dataclass(slots=True)
class WaitingQueue:
    """A subscription to one waiting queue, on a channel of its own.

    Only one consumer at a time reads it: the broker lets one be active, and one that finds another
    does not subscribe. It reads the shard's queue only while it has this one, and begins with that
    only when it has read all that waits.
    """

    queue: str
    tag: str
    channel: Channel
    probes: Probes
    retries: OrderedRetries
    closed: bool = False
    cancelled: bool = False  # by the broker, which has taken back what was delivered
    arrived_at: float = 0.0  # when a message came last

    @classmethod
    def open(
        cls,
        connection: Connection,
        queue: str,
        tag: str,
        retries: OrderedRetries,
        on_cancel: Callable[[str], None],
    ) -> WaitingQueue | None:
        """Subscribe, and return when everything that waits was delivered.

        Returns:
            None where another consumer reads the queue.

        """
        if entities.consumers(connection, queue):
            return None
        channel = connection.channel()
        channel.auto_decode = False
        retries.subscribed(tag, queue)
        opened = cls(queue, tag, channel, Probes(channel, queue, pause_seconds=0.0), retries)

        def cancel(consumer_tag: str) -> None:
            opened.cancelled = True
            on_cancel(consumer_tag)

        channel.basic_qos(0, PREFETCH, False)
        channel.basic_consume(
            queue, consumer_tag=tag, callback=opened._on_message, on_cancel=cancel
        )
        # Behind everything that waits: what a consumer before this one had is in the queue again
        # when the broker lets this one be active.
        opened.probes.put()
        # The probe comes late where much waits: it is lost only when nothing else comes either.
        while opened.probes.awaited and not (opened.probes.lost and opened.silent):
            try:
                connection.drain_events(timeout=0.1)
            except TimeoutError:
                continue
        if opened.probes.awaited:  # another consumer was faster
            opened.close()
            return None
        retries.records.began()
        return opened

    @property
    def silent(self) -> bool:
        """Whether nothing has come for longer than a probe takes."""
        return time.monotonic() > self.arrived_at + LOST_SECONDS

    def _on_message(self, message: Any) -> None:
        if self.closed:
            return  # it comes again
        self.arrived_at = time.monotonic()
        headers = message.properties.get("application_headers") or {}
        if FENCE in headers:  # also one whose consumer is no more
            self.probes.came(message.properties.get("message_id"))
            self.channel.basic_ack(message.delivery_tag)
            return
        self.acknowledge(self.retries.arrived(message))

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge deliveries of this queue."""
        if self.cancelled:
            return  # the records run again, each in its place
        for delivery in deliveries:
            self.channel.basic_ack(delivery.tag)

    def renew(self, older_than: float) -> None:
        """Give back what came before a moment of the monotonic clock: the broker brings it anew.

        The broker closes the channel of a consumer that keeps a delivery for too long.
        """
        for record in self.retries.records.of_queue(self.queue):
            arrival = record.arrival
            if arrival is not None and not record.taken and arrival.arrived_at < older_than:
                self.channel.basic_reject(arrival.delivery.tag, requeue=True)
                self.retries.records.given_back(record)

    def close(self) -> None:
        """Give back what waits, and know of it no more."""
        self.closed = True
        self.retries.closed(self.queue)
        if self.channel.is_open:
            self.channel.close()


class WaitingQueues:
    """The waiting queues that one consumer reads beside its queues."""

    def __init__(
        self,
        topology: Topology,
        consumer: Consumer,
        retries: OrderedRetries,
        *,
        report: Callable[[str], None],
        count: Callable[[int], None],
    ) -> None:
        """Read none yet.

        Args:
            topology: of the system.
            consumer: whose records these are.
            retries: knows the records that wait.
            report: called with why the consumer holds, and with "" once it does not any more.
            count: called with how many records wait when that has changed.

        """
        self._report = report
        self._count = count
        self._counted, self._counted_at = 0, -math.inf
        self._topology = topology
        self._names = Names(topology)
        self._consumer = consumer
        self._retries = retries
        self._open: dict[str, WaitingQueue] = {}  # by the tag of the subscription beside it
        self._full = False
        self._renewed_at = time.monotonic()

    def __len__(self) -> int:
        """Count the records that wait."""
        return len(self._retries.records)

    def open(
        self, connection: Connection, queue: str, tag: str, on_cancel: Callable[[str], None]
    ) -> bool:
        """Read what waits for a queue; False where another consumer does.

        Args:
            connection: of the consumer.
            queue: that is to be read.
            tag: of the subscription to it.
            on_cancel: called with that tag when the waiting queue is deleted, or moved.

        """
        name = self._names.waiting(queue)
        if tag not in self._open:
            channel = connection.channel()
            channel.queue_declare(queue, passive=True)  # NotFound where it is gone
            entities.declare_waiting(channel, self._consumer.queue, name)
            channel.close()
            opened = WaitingQueue.open(
                connection, name, f"{tag}{BESIDE}", self._retries, lambda _: on_cancel(tag)
            )
            if opened is None:
                return False
            self._open[tag] = opened
            if len(self):
                events.info(
                    "waiting_read",
                    f"{self._consumer.name}: {len(self)} records wait so that their keys stay in"
                    " order",
                    consumer=self._consumer.name,
                    queue=name,
                    records=len(self),
                )
        self._retries.subscribed(tag, name)
        return True

    def delete(self, tag: str) -> None:
        """Delete what was opened beside a queue that another consumer has just ended."""
        opened = self._open.get(tag)
        if opened is not None and not self._retries.records.of_queue(opened.queue):
            opened.channel.queue_delete(opened.queue)
        self.close(tag)

    def close(self, tag: str = "") -> None:
        """Read no more what waits beside a subscription, or beside all."""
        for each in [tag] if tag else [*self._open]:
            opened = self._open.pop(each, None)
            if opened is not None:
                opened.close()
        if not self._open:
            self.forget()

    def forget(self) -> None:
        """Forget all, as the connection is lost: the broker delivers it again."""
        for opened in self._open.values():
            opened.closed = True
        self._open.clear()
        self._retries.forget()
        self._look()
        if self._full:
            self._full = False
            self._report("")

    def seconds_until_due(self) -> float:
        """Return how long it takes until a record may run; infinity without any."""
        return max(self._retries.seconds_until_due(), 0.0) if len(self) else math.inf

    def full(self) -> bool:
        """Whether so many records wait that no more may come; it is logged when that changes."""
        if not self._counted and not len(self):
            return False
        self._look()
        limit = self._consumer.queue.waiting_limit
        if len(self) >= limit and not self._full:
            self._full = True
            reason = (
                f"{len(self)} records wait so that their keys stay in order, as many as"
                " waiting_limit allows; it goes on when they are handled, or are dead letters"
            )
            events.warning(
                "waiting_limit",
                f"{self._consumer.name} holds: {reason}",
                consumer=self._consumer.name,
                records=len(self),
            )
            self._report(reason)
        elif self._full and len(self) <= limit * GO_ON_SHARE:
            self._full = False
            events.info(
                "waiting_resumed",
                f"{self._consumer.name} goes on: {len(self)} records wait",
                consumer=self._consumer.name,
                records=len(self),
            )
            self._report("")
        return self._full

    def take(self, most: int, alone: Callable[[str], bool]) -> list[Delivery]:
        """Return waiting records that run now; as OrderedRetries.take()."""
        return self._retries.take(most, alone)

    def put_back(self, deliveries: Sequence[Delivery]) -> None:
        """Let waiting records that were taken wait on."""
        self._retries.put_back(deliveries)

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge those deliveries of waiting queues that were handled."""
        for delivery in self._retries.settled(deliveries):
            self._open[delivery.consumer_tag.removesuffix(BESIDE)].acknowledge([delivery])

    @property
    def unsettled(self) -> bool:
        """Whether a message may be in a waiting queue that is not known, after an outage."""
        return self._retries.unsettled or self._retries.abandoned

    def _look(self) -> None:
        """Report how many records wait, where that has changed."""
        now = time.monotonic()
        if len(self) != self._counted and (not len(self) or now > self._counted_at + COUNT_SECONDS):
            self._counted, self._counted_at = len(self), now
            self._count(len(self))

    def renew(self, timeout_seconds: float) -> None:
        """Give back and take again what would get too old; to be called often.

        Args:
            timeout_seconds: after which the broker takes a delivery back; infinity where that is
                not known.

        """
        self._look()
        now, age = time.monotonic(), min(RENEWED_SECONDS, timeout_seconds * RENEWED_SHARE)
        if now < self._renewed_at + age / 2:
            return
        self._renewed_at = now
        for opened in self._open.values():
            opened.renew(now - age / 2)

    def move_on(self, connection: Connection, queue: str, tag: str) -> bool:
        """Send what waits for a shard's queue that ends to where its keys go on.

        Each record goes to the waiting queue of the shard that owns its key in the next
        generation. That shard begins only when the old one is gone. Where it could not take so
        many, what waits is handled here.

        Args:
            connection: of the consumer.
            queue: that ends.
            tag: of the subscription to it.

        Returns:
            Whether nothing waits for the queue any more.

        """
        name = self._names.waiting(queue)
        records = self._retries.records.of_queue(name)
        if not records:
            return True
        exchange = self._consumer.queue.exchange
        if {"hash-header", "hash-property"} & {*self._topology.exchanges[exchange].arguments}:
            return False  # what the ring hashes is not the routing key
        arrivals = [record.arrival for record in records if record.arrival is not None]
        if len(arrivals) < len(records):
            return False  # they have failed again, and are on their way here
        generation = following(connection, self._topology, exchange, queue)
        if generation is None:
            return False
        ring = Ring.of(generation.members)
        targets = [
            self._names.waiting(
                self._names.member(generation, ring.route(arrival.delivery.original_key))
            )
            for arrival in arrivals
        ]
        channel = connection.channel()
        for target in dict.fromkeys(targets):
            entities.declare_waiting(channel, self._consumer.queue, target)
        channel.close()
        for target, count in Counter(targets).items():
            if (broker.count(connection, target) or 0) + count > MOST_MOVED:
                return False  # what waits is handled here, until there is room
        letters = [
            (portable(arrival.message), "", target)
            for arrival, target in zip(arrivals, targets, strict=True)
        ]
        with PatientPublisher(connection) as publisher:
            publisher.publish(letters)
        # From the end: what a crash leaves here are each key's first records, not its later ones.
        self._open[tag].acknowledge([arrival.delivery for arrival in reversed(arrivals)])
        for record in records:
            self._retries.records.done(record)
        events.info(
            "waiting_moved",
            f"{self._consumer.name}: {len(records)} records that wait go on in generation"
            f" {generation.digest}",
            consumer=self._consumer.name,
            queue=queue,
            records=len(records),
        )
        return True
