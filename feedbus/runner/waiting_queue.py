"""A subscription to a waiting queue, which has failed records and later ones of their keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from feedbus.broker import lookups
from feedbus.broker.acknowledging import acknowledge
from feedbus.dispatch.waiting_deliveries import WaitingDeliveries
from feedbus.generations.probes import LOST_SECONDS, Probes
from feedbus.wire import Delivery
from feedbus.wire.amqp_protocols import Channel, Connection
from feedbus.wire.constants import FENCE, RELEASE

PREFETCH = 65_535  # the maximum of AMQP; 0 would mean 2,000 for a quorum queue


@dataclass(slots=True)
class WaitingQueue:
    """A subscription to one waiting queue, on a separate channel.

    Only one consumer at a time reads it: the broker lets one consumer be active, and a consumer
    does not subscribe if there is another. A consumer reads the shard's queue only while it reads
    the waiting queue, and only after it has read all records in the waiting queue.
    """

    queue: str
    tag: str
    channel: Channel
    probes: Probes
    deliveries: WaitingDeliveries
    is_closed: bool = False
    generation_number: int = 0  # the number of the queue's generation
    on_notice: Callable[[Any], None] = lambda _: None
    is_ending: bool = False  # whether no record is moved here any more
    is_cancelled: bool = False  # the broker has cancelled the subscription
    arrived_at: float = 0.0  # when the last message arrived
    is_read: bool = False  # whether all messages have arrived that were here at the beginning
    # Messages that release keys, and that are not applied on arrival:
    # - before `is_read`, the messages that block these keys can be behind them in the queue;
    # - while the queue is ending, their records may just be moved.
    releases: list[Any] = field(default_factory=list)

    @classmethod
    def open(  # noqa: PLR0913, PLR0917 -- a subscription's parts
        cls,
        connection: Connection,
        queue: str,
        tag: str,
        deliveries: WaitingDeliveries,
        on_cancel: Callable[[str], None],
        generation_number: int = 0,
        on_notice: Callable[[Any], None] = lambda _: None,
    ) -> WaitingQueue | None:
        """Subscribe, and return when all waiting records were delivered.

        Args:
            connection: the connection of the consumer.
            queue: the waiting queue.
            tag: the tag of the subscription.
            deliveries: gets the deliveries of the queue.
            on_cancel: called with the tag when the broker cancels the subscription.
            generation_number: the number of the queue's generation.
            on_notice: called with the body of a fence that reports a change of the ring.

        Returns:
            None if another consumer reads the queue.

        """
        if lookups.count_consumers(connection, queue):
            return None
        channel = connection.channel()
        channel.auto_decode = False
        deliveries.add_subscription(tag, queue, generation_number)
        waiting_queue = cls(
            queue,
            tag,
            channel,
            Probes(channel, queue, pause_seconds=0.0),
            deliveries,
            generation_number=generation_number,
            on_notice=on_notice,
        )

        def cancel(consumer_tag: str) -> None:
            waiting_queue.is_cancelled = True
            on_cancel(consumer_tag)

        channel.basic_qos(0, PREFETCH, False)
        channel.basic_consume(
            queue, consumer_tag=tag, callback=waiting_queue._on_message, on_cancel=cancel
        )
        # The probe, a fence with a random id, is behind all waiting records: when the broker makes
        # this consumer the active one, the deliveries of the previous consumer have returned to the
        # queue.
        waiting_queue.probes.put_probe()
        # If many records wait, the probe arrives late. It counts as lost only if nothing arrives at
        # all.
        while waiting_queue.probes.is_pending and not (
            waiting_queue.probes.is_lost and waiting_queue.is_silent
        ):
            try:
                connection.drain_events(timeout=0.1)
            except TimeoutError:
                continue
        if waiting_queue.probes.is_pending:  # another consumer was faster
            waiting_queue.close()
            return None
        deliveries.mark_complete()
        waiting_queue.is_read = True
        for message in waiting_queue.releases:
            waiting_queue.acknowledge(deliveries.add(message))
        waiting_queue.releases.clear()
        return waiting_queue

    def is_complete(self) -> bool:
        """Return whether all records that were moved here before the first call have arrived.

        The first call is made when the queue is ending: from then on no consumer moves a record
        here. But a record that was moved here earlier may not have been delivered yet.
        """
        if not self.is_ending:
            self.is_ending = True
            self.probes.put_probe()
        return self.check_probe()

    def apply_releases(self) -> None:
        """Release the keys that the messages in `releases` name; the messages remain."""
        for message in self.releases:
            self.acknowledge(self.deliveries.release_keys(Delivery.of(message)))

    def check_probe(self) -> bool:
        """Return whether the probe has returned; publish another one if it is lost."""
        if self.is_closed:
            return True  # the next subscription reads its records again
        if self.probes.fence_needed or (self.probes.is_lost and self.is_silent):
            self.probes.put_probe()
        return not (self.probes.is_pending or self.probes.fence_needed)

    @property
    def is_silent(self) -> bool:
        """Whether nothing has arrived for longer than a probe takes."""
        return self.channel.connection.clock.monotonic() > self.arrived_at + LOST_SECONDS

    def _on_message(self, message: Any) -> None:
        if self.is_closed:
            return  # the broker delivers the message again
        self.arrived_at = self.channel.connection.clock.monotonic()
        headers = message.properties.get("application_headers") or {}
        if FENCE in headers:  # a probe, perhaps of an earlier consumer, or a notice
            message_id = message.properties.get("message_id")
            self.probes.count_if_probe(message_id)
            self.channel.basic_ack(message.delivery_tag)
            if not message_id:
                self.on_notice(message.body)
            return
        if RELEASE in headers and (self.is_ending or not self.is_read):
            self.releases.append(message)
        else:
            self.acknowledge(self.deliveries.add(message))

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge deliveries of this queue."""
        if self.is_cancelled:
            return  # each of these records runs again in its position
        if deliveries:
            acknowledge(self.channel, [delivery.tag for delivery in deliveries])

    def renew(self, older_than: float) -> None:
        """Return deliveries that arrived before a time; the broker delivers them again.

        The broker closes the channel of a consumer that keeps a delivery for too long.
        """
        for record in self.deliveries.records.records_in(self.queue):
            arrival = record.arrival
            if arrival is not None and not record.is_taken and arrival.arrived_at < older_than:
                self.channel.basic_reject(arrival.delivery.tag, requeue=True)
                record.arrival = None  # until the broker delivers it again

    def close(self) -> None:
        """Return all waiting records to the queue, and forget them."""
        self.is_closed = True
        self.deliveries.forget_subscription(self.tag)
        if self.channel.is_open:
            self.channel.close()
