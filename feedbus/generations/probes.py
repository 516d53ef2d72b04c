"""Prove that a queue is empty: two probes arrive from it, and no message between them.

A queue must not be deleted while a message is in it. RabbitMQ cannot check this: for quorum queues,
it does not implement the options if-empty and if-unused of a deletion. The message count alone is
no proof. If the leader of a quorum queue is unavailable, or takes longer than 250 ms to answer, the
broker reports 0 messages and 0 consumers.

A *fence* is a message that marks the end of a queue. A *probe* is a fence with a random id, so no
other message is mistaken for it. The queue is first in, first out. So a probe that returns proves
that every earlier message in the queue was delivered before it. But a message can reach the queue
late, for example if a quorum queue elected a leader meanwhile. So a second probe is published some
time after the first has returned. The queue is empty if all of these are true:

- No other message arrives between the two probes.
- The only reader of the queue has settled all earlier messages.
- The broker's message count is 0.
"""

from __future__ import annotations

import math

from feedbus.broker.publisher import publish_all
from feedbus.logs import EventLog
from feedbus.units import counted
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Channel
from feedbus.wire.constants import FENCE

events = EventLog(__name__)

NEEDED_PROBES = 2  # how many probes must return with no other message between them
FULL_SECONDS = 0.5  # between two attempts to put a fence into a queue that is full
LOST_SECONDS = 5.0  # a probe that has not returned after this time counts as lost


def fence_message(queue: str, mark: str, message_id: str = "", body: bytes = b"") -> Outgoing:
    """Return a fence, a probe or a notice: a message with the header FENCE.

    A fence marks the end of a queue. A probe is a fence with a random id. A notice is a message in
    a waiting queue; it reports that the ring has changed.

    Args:
        queue: the name of the queue on the broker.
        mark: the value of the header. For a notice, and for a fence that follows a switch, it is
            the digest of the old ring. For all other messages, it is the name of a queue.
        message_id: the id of a probe; else "".
        body: the new generation for a notice; else empty.

    """
    return Outgoing(
        "", queue, body, None, message_id, {FENCE: mark}, content_encoding=None, stamp=None
    )


class Probes:
    """The probes in one queue, and what they have proved.

    The queue has only one reader. The object is used as long as the subscription of this reader.

    A full queue may refuse a probe until the reader has settled messages. So the reader does not
    wait for room: it continues to read, and puts a fence into the queue later. When the reader
    receives this fence, it publishes a probe again.
    """

    def __init__(
        self, channel: Channel, queue: str, *, pause_seconds: float, fence_needed: bool = False
    ) -> None:
        """Start without a probe.

        Args:
            channel: any channel of the connection that reads the queue.
            queue: the name of the queue on the broker.
            pause_seconds: the pause before the second probe. It is the longest time that a routed
                message needs to arrive in its queue (broker.in_flight_seconds()).
            fence_needed: whether the queue may have no fence, so that the reader puts one into it.

        """
        self._channel = channel
        self._clock = channel.connection.clock
        self._queue = queue
        self._pause_seconds = pause_seconds
        self._pending_id = ""  # the id of the probe that has not returned; "" if there is none
        # When a probe or a fence was last published, or the fence was postponed.
        self._put_at = -math.inf
        self._returned = 0  # how many probes have returned with no other message between them
        self.fence_needed = fence_needed

    @property
    def is_pending(self) -> bool:
        """Whether a probe is in the queue and has not returned."""
        return bool(self._pending_id)

    @property
    def is_lost(self) -> bool:
        """Whether a probe has not returned for so long that it counts as lost."""
        return self.is_pending and self._clock.monotonic() > self._put_at + LOST_SECONDS

    @property
    def is_fence_due(self) -> bool:
        """Whether to publish a fence now, because the queue may have none; called often."""
        return self.fence_needed and self._clock.monotonic() > self._put_at + FULL_SECONDS

    @property
    def is_proved(self) -> bool:
        """Whether two probes have returned with no other message between them.

        Then the queue is empty if the reader has settled all earlier messages and the broker's
        message count is 0.
        """
        return self._returned >= NEEDED_PROBES

    def put_probe(self) -> None:
        """Publish the next probe to the end of the queue.

        If the queue is full and refuses the probe, `fence_needed` becomes True. Then the reader
        publishes a fence in place of the probe, when is_fence_due is True.

        The reader calls this when it receives a fence, or when a probe is lost.

        Raises:
            Outage: the broker does not confirm the probe.

        """
        if self._returned:
            self._clock.sleep(self._pause_seconds)
        # The id is noted before the publish, because the probe may return before its confirm.
        self._pending_id = self._clock.unique()
        self._publish(self._pending_id)
        if self.fence_needed:
            self._pending_id = ""

    def put_fence(self) -> None:
        """Publish a fence to a queue that may have none, for example because it was full.

        The fence is not a probe: it has no id. When the reader receives the fence, it publishes the
        first probe, if the queue is old and gets no more messages.

        Raises:
            Outage: the broker does not confirm the fence.

        """
        self._publish("")

    def postpone_fence(self) -> None:
        """Make is_fence_due False for FULL_SECONDS (0.5 s).

        The reader calls this if a fence is due, but the queue can still get messages, because the
        switch that replaces the queue is not complete.
        """
        self._put_at = self._clock.monotonic()

    def _publish(self, message_id: str) -> None:
        message = fence_message(self._queue, self._queue, message_id)
        refusals = publish_all(self._channel.connection, [message], nacked_seconds=0.0)
        self.fence_needed = any(each.outcome == "nacked" for each in refusals)
        self._put_at = self._clock.monotonic()

    def count_if_probe(self, message_id: object) -> bool:
        """Return whether a message is the awaited probe; if so, count the probe as returned.

        The reader calls this for each fence that it receives.

        Args:
            message_id: the id of the fence.

        """
        if not self._pending_id or message_id != self._pending_id:
            return False
        self._pending_id = ""
        self._returned += 1
        return True

    def abandon(self) -> None:
        """Forget the pending probe and the proof, because the queue is in use again.

        The queue had been removed from the topology, and was added to the topology again.
        """
        self._pending_id = ""
        self._returned = 0

    def restart_proof(self) -> None:
        """Begin the proof again, because a message other than a probe has been settled.

        The reader calls this for each such message. Then two further probes must return.
        """
        self._returned = 0


def delete_empty_queue(channel: Channel, queue: str) -> None:
    """Delete a queue that was proved to be empty; log messages that it had in spite of the proof.

    Such messages are not from feedbus, because feedbus publishes nothing to the queue any more.
    Another program has published them directly to the queue, between the proof and the deletion.

    Args:
        channel: a channel to the broker.
        queue: the name of the queue on the broker.

    """
    deleted = channel.queue_delete(queue)
    if deleted:
        count = counted(deleted, "message is", "messages are")
        events.error(
            "messages_lost",
            f"{count} lost: a program published directly to queue {queue} while feedbus deleted it;"
            " publish to the queue's exchange instead",
            queue=queue,
            messages=deleted,
        )
