"""A subscription to one waiting queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from feedbus.broker import lookups
from feedbus.dispatch.ordered_retries import OrderedRetries
from feedbus.generations.probes import LOST_SECONDS, Probes
from feedbus.wire import Delivery
from feedbus.wire.amqp_protocols import Channel, Connection
from feedbus.wire.constants import FENCE

PREFETCH = 65_535  # the maximum of AMQP; 0 would mean 2,000 for a quorum queue


@dataclass(slots=True)
class WaitingQueue:
    """A subscription to one waiting queue, on a separate channel.

    Only one consumer at a time reads it: the broker lets one consumer be active, and a consumer
    does not subscribe if there is another. A consumer reads the shard's queue only while it reads
    this one, and only after it has read all waiting records.
    """

    queue: str
    tag: str
    channel: Channel
    probes: Probes
    retries: OrderedRetries
    closed: bool = False
    cancelled: bool = False  # by the broker; the deliveries have returned to the queue
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
        """Subscribe, and return when all waiting records were delivered.

        Returns:
            None if another consumer reads the queue.

        """
        if lookups.consumers(connection, queue):
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
        # The probe is behind all waiting records: when the broker makes this consumer the active
        # one, the deliveries of the previous consumer have returned to the queue.
        opened.probes.put()
        # If many records wait, the probe arrives late. It counts as lost only if nothing arrives at
        # all.
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
        """Whether nothing has arrived for longer than a probe takes."""
        return self.channel.connection.clock.monotonic() > self.arrived_at + LOST_SECONDS

    def _on_message(self, message: Any) -> None:
        if self.closed:
            return  # it is delivered again
        self.arrived_at = self.channel.connection.clock.monotonic()
        headers = message.properties.get("application_headers") or {}
        if FENCE in headers:  # also one whose consumer has ended
            self.probes.came(message.properties.get("message_id"))
            self.channel.basic_ack(message.delivery_tag)
            return
        self.acknowledge(self.retries.arrived(message))

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge deliveries of this queue."""
        if self.cancelled:
            return  # the records run again, each in its position
        for delivery in deliveries:
            self.channel.basic_ack(delivery.tag)

    def renew(self, older_than: float) -> None:
        """Return deliveries from before a time, so that the broker delivers them again.

        The broker closes the channel of a consumer that keeps a delivery for too long.
        """
        for record in self.retries.records.of_queue(self.queue):
            arrival = record.arrival
            if arrival is not None and not record.taken and arrival.arrived_at < older_than:
                self.channel.basic_reject(arrival.delivery.tag, requeue=True)
                self.retries.records.given_back(record)

    def close(self) -> None:
        """Return all waiting records to the queue, and forget them."""
        self.closed = True
        self.retries.closed(self.queue)
        if self.channel.is_open:
            self.channel.close()
