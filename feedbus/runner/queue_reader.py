"""The reader of one queue. It deletes an old queue when the queue is proved to be empty.

Old queues belong to older generations of a ring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from amqp.exceptions import AccessRefused

from feedbus.broker.acknowledging import acknowledge
from feedbus.generations.consumer_queues import ReadableQueue
from feedbus.generations.probes import Probes, delete_empty_queue
from feedbus.runner.settlement import Settlement
from feedbus.wire.amqp_protocols import Channel, Connection


@dataclass(slots=True)
class QueueReader:
    """A subscription of a consumer to one queue, on a separate channel.

    An error that closes this channel closes no other one. The object is used until the subscription
    or the connection ends.

    A queue is *ending* if it is to be deleted when it is empty. An ending queue always contains a
    fence, a message that marks the end, unless the queue is full. The reader publishes the next
    fence, and only then settles the previous one. The last fence is deleted with the queue. So if
    this consumer is killed, the next consumer receives a fence from the queue.

    The fences that the reader publishes are probes: fences with a random id. The queue is proved to
    be empty when two probes have returned, and no other message has arrived between them.

    Attributes:
        source: the queue, and how it is read.
        tag: the consumer tag of the subscription.
        channel: the channel of the subscription.
        probes: proves that an ending queue is empty.
        has_delivered: whether the queue has delivered a message on this subscription.
        fence_due_at: when to process a fence that had to be postponed, as a time of the monotonic
            clock.
        last_fence_tag: the delivery tag of the latest fence. 0 if no fence is unsettled.
        is_removed: whether the queue was removed from the topology. The consumer finds this out
            when it processes a fence of the queue.

    """

    source: ReadableQueue
    tag: str
    channel: Channel
    probes: Probes
    has_delivered: bool = False
    fence_due_at: float = -math.inf
    last_fence_tag: int = 0
    is_removed: bool = False

    @classmethod
    def begin(  # noqa: PLR0913 -- a subscription's parts, each given by name
        cls,
        connection: Connection,
        source: ReadableQueue,
        *,
        tag: str,
        prefetch: int,
        pause_seconds: float,
        on_message: Callable[[Any], None],
        on_cancel: Callable[[str], None],
    ) -> QueueReader | None:
        """Subscribe to a queue.

        This method is called for each queue to read, and again later if the result was None.

        Args:
            connection: the connection of the consumer.
            source: the queue, and how it is read.
            tag: the consumer tag of the subscription.
            prefetch: how many unsettled deliveries the broker may send.
            pause_seconds: the time between two probes. A message that is still on its way in a
                cluster arrives in this time.
            on_message: called with each message that is delivered.
            on_cancel: called with the tag when the broker cancels the subscription.

        Returns:
            The reader. None if the broker refuses the subscription, because another consumer reads
            the queue, and at least one of the two subscribes exclusively.

        Raises:
            AccessRefused: the user has no permission to read the queue.
            NotFound: the queue does not exist.

        """
        channel = connection.channel()
        channel.auto_decode = False
        channel.basic_qos(0, prefetch, False)
        try:
            channel.basic_consume(
                source.queue,
                consumer_tag=tag,
                exclusive=source.exclusive,
                callback=on_message,
                on_cancel=on_cancel,
            )
        except AccessRefused as error:
            if "exclusive" not in str(error.reply_text):
                raise  # the user has no permission to read the queue
            if channel.is_open:
                channel.close()
            return None
        probes = Probes(
            channel, source.queue, pause_seconds=pause_seconds, fence_needed=source.needs_fence
        )
        return cls(source, tag, channel, probes)

    @property
    def queue(self) -> str:
        """The name of the queue on the broker."""
        return self.source.queue

    @property
    def may_be_empty(self) -> bool:
        """Whether delete_if_empty() must be called.

        There are two cases. If two probes have returned, delete_if_empty() can delete the queue. If
        a probe is lost, delete_if_empty() publishes another one.
        """
        return self.probes.is_lost or (self.probes.is_proved and not self.probes.is_pending)

    def settle_up_to(self, delivery_tag: int) -> None:
        """Acknowledge the delivery with this tag and all earlier deliveries of the queue.

        The batch mode calls this after a batch, if all earlier deliveries are handled.

        Args:
            delivery_tag: the delivery tag of the latest delivery to acknowledge.

        """
        self.channel.basic_ack(delivery_tag, multiple=True)
        self.probes.restart_proof()

    def settle_each(self, delivery_tags: Sequence[int]) -> None:
        """Acknowledge these deliveries, and none that came before them.

        Args:
            delivery_tags: the delivery tags.

        """
        acknowledge(self.channel, delivery_tags)
        self.probes.restart_proof()

    def settle_done(self, settlement: Settlement) -> None:
        """Acknowledge the deliveries of the queue that are done.

        The concurrent mode calls this when deliveries are done.

        Args:
            settlement: the deliveries of this subscription, and which of them are done. A delivery
                is done when its records are handled, and the resulting messages are confirmed.

        """
        up_to, single = settlement.take_acknowledgeable()
        if up_to:
            self.channel.basic_ack(up_to, multiple=True)
        if single:
            acknowledge(self.channel, single)
        if up_to or single:
            self.probes.restart_proof()

    def count_consumers(self) -> int:
        """Count the queue's consumers, including this one; 0 if the queue's leader is down.

        This method is called before an old queue is deleted: only its last reader may delete it.
        """
        return self._count()[1]

    def accept_fence(self, delivery_tag: int, message_id: str) -> None:
        """Process a fence of an ending queue: publish a probe, unless two probes have returned.

        All earlier deliveries of the queue must be settled before this call. The consumer calls
        this when it receives the fence.

        Args:
            delivery_tag: the delivery tag of the fence.
            message_id: the id of the fence, which shows whether it is the probe that is awaited.

        """
        self.last_fence_tag = delivery_tag
        if not (self.probes.count_if_probe(message_id) and self.probes.is_proved):
            self._publish_next_probe()

    def discard_fence(self, delivery_tag: int) -> None:
        """Settle a fence of a queue that is in use again, without putting another fence into it.

        Args:
            delivery_tag: the delivery tag of the fence.

        """
        self.probes.abandon()
        acknowledge(self.channel, [*filter(None, [self.last_fence_tag]), delivery_tag])
        self.last_fence_tag = 0

    def delete_if_empty(self, in_flight: Callable[[], bool]) -> bool:
        """Delete the queue if it is proved to be empty; otherwise publish another probe.

        This method is called when may_be_empty is true.

        Args:
            in_flight: returns whether deliveries of this queue are in the buffer, or a handler has
                them now.

        Returns:
            Whether the queue was deleted.

        """
        # The queue must have exactly one consumer, this one. If the leader of a quorum queue is
        # unavailable, the broker reports 0 messages and 0 consumers, which proves nothing.
        if self.probes.is_proved and self._count() == (0, 1) and not in_flight():
            self.channel.basic_cancel(self.tag)
            delete_empty_queue(self.channel, self.queue)
            self.close()
            return True
        self._publish_next_probe()
        return False

    def _publish_next_probe(self) -> None:
        """Publish the next probe if none is in the queue; then settle the previous fence.

        A full queue refuses the probe. The previous fence is settled even then, to make room.
        Later, Fences.put_missing() publishes another fence.
        """
        if not self.probes.is_pending or self.probes.is_lost:
            self.probes.put_probe()
        if self.last_fence_tag:
            self.channel.basic_ack(self.last_fence_tag)
            self.last_fence_tag = 0

    def close(self) -> None:
        """End the subscription; the broker puts all unsettled deliveries back into the queue.

        This method is called when the consumer stops reading the queue.
        """
        if self.channel.is_open:
            self.channel.close()

    def _count(self) -> tuple[int, int]:
        """Return how many ready messages and how many consumers the queue has."""
        declared = self.channel.queue_declare(self.queue, passive=True)
        return int(declared.message_count), int(declared.consumer_count)
