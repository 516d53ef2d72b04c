"""A subscription to a waiting queue, which has failed records and later records of their keys.

A waiting queue also has these messages:

- a probe, which the consumer itself publishes. When the probe returns, the consumer has received
  everything that was in the queue before. A probe has the header of a fence, and a random id;
- a notice, which reports that the ring has changed. It has the header of a fence, but no id;
- a request to release keys. Example: with `block_on_dead`, a dead letter blocks its key, and
  `feedbus dead drop` drops the dead letter. Then the later records of the key may be handled.
"""

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

    The object is used until the subscription or the connection ends.

    Only one consumer at a time reads the waiting queue: the broker lets one consumer be active, and
    a consumer does not subscribe if there is another. Each queue of a consumer has a waiting queue.
    The consumer first reads all records in the waiting queue, and then subscribes to the queue.

    A waiting queue is *ending* if its shard belongs to an older generation, and its records are to
    be moved to the waiting queues of a later generation.

    Attributes:
        queue: the name of the waiting queue on the broker.
        tag: the consumer tag of the subscription.
        channel: the channel of the subscription.
        probes: the probes in the waiting queue.
        deliveries: gets the deliveries of the queue.
        is_closed: whether the subscription has ended, also because the connection was lost.
        generation_number: the number of the queue's generation.
        on_notice: called with the body of a notice.
        is_ending: whether the queue is ending, so that no record is moved here any more.
        is_cancelled: whether the broker has cancelled the subscription.
        arrived_at: when the last message arrived, as a time of the monotonic clock.
        is_read: whether all messages have arrived that were here when the subscription began.
        releases: the requests to release keys that have arrived and are not applied at once. A key
            is released when the dead letter that blocks it was dropped (`block_on_dead`). There are
            two cases. While `is_read` is False, the message that blocks a key can arrive later
            than the request. While `is_ending` is True, this message may already have been moved to
            another waiting queue.

    """

    queue: str
    tag: str
    channel: Channel
    probes: Probes
    deliveries: WaitingDeliveries
    is_closed: bool = False
    generation_number: int = 0
    on_notice: Callable[[Any], None] = lambda _: None
    is_ending: bool = False
    is_cancelled: bool = False
    arrived_at: float = 0.0
    is_read: bool = False
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
        """Subscribe to a waiting queue, and return when all waiting records were delivered.

        Args:
            connection: the connection of the consumer.
            queue: the name of the waiting queue on the broker.
            tag: the consumer tag of the subscription.
            deliveries: gets the deliveries of the queue.
            on_cancel: called with the tag when the broker cancels the subscription.
            generation_number: the number of the queue's generation.
            on_notice: called with the body of a notice, which reports that the ring has changed.

        Returns:
            The subscription; None if this must be tried again later. There are two cases: another
            consumer reads the queue; or the broker has refused the probe, the message that this
            method puts behind the waiting records.

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
            # The pause before a further probe is needed only to prove that a queue is empty.
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
        # The broker makes this consumer the active one only after the deliveries of the previous
        # consumer have returned to the queue. So the probe is behind all waiting records.
        waiting_queue.probes.put_probe()
        # If many records wait, the probe returns late. So the probe counts as lost only if nothing
        # arrives at all.
        while waiting_queue.probes.is_pending and not (
            waiting_queue.probes.is_lost and waiting_queue.is_silent
        ):
            try:
                connection.drain_events(timeout=0.1)
            except TimeoutError:
                continue
        if waiting_queue.probes.is_pending or waiting_queue.probes.fence_needed:
            # Another consumer has subscribed first, and is active. Or the broker has refused the
            # probe, for example because a policy limits the length of the queue. So it is not known
            # which records wait.
            waiting_queue.close()
            return None
        deliveries.mark_complete(tag)  # so that records delivered twice are recognised
        waiting_queue.is_read = True
        for request in waiting_queue.releases:
            waiting_queue.acknowledge(deliveries.add(request))
        waiting_queue.releases.clear()
        return waiting_queue

    def is_complete(self) -> bool:
        """Return whether all records that were moved here before the first call have arrived.

        The first call marks the queue as ending, and publishes a probe. No consumer moves records
        to an ending queue, and records that were moved here earlier arrive before the probe.

        WaitingRecordMover calls this repeatedly, before it moves the records to another shard.
        """
        if not self.is_ending:
            self.is_ending = True
            self.probes.put_probe()
        return self.check_probe()

    def apply_releases(self) -> None:
        """Release the keys that the requests in `releases` name.

        The dead letters of these keys were dropped. The messages in the waiting queue that kept the
        keys blocked are acknowledged here. The requests stay in `releases`, because such a message
        may also be in a later waiting queue: WaitingRecordMover moves the requests there later.

        This method is called before the records of an ending queue are moved to other shards.
        """
        for request in self.releases:
            blocking = self.deliveries.key_releases.release(Delivery.of(request), self.queue)
            self.acknowledge(blocking)

    def check_probe(self) -> bool:
        """Return whether the probe, a fence with a random id, has returned from the queue.

        All messages that were in the queue before the probe have then arrived. If the probe is lost
        or was refused, it is published again. The method is called often.
        """
        if self.is_closed:
            return True  # nothing to wait for: the next subscription reads all records again
        if self.probes.fence_needed or (self.probes.is_lost and self.is_silent):
            self.probes.put_probe()
        return not (self.probes.is_pending or self.probes.fence_needed)

    @property
    def is_silent(self) -> bool:
        """Whether no message has arrived from the queue for some seconds (LOST_SECONDS).

        While messages arrive, a probe does not count as lost: if many messages are in front of the
        probe, it returns late. check_probe() and open() read this property.
        """
        return self.channel.connection.clock.monotonic() > self.arrived_at + LOST_SECONDS

    def _on_message(self, message: Any) -> None:
        if self.is_closed:
            return  # the broker delivers the message again
        self.arrived_at = self.channel.connection.clock.monotonic()
        headers = message.properties.get("application_headers") or {}
        if FENCE in headers:  # a notice, or a probe of this consumer or of an earlier one
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
        """Acknowledge deliveries of this queue, if the subscription was not cancelled.

        Args:
            deliveries: deliveries of this subscription, whose records no longer wait.

        """
        if self.is_cancelled:
            return  # the broker delivers these messages again, and their records run again
        if deliveries:
            acknowledge(self.channel, [delivery.tag for delivery in deliveries])

    def renew(self, older_than: float) -> None:
        """Return old deliveries to the broker, which delivers them again.

        The broker closes the channel of a consumer that keeps a delivery for too long. Records that
        handlers have now are not returned. WaitingQueues calls this at regular intervals.

        Args:
            older_than: a time of the monotonic clock, in seconds. Deliveries that arrived before it
                are returned.

        """
        for record in self.deliveries.records.records_in(self.queue):
            arrival = record.arrival
            if arrival is not None and not record.is_taken and arrival.arrived_at < older_than:
                self.channel.basic_reject(arrival.delivery.tag, requeue=True)
                record.arrival = None  # until the broker delivers it again

    def close(self) -> None:
        """End the subscription: the waiting records return to the queue, and are forgotten here.

        This method is called when the consumer stops reading the queue to which this waiting queue
        belongs.
        """
        self.is_closed = True
        self.deliveries.forget_subscription(self.tag)
        if self.channel.is_open:
            self.channel.close()
