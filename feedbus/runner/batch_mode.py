"""The batch mode: messages are collected, given to the handler together, and settled."""

from __future__ import annotations

import math
from collections.abc import Sequence

from feedbus.runner.base_mode import Mode
from feedbus.runner.connection_loss_causes import ReturnedCall
from feedbus.runner.handling_during_publishing import PublishingPauses
from feedbus.runner.old_queue_batches import OldQueueBatches
from feedbus.runner.run_state import MIN_WAIT_SECONDS, Run
from feedbus.runner.small_deliveries import SmallDeliveries
from feedbus.runner.subscriptions import Subscriptions
from feedbus.wire import Delivery
from feedbus.wire.amqp_protocols import RawConnection

# A *waiting record* waits in a waiting queue for its next attempt, or for an earlier record of its
# key. Other records are called *new* here. While waiting records may be handled, the mode
# alternates: after N waiting records it handles about N * NEW_SHARE new records. The share is less
# than 1, because a new record whose key has a waiting record becomes a waiting record, too. With a
# share of 1, the number of waiting records might never decrease.
NEW_SHARE = 0.5


class BatchMode(Mode):
    """A mode of the runner that handles and settles a batch before the next one begins.

    The group mode is a subclass. It uses the methods of this class for a message that may have
    ended a process: such a message is handled alone, as a batch of one message.
    """

    def __init__(self, run: Run, subscriptions: Subscriptions) -> None:
        """Create the mode for the deliveries of a run's subscriptions."""
        super().__init__(run, subscriptions)
        self._small_deliveries = SmallDeliveries.of(run.consumer.queue)
        self._last_batch_at = -math.inf  # when the latest batch began
        # Whether the arrived deliveries, those in the buffer, are a batch that is not complete yet.
        self._is_collecting = False
        # How many new records may be handled before waiting records are handled again; infinity for
        # no limit. The number becomes negative if the last delivery had more records than were
        # allowed, because a delivery is handled as a whole.
        self._new_records = math.inf
        self._from_old_queue = False  # whether the latest batch came from an old queue
        self._old_queue_batches = OldQueueBatches(run.consumer.queue.batch.size)
        if self._small_deliveries is not None and run.consumer.queue.stream:
            self._pauses = PublishingPauses(
                run,
                self._small_deliveries,
                lambda: bool(subscriptions.cancelled),
                self._handle_in_pause,
            )
            run.dispatch.pause_after_slices(self._pauses.pause)

    def receive(self, raw: RawConnection) -> bool:
        """Wait for deliveries; return whether a batch of them must be handled now.

        The runner calls this in a loop, before handle_next(). A call takes some seconds at most, so
        that heartbeats are sent and queues are checked also during a long `batch.wait`. If the
        batch is not complete then, the result is False, and the next call continues the batch.

        A batch is complete when it is full. A batch that is not full is complete when all records
        that have arrived are in it, and one of these is also true:

        - The handling of the previous batch began at least `batch.wait` ago. So if a record arrives
          later than that, it is handled immediately.
        - Deliveries were left over from the previous batch.
        - A waiting record is due, so that it may be handled now.
        - The run must end, because of a signal or a limit such as its longest duration.

        Args:
            raw: the connection of the consumer.

        """
        run = self._run
        batch, buffer = run.consumer.queue.batch, run.buffer
        has_rest = bool(buffer) and not self._is_collecting  # deliveries left over from a batch
        self._is_collecting = False
        if run.waiting or buffer.has_lanes:
            # If the buffer already has a full batch, the loop at the end of this method reads
            # nothing. Two kinds of deliveries must be read even then: those of waiting queues, and
            # those of each generation if the consumer reads queues of several generations. In the
            # second case, the buffer has a lane for each generation.
            run.receive(raw, 0.0)
            if run.seconds_until_due() <= 0:  # due waiting records are handled before a batch
                run.heartbeats.beat()
                return bool(buffer)
        else:
            raw.take_arrived()
        if run.has_reached_waiting_limit():  # only waiting records are handled then
            run.receive(raw, run.wait_seconds(raw))
            run.heartbeats.beat()
            return bool(buffer)
        now = run.clock.monotonic()
        complete_at = now if has_rest else self._last_batch_at + batch.wait_seconds
        wait_until = now
        if complete_at > now or not buffer:
            wait_until += run.wait_seconds(raw, has_unsettled=bool(buffer))
        while buffer.records < batch.size and not run.stop_requested.is_set():
            deadline = min(wait_until, complete_at) if buffer else wait_until
            if run.waiting:
                deadline = min(deadline, run.clock.monotonic() + run.seconds_until_due())
            try:
                raw.drain_events(timeout=max(deadline - run.clock.monotonic(), MIN_WAIT_SECONDS))
            except TimeoutError:
                break
        run.heartbeats.beat()
        if (
            buffer.records < batch.size
            and run.clock.monotonic() < complete_at
            and run.seconds_until_due() > 0
            and run.end_reason() is None
        ):
            self._is_collecting = bool(buffer)
            return False
        return bool(buffer)

    def handle_waiting_records(self, raw: RawConnection) -> bool:
        """Handle the records of waiting queues that may be handled now.

        The runner calls this after each receive().

        Args:
            raw: the connection of the consumer.

        Returns:
            False if all unsettled deliveries must be returned to the broker, because the broker's
            consumer timeout (its time limit for an acknowledgement) would expire.

        """
        run = self._run
        if run.waiting is None or not run.waiting:
            self._new_records = math.inf
            return True
        # _finish_batch() subtracts all handled records from the number of new records. Waiting
        # records must not be subtracted, so the number is infinite while they are handled. What is
        # left of the number is added to the next number: fractions add up to a record, but more
        # than 1 record is not kept. If the number is negative, all of it is added.
        unused, self._new_records = min(self._new_records, 1.0), math.inf
        handled_before = run.limits.handled
        max_records = int(min(self._max_waiting_records, run.limits.remaining_messages))
        deliveries = run.waiting.take(max_records, run.crash_guard.is_suspected)
        if deliveries and not self._handle_waiting(raw, deliveries):
            return False
        run.waiting.renew(run.timeout.seconds)  # before the consumer timeout expires
        handled = run.limits.handled - handled_before
        if handled and run.seconds_until_due() <= 0:
            self._new_records = unused + handled * NEW_SHARE
        return True

    @property
    def _max_waiting_records(self) -> int:
        """The largest number of waiting records that are taken at once."""
        return self._run.consumer.queue.batch.size

    def _handle_waiting(self, raw: RawConnection, deliveries: Sequence[Delivery]) -> bool:
        """Handle deliveries that were taken from waiting queues.

        Returns:
            False if all unsettled deliveries must be returned to the broker, because the broker's
            consumer timeout would expire.

        """
        return self._handle_and_settle(raw, deliveries, self._run.clock.monotonic())

    def handle_next(self, raw: RawConnection) -> bool:
        """Handle a batch, or process a fence, which marks the end of an old queue.

        The runner calls this after receive(), if deliveries have arrived.

        Args:
            raw: the connection of the consumer.

        Returns:
            False if all unsettled deliveries must be returned to the broker, because the broker's
            consumer timeout would expire.

        """
        run = self._run
        if not run.buffer:
            # handle_waiting_records() has called a handler that paused. In the pause, all
            # deliveries of the buffer were handled.
            return True
        if run.timeout.would_expire(run.buffer.oldest_at):
            return False
        if run.has_reached_waiting_limit() or run.limits.remaining_messages <= 0:
            return True
        if self._new_records < 1:
            return True
        run.buffer.next_lane()  # the queues of the generations take turns
        if self._fences.next_is_fence() and self._fences.process_next(raw):
            return True
        return self._handle(raw)

    def _handle(self, raw: RawConnection) -> bool:
        """Handle a batch and settle it; return False if the consumer timeout would expire first."""
        arrived_at = self._run.buffer.oldest_at
        return self._handle_and_settle(raw, self._next_batch(), arrived_at)

    def _next_batch(self) -> list[Delivery]:
        """Take small deliveries that may overtake others, or a batch of the oldest deliveries."""
        run = self._run
        buffer, max_deliveries, is_suspected = (
            run.buffer,
            run.limits.remaining_messages,
            run.crash_guard.is_suspected,
        )
        if self._small_deliveries is not None:
            deliveries = self._small_deliveries.take_first(buffer, max_deliveries, is_suspected)
            if deliveries:
                return deliveries
        size = int(min(run.consumer.queue.batch.size, self._new_records))
        self._from_old_queue = buffer.in_old_lane
        if self._from_old_queue:  # a small batch delays the records of new queues less
            size = min(size, int(self._old_queue_batches.size))
        return buffer.take(size, max_deliveries, is_suspected)

    def _handle_and_settle(
        self, raw: RawConnection, deliveries: Sequence[Delivery], arrived_at: float
    ) -> bool:
        self._last_batch_at = self._run.clock.monotonic()
        return super()._handle_and_settle(raw, deliveries, arrived_at)

    def _handle_in_pause(
        self, raw: RawConnection, deliveries: Sequence[Delivery], message_ids: Sequence[str]
    ) -> None:
        """Handle deliveries and settle them, while a call of the handler pauses.

        Args:
            raw: the connection of the deliveries.
            deliveries: the deliveries.
            message_ids: the ids of the deliveries, and of the messages whose calls pause. The crash
                guard writes these ids into its file.

        """
        with self._allow_pauses(raw, deliveries):
            call = self._call_handler(deliveries, message_ids)
        self._finish_batch(raw, deliveries, call.seconds, call)

    def _finish_batch(
        self,
        raw: RawConnection,
        deliveries: Sequence[Delivery],
        seconds: float,
        call: ReturnedCall,
    ) -> None:
        if self._run.buffer.has_lanes or self._new_records < math.inf:
            records = sum(delivery.record_count for delivery in deliveries)
            self._new_records -= records
            if self._run.buffer.has_lanes:
                self._old_queue_batches.add(records, seconds, old=self._from_old_queue)
        super()._finish_batch(raw, deliveries, seconds, call)
