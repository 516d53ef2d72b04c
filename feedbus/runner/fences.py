"""The fences of old queues: messages that mark the end of a queue, which is then deleted.

An *old queue* belongs to an older generation of its ring, or is the earlier queue of a consumer
without shards, if the queue was declared again with other arguments. After the switch to the new
queues, publishers put no message into an old queue any more, and feedbus puts a fence at its end.
Before the reader processes the fence, it has handled all earlier messages of the queue, or has put
them into the waiting queue. Then the old queue is deleted in four steps:

1. If other consumers read the queue, too, this consumer stops reading it. Only the last reader of
   the queue does the other steps.
2. If the old queue has a waiting queue, the records in it are moved to the waiting queues of the
   shards that own their keys now. Records that cannot be moved are handled first
   (feedbus.runner.waiting_record_mover).
3. A message that was on its way during the switch can still be behind the fence. So the reader
   proves that the old queue is empty: it puts two more fences into the queue, the probes, one after
   the other (feedbus.generations.probes).
4. The reader deletes the queue.

A queue that was removed from the topology ends in the same way
(feedbus.generations.removed_queues). But records that wait for their next attempt can return to
this queue, and no other queue gets its waiting records. So in place of step 2, the reader continues
to read the queue until no record waits for an earlier record of its key, and no record that is
tried again can reach the queue.

A step may not be possible yet, for example because the switch is not complete. Then the fence is
processed again later. Meanwhile, the consumer handles the deliveries of its other queues.
"""

from __future__ import annotations

from collections.abc import Callable

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.errors import UsageError
from feedbus.generations import removed_queues
from feedbus.generations.queue_phases import phase_of
from feedbus.runner.queue_reader import QueueReader
from feedbus.runner.run_state import Run
from feedbus.runner.subscriptions import Subscriptions
from feedbus.wire.amqp_protocols import RawConnection
from feedbus.wire.constants import FENCE

SWITCHING_POLL_SECONDS = 0.5  # between two checks whether the switch to a new ring is complete
RETRY_POLL_SECONDS = 0.5  # between two probes of a removed queue whose records are tried again
WAITING_POLL_SECONDS = 0.1  # between two attempts to move the waiting records of an old queue


class Fences:
    """Processes the fences that a consumer receives, and deletes the old queues that are empty.

    The object has no state of its own. So the mode of the runner has one Fences object, and each
    QueuesToRead object has another one.
    """

    def __init__(self, run: Run, subscriptions: Subscriptions) -> None:
        """Create the object.

        Args:
            run: the run of the consumer, whose buffer has the deliveries that are not handled yet.
            subscriptions: the queues that are read.

        """
        self._run = run
        self._subscriptions = subscriptions

    def next_is_fence(self) -> bool:
        """Whether the next delivery is marked as a fence.

        If a fence was postponed, and deliveries from queues of another generation have arrived, the
        buffer continues with these deliveries. Then the result is False. The modes of the runner
        ask this before each batch.
        """
        buffer = self._run.buffer
        if buffer.next_is_fence and self._seconds_until(self._next_reader()) > 0:
            buffer.go_to_lane_without_fence()
        return buffer.next_is_fence

    def process_next(self, raw: RawConnection) -> bool:
        """Process the next delivery, which is marked as a fence, or postpone it.

        A fence is postponed, for example, while the switch of the ring is not complete. Then the
        next calls of this method wait until the fence is due again.

        The mode of the runner calls this when next_is_fence() is true, and all earlier deliveries
        of the queue are settled.

        Args:
            raw: the connection of the consumer.

        Returns:
            False if the delivery is only marked as a fence: another program has published it to a
            queue that is in use. The delivery must then be handled as an ordinary message. True in
            all other cases.

        """
        run, reader = self._run, self._next_reader()
        seconds = self._seconds_until(reader)
        if seconds > 0:
            run.receive(raw, max(min(seconds, run.seconds_until_due(), run.check_seconds), 0.0))
            return True
        # If a probe of an old queue is pending, an earlier fence of this queue has already passed
        # these checks. A queue that was removed from the topology is checked each time, because it
        # can be added to the topology again.
        if not reader.probes.is_pending or reader.is_removed:
            phase = phase_of(raw, run.topology, run.consumer, reader.queue)
            reader.is_removed = phase == "removed"
            if phase == "in use":
                return self._discard_own_fence(reader)
            consumers = reader.count_consumers()
            if consumers > 1:
                self._leave_to_others(reader)
                return True
            if phase == "switching" or not consumers:  # 0 consumers: the queue's leader is down
                self._postpone(reader, SWITCHING_POLL_SECONDS)
                return True
        if reader.is_removed:
            if not self._is_detached(raw, reader):
                reader.probes.restart_proof()
                self._postpone(reader, RETRY_POLL_SECONDS)  # the next fence of this queue
        elif not self._move_waiting_records(raw, reader):
            # Some messages of the waiting queue may not have arrived yet. Until the fence is due
            # again, the next calls of this method receive deliveries, even if the buffer is full.
            self._postpone(reader, WAITING_POLL_SECONDS)
            return True
        fence = run.buffer.pop()
        reader.accept_fence(fence.tag, fence.message_id)
        return True

    def _discard_own_fence(self, reader: QueueReader) -> bool:
        """Discard the next delivery if feedbus has put it, as a fence, into a removed queue.

        The queue is in use, because the topology has the queue again. A fence of feedbus has no
        body, and names its queue.

        Returns:
            False if the delivery is from another program.

        """
        delivery = self._run.buffer.next_delivery
        if delivery.body or delivery.headers[FENCE] != reader.queue:
            return False
        reader.discard_fence(self._run.buffer.pop().tag)
        return True

    def _is_detached(self, raw: RawConnection, reader: QueueReader) -> bool:
        """Whether a queue that was removed from the topology can get no more records.

        The result is also False if another process holds the topology's lock on the broker. After
        False, the caller checks again later.
        """
        topology = self._run.topology
        try:
            with broker.locked(raw, topology, wait_seconds=0.0):
                return removed_queues.is_marked(
                    raw, Names(topology), reader.queue
                ) and not self._can_get_records(raw, reader)
        except UsageError:  # another process has the lock
            return False

    def _can_get_records(self, raw: RawConnection, reader: QueueReader) -> bool:
        """Whether records of a removed queue still wait, or can return to it from a retry queue.

        A removed queue is not in the topology any more. The caller holds the topology's lock on the
        broker.
        """
        run = self._run
        return bool(run.waiting) or removed_queues.can_get_retries(
            raw, run.topology, run.consumer.queue, reader.queue
        )

    def _leave_to_others(self, reader: QueueReader) -> None:
        """Stop reading an old queue and its waiting queue, because another consumer reads them."""
        self._subscriptions.leave_to_others(reader.tag)
        self._subscriptions.close_waiting_queue(reader.tag)

    def _next_reader(self) -> QueueReader:
        """Return the reader of the queue that has delivered the next delivery."""
        return self._subscriptions.readers[self._run.buffer.next_delivery.consumer_tag]

    def _seconds_until(self, reader: QueueReader) -> float:
        """Return in how many seconds to process the fence of a queue; 0 or less means now."""
        return reader.fence_due_at - self._run.clock.monotonic()

    def _postpone(self, reader: QueueReader, seconds: float) -> None:
        reader.fence_due_at = self._run.clock.monotonic() + seconds

    def _move_waiting_records(self, raw: RawConnection, reader: QueueReader) -> bool:
        """Move the waiting records of an old queue to shards of a newer generation.

        The result is False if this must be repeated later. A queue without shards keeps its waiting
        records; then the result is True.
        """
        run = self._run
        if run.waiting is None or not run.topology.on_ring(run.consumer.queue):
            return True  # a queue without shards keeps its waiting queue
        return run.waiting.move_records(raw, reader.queue, reader.tag)

    def put_missing(self, raw: RawConnection) -> None:
        """Put a fence into each old queue that may have none.

        An old queue has no fence if it was full during the switch, or if its fence has expired.

        The runner calls this often.

        Args:
            raw: the connection of the consumer.

        """
        for reader in [*self._subscriptions.readers.values()]:
            if not reader.probes.is_fence_due:
                continue
            phase = phase_of(raw, self._run.topology, self._run.consumer, reader.queue)
            if phase == "ending":
                reader.probes.put_fence()
            elif phase == "switching":
                reader.probes.postpone_fence()
            else:
                # The queue is not an old queue, so it needs no fence now. If a later switch makes
                # it an old queue, `feedbus apply` puts a fence into it. If the queue is full then,
                # `feedbus apply` waits for room, because the queue has a consumer.
                reader.probes.fence_needed = False

    def delete_empty_queues(
        self, raw: RawConnection, has_unsettled_of: Callable[[str], bool]
    ) -> bool:
        """Delete old queues, and queues removed from the topology, that are proved to be empty.

        If another consumer has subscribed to such a queue meanwhile, this consumer only stops
        reading the queue. The runner calls this often.

        Args:
            raw: the connection of the consumer.
            has_unsettled_of: called with the consumer tag of a subscription; returns whether a
                handler has deliveries of the subscription at this moment.

        Returns:
            Whether the own queue of this consumer was deleted, too. The own queue is deleted in two
            cases: the ring has changed again, so that the queue is now an old queue; or the queue
            was removed from the topology.

        """
        subscriptions, buffer = self._subscriptions, self._run.buffer
        own_queue_deleted = False
        for reader in [*subscriptions.readers.values()]:
            if not reader.may_be_empty:
                continue

            def is_in_flight(tag: str = reader.tag) -> bool:
                return buffer.has_deliveries_of(tag) or has_unsettled_of(tag)

            if not is_in_flight() and reader.count_consumers() > 1:
                # Another consumer has subscribed after this consumer put its first probe. The probe
                # in the queue is a fence for the other consumer.
                self._leave_to_others(reader)
                continue
            if reader.is_removed:
                is_deleted = self._delete_removed(raw, reader, is_in_flight)
            else:
                is_deleted = reader.delete_if_empty(is_in_flight)
            if is_deleted:
                subscriptions.stop_reading(reader.tag)
                own_queue_deleted |= not reader.source.only_without_reader
        return own_queue_deleted

    def _delete_removed(
        self, raw: RawConnection, reader: QueueReader, is_in_flight: Callable[[], bool]
    ) -> bool:
        """Delete a removed queue if it is empty; return False if this must be repeated later.

        While the queue is not in the topology, an exchange on the broker marks it as removed. If
        the topology gets the queue again, `feedbus apply` or `feedbus up` deletes the mark while it
        holds the topology's lock. This method holds the same lock. So the topology cannot get the
        queue again between the check of the mark and the deletion of the queue.
        """
        topology = self._run.topology
        try:
            with broker.locked(raw, topology, wait_seconds=0.0):
                if not removed_queues.is_marked(raw, Names(topology), reader.queue):
                    reader.probes.abandon()
                    return False
                return reader.delete_if_empty(
                    lambda: is_in_flight() or self._can_get_records(raw, reader)
                )
        except UsageError:  # another process has the lock
            return False
