"""The batch mode: messages are collected, given to the handler together, and settled."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from feedbus.errors import Outage
from feedbus.logs import EventLog
from feedbus.runner.connection_loss_causes import ReturnedCall, blame
from feedbus.runner.fences import Fences
from feedbus.runner.handling_during_publishing import PublishingPauses
from feedbus.runner.old_queue_batches import OldQueueBatches
from feedbus.runner.run_state import MIN_WAIT_SECONDS, Run
from feedbus.runner.small_deliveries import SmallDeliveries
from feedbus.runner.subscriptions import Subscriptions
from feedbus.wire import Delivery
from feedbus.wire.amqp_protocols import RawConnection
from feedbus.wire.constants import LEAST_TIMEOUT_SECONDS

events = EventLog(__name__)

# A *waiting record* waits in a waiting queue for its next attempt, or for an earlier record of its
# key. Other records are called *new* here. While waiting records may be handled, the mode
# alternates: after N waiting records it handles about N * NEW_SHARE new records. The share is less
# than 1, because a new record whose key has a waiting record becomes a waiting record, too. With a
# share of 1, the number of waiting records might never decrease.
NEW_SHARE = 0.5


class BatchMode:
    """A mode of the runner that handles and settles a batch before the next one begins.

    The other modes are subclasses. They use the methods of this class for a message that may have
    ended a process: such a message is handled alone, as a batch of one message. A process creates
    one object of one of these classes.
    """

    def __init__(self, run: Run, subscriptions: Subscriptions) -> None:
        """Create the mode for the deliveries of a run's subscriptions."""
        self._run = run
        self._subscriptions = subscriptions
        self._fences = Fences(run, subscriptions)
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
        # A handler that publishes very many messages pauses, if the queue has `stream` and
        # `order_by`. In its pauses, other deliveries are handled.
        self._pauses: PublishingPauses | None = None
        if self._small_deliveries is not None and run.consumer.queue.stream:
            self._pauses = PublishingPauses(
                run,
                self._small_deliveries,
                lambda: bool(subscriptions.cancelled),
                self._handle_in_pause,
            )
            run.dispatch.pause_after_slices(self._pauses.pause)

    @property
    def has_unsettled(self) -> bool:
        """Whether there are deliveries that are decoded and not settled.

        The result is True only in the concurrent mode: this mode settles a batch before the runner
        reads the next deliveries.
        """
        return False

    def has_unsettled_of(self, consumer_tag: str) -> bool:  # noqa: ARG002 -- for other modes
        """Whether deliveries of a subscription are being handled and are not settled.

        An old queue is deleted only if the result is False.

        Args:
            consumer_tag: the consumer tag of the subscription.

        """
        return False

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when a handler call has ended.

        The runner watches the descriptor while it waits for data of the broker. In this mode, no
        call runs at that time, so the result is None.
        """
        return None

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

    def on_cancel(self) -> None:
        """Register that the broker has cancelled a subscription of the consumer.

        The cause can be a handler call that took longer than the consumer timeout. This mode does
        nothing: _settle() has already passed the messages of such a call to the crash guard.
        """

    def on_channel_close(self, error: BaseException) -> None:
        """Register the exception with which the broker closed a channel.

        The runner calls this before it connects again. The exception can contain the broker's
        consumer timeout, which this method stores. The method passes no messages to the crash
        guard: if the latest handler call was the cause, _settle() has already passed the messages
        of this call.

        Args:
            error: the exception that contains the broker's reason.

        """
        self._run.timeout.learn(error)

    def finish_running(self) -> None:
        """Wait for the handler calls that run, and settle their deliveries.

        The runner calls this when it stops reading: at the end of the run, or before the queues are
        divided again among the consumers. In this mode, the method does nothing: no call runs at
        that time.
        """

    def update_crash_guard(self) -> None:
        """Write the deadline of the running handler calls to the crash guard's file.

        During an outage, this is called repeatedly, because handler calls of the concurrent mode
        can still run. In this mode, it does nothing: no handler call runs at that time.
        """

    def forget(self) -> None:
        """Forget all unsettled deliveries, when the connection ends.

        The broker delivers them again. This mode does nothing: it keeps no deliveries.
        """

    def close(self) -> None:
        """End the threads in which the mode calls handlers, at the end of the run.

        This mode does nothing: it has no such threads.
        """

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
        """Handle deliveries and settle them.

        Args:
            raw: the connection of the deliveries.
            deliveries: the deliveries.
            arrived_at: when the oldest delivery arrived, as a time of the monotonic clock.

        Returns:
            False if all unsettled deliveries must be returned to the broker, because the broker's
            consumer timeout would expire. True also if an outage lasts until the run must end.

        """
        run = self._run
        ids = [delivery.message_id for delivery in deliveries]
        self._last_batch_at = run.clock.monotonic()
        while True:
            try:
                with self._allow_pauses(raw, deliveries):
                    call = self._call_handler(deliveries, ids)
                break
            except Outage as error:
                if not self._hold(raw, error):
                    return True  # the run ends, and the broker gets the deliveries back
                if run.timeout.would_expire(arrived_at):
                    return False
        self._finish_batch(raw, deliveries, call.seconds, call)
        return True

    def _allow_pauses(
        self, raw: RawConnection, deliveries: Sequence[Delivery]
    ) -> AbstractContextManager[None]:
        """Let a call of the handler pause during a `with` block, if the queue has such pauses."""
        return self._pauses.allow(raw, deliveries) if self._pauses else nullcontext()

    def _handle_in_pause(
        self, raw: RawConnection, deliveries: Sequence[Delivery], message_ids: Sequence[str]
    ) -> None:
        """Handle deliveries and settle them, while a call of the handler pauses.

        Args:
            raw: the connection of the deliveries.
            deliveries: the deliveries.
            message_ids: the ids of the deliveries, and of the messages whose calls pause.

        """
        with self._allow_pauses(raw, deliveries):
            call = self._call_handler(deliveries, message_ids)
        self._finish_batch(raw, deliveries, call.seconds, call)

    def _hold(self, raw: RawConnection, error: Outage) -> bool:
        """Wait because of an outage; return whether to handle the deliveries again after the wait.

        The result is False if the run must end during the wait, or if the queue is assigned to
        another host. The broker then gets the deliveries back.

        Raises:
            Outage: `error` itself, if a waiting queue may contain messages that this process does
                not know, for example because the broker has not confirmed them. Then the runner
                connects again, and reads the waiting queues again.
            Exception: the connection was lost. Then the deliveries must not be handled, because the
                broker delivers them again.

        """
        run = self._run
        run.crash_guard.release()  # a kill during the hold is counted against no message
        if run.must_read_again:
            raise error
        run.hold(error, self.update_crash_guard)
        if not run.must_continue(has_unsettled=self.has_unsettled):
            run.has_given_up = True
            return False
        raw.take_arrived()  # raises an exception if the connection is lost
        return True

    def _call_handler(self, deliveries: Sequence[Delivery], ids: Sequence[str]) -> ReturnedCall:
        """Call the handler with a batch; return the duration and the messages of the call.

        During the call, the crash guard's file contains the message ids. If a message has ended the
        process too often, it becomes a dead letter, and the handler does not get it again. Then the
        *dead handler* is called, a function of the project that gets each new dead letter.

        Args:
            deliveries: the deliveries of the batch.
            ids: their message ids; in a pause, also the ids of the messages whose calls pause.

        """
        run = self._run
        started = run.clock.monotonic()
        with run.heartbeats.while_working():
            run.resources.open()  # open the resources again that have ended by themselves
            run.crash_guard.set_messages(ids, run.handler_seconds)
            limit = run.consumer.queue.delivery_limit
            # A message that may have ended a process is handled alone, so its id is the only one.
            reason = run.crash_guard.reason_to_give_up(ids[0], limit)
            if reason:
                events.error(
                    "message_given_up",
                    f"{run.consumer.name} makes message {ids[0]} a dead letter: {reason}",
                    consumer=run.consumer.name,
                    message_id=ids[0],
                )
                # give_up() calls the dead handler with the dead letter. If the dead handler also
                # ends the process, the crash guard counts this crash, too. Example: with a limit of
                # 5, the handler has caused the crashes 1 to 5, and the dead handler the crashes 6
                # to 10. After 10 crashes, the dead handler is skipped.
                skip = bool(run.crash_guard.reason_to_give_up(ids[0], 2 * limit))
                run.dispatch.give_up(deliveries[0], reason, skip_dead_handler=skip)
            else:
                run.dispatch.handle(deliveries)
        seconds = run.clock.monotonic() - started
        return ReturnedCall(seconds, run.heartbeats.missed_seconds, ids)

    def _finish_batch(
        self,
        raw: RawConnection,
        deliveries: Sequence[Delivery],
        seconds: float,
        call: ReturnedCall,
    ) -> None:
        """Settle and count a batch that has been handled.

        Args:
            raw: the connection of the deliveries.
            deliveries: the deliveries of the batch.
            seconds: how long the whole batch took.
            call: the latest handler call that has returned. In the group mode, a batch has several
                calls.

        """
        run = self._run
        run.timeout.add_duration(seconds)
        if run.buffer.has_lanes:
            records = sum(delivery.record_count for delivery in deliveries)
            self._old_queue_batches.add(records, seconds, old=self._from_old_queue)
        if self._new_records < math.inf:
            self._new_records -= sum(delivery.record_count for delivery in deliveries)
        run.limits.restart_idle_time(run.clock.monotonic())
        self._settle(raw, deliveries, call)
        self._subscriptions.check_placement(deliveries[0])
        run.outage_pause.record_success()
        run.limits.count_handled(len(deliveries))

    def _settle(
        self, raw: RawConnection, deliveries: Sequence[Delivery], call: ReturnedCall
    ) -> None:
        """Acknowledge a batch, and check the channel after a long call of the handler.

        The broker closes the channel or the connection if a call is longer than the consumer
        timeout, or if the call blocks the heartbeats for too long. An acknowledgement has no
        answer, so it does not show such a loss. So after a long call, a request with an answer is
        sent. If the call was the cause of a loss, blame() passes the messages of the call to the
        crash guard. If the call had one message, the crash guard counts a crash against this
        message. If the call had several messages, no crash is counted, and each message is handled
        alone when it is delivered again.
        """
        run, subscriptions = self._run, self._subscriptions
        tags: defaultdict[str, list[int]] = defaultdict(list)
        for delivery in deliveries:
            tags[delivery.consumer_tag].append(delivery.tag)
        paused_tags = self._pauses.paused_tags if self._pauses is not None else ()
        is_slow = call.seconds >= LEAST_TIMEOUT_SECONDS  # no consumer timeout is shorter
        try:
            for consumer_tag, delivery_tags in tags.items():
                # If an earlier delivery of the subscription is not handled yet, a multiple
                # acknowledgement would include it.
                one_by_one = consumer_tag in paused_tags or run.buffer.has_before(
                    consumer_tag, delivery_tags[-1]
                )
                subscriptions.settle(consumer_tag, delivery_tags, one_by_one=one_by_one)
            if run.waiting is not None:
                run.waiting.settle(deliveries)
            if is_slow or call.cause(run.timeout):
                raw.take_arrived()
                # If the broker has closed the channel of the deliveries, its report of this arrives
                # before its answer to this request. Reading the report raises an exception here.
                raw.channel().close()
        except Exception as error:
            run.timeout.learn(error)
            cause = call.cause(run.timeout)
            if cause:
                blame(run.crash_guard, run.consumer.name, call.message_ids, cause)
            run.crash_guard.release()
            raise
        # After a call that is longer than the consumer timeout, the broker can also cancel only the
        # subscription, and leave the channel open.
        cancelled = is_slow and not tags.keys().isdisjoint(subscriptions.cancelled)
        if cancelled:
            cause = run.timeout.cause_of_cancel(call.seconds)
            blame(run.crash_guard, run.consumer.name, call.message_ids, cause)
        run.crash_guard.release(settled=not cancelled)
