"""The concurrent mode: several records are handled at the same time.

A record *runs* from the start of its handler call until the call ends. A delivery is settled when
the calls of all its records have ended.

A message is *suspected* if it may have ended an earlier process (feedbus.runner.crash_guard). Such
a message is handled while no other record runs. An old queue, which is deleted when it is empty,
ends with a *fence*, a message that marks the end (feedbus.runner.fences).
"""

from __future__ import annotations

import math

from feedbus.errors import Outage
from feedbus.logs import EventLog
from feedbus.runner.base_mode import Mode
from feedbus.runner.concurrent_deliveries import ConcurrentDeliveries
from feedbus.runner.run_state import POLL_SECONDS, Run
from feedbus.runner.subscriptions import Subscriptions
from feedbus.runner.waiting_queues import WAITING_SUFFIX
from feedbus.wire.amqp_protocols import RawConnection

events = EventLog(__name__)


class ConcurrentMode(Mode):
    """A mode of the runner: up to `concurrency` records are handled at the same time.

    With `order_by`, records of one key are still handled one after the other. If the queue has a
    `concurrency` above 1, the runner selects this mode, and has one ConcurrentMode object for its
    whole run.
    """

    def __init__(
        self, run: Run, subscriptions: Subscriptions, concurrent: ConcurrentDeliveries
    ) -> None:
        """Create the mode for the deliveries of a run's subscriptions.

        Args:
            run: the run of the consumer.
            subscriptions: the queues that the consumer reads.
            concurrent: the deliveries that are decoded and not settled.

        """
        super().__init__(run, subscriptions)
        self._concurrent = concurrent
        # Whether the records of waiting queues can start only after running records have ended, for
        # example because `concurrency` records run.
        self._defers_waiting_records = False
        # How many deliveries in the buffer can start only after a running record has ended. The
        # number is 0 if the latest handle_next() has taken deliveries from the buffer: then
        # handle_next() is called again immediately, if the buffer has more.
        self._blocked_deliveries = 0
        # Whether an outage has interrupted handle_next(), so that it must be called again.
        self._was_interrupted = False

    @property
    def has_unsettled(self) -> bool:
        """Whether there are deliveries that are decoded and not settled."""
        return bool(self._concurrent)

    def has_unsettled_of(self, consumer_tag: str) -> bool:
        """Whether deliveries of a queue, or of its waiting queue, are decoded and not settled.

        Args:
            consumer_tag: the consumer tag of the subscription to the queue.

        """
        return self._concurrent.has_deliveries_of(
            consumer_tag
        ) or self._concurrent.has_deliveries_of(consumer_tag + WAITING_SUFFIX)

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when a handler call has ended.

        The runner watches the descriptor while it waits for data of the broker. The result is None
        only in the other modes.
        """
        return self._concurrent.fileno()

    def on_cancel(self) -> None:
        """Count the cancelled subscription as a crash against the message with the longest call.

        The runner calls this when the broker has cancelled a subscription of the consumer. RabbitMQ
        gives no reason. Probably a handler call took longer than the consumer timeout, the time
        that the broker waits for an acknowledgement.
        """
        self._concurrent.blame_slowest(self._run.timeout)

    def on_channel_close(self, error: BaseException) -> None:
        """Count a closed channel as a crash against the messages with calls that took too long.

        Such a call may have exceeded the consumer timeout: the time that the broker waits for an
        acknowledgement. If the broker closed the channel for another reason, nothing is counted.
        The runner calls this before it connects again.

        Args:
            error: the exception that contains the broker's reason.

        """
        if self._run.timeout.learn(error):
            self._concurrent.blame_slow(self._run.timeout)

    def update_crash_guard(self) -> None:
        """Write the deadline of the running handler calls to the crash guard's file.

        During an outage, this is called repeatedly. If no handler call runs any more, the messages
        are removed from the file.
        """
        if self._concurrent:
            self._concurrent.check_event_loop()
            self._concurrent.update_crash_guard()

    def forget(self) -> None:
        """Wait until no call runs, and forget all unsettled deliveries, when the connection ends.

        The broker delivers them again.
        """
        had_unsettled = bool(self._concurrent)
        self._concurrent.forget_all()
        self._defers_waiting_records = False
        if had_unsettled:  # until now, the consumer was not idle
            self._run.limits.restart_idle_time(self._run.clock.monotonic())

    def close(self) -> None:
        """End the threads in which handlers are called, at the end of the run."""
        self._concurrent.close()

    def receive(self, raw: RawConnection) -> bool:
        """Wait for a delivery or the end of a handler call; return whether there is work.

        The runner calls this in a loop. There is work if handle_next() has something to decode, to
        start or to settle.

        Args:
            raw: the connection of the consumer.

        """
        run, concurrent = self._run, self._concurrent
        raw.take_arrived()
        can_decode = run.buffer and concurrent.has_capacity and not run.has_reached_waiting_limit()
        # If the buffer has more than the blocked deliveries, perhaps one of the others can start.
        must_not_wait = (
            concurrent.has_ended_calls
            or self._was_interrupted
            or (can_decode and (not concurrent or len(run.buffer) != self._blocked_deliveries))
        )
        self._was_interrupted = False
        takes_due = concurrent.has_capacity and not self._defers_waiting_records
        timeout = (
            0.0
            if must_not_wait
            else run.wait_seconds(
                raw, has_unsettled=self.has_unsettled, takes_waiting_records=takes_due
            )
        )
        if concurrent:
            timeout = min(timeout, POLL_SECONDS)  # so that the event loop is checked often
        run.receive(raw, timeout)
        concurrent.check_event_loop()
        run.heartbeats.beat()
        has_work = bool(run.buffer or concurrent or run.seconds_until_due() <= 0)
        if not has_work:
            # Otherwise, a wake-up for a finished record would end every later wait at once.
            concurrent.ignore_wakes()
        return has_work

    def handle_waiting_records(self, raw: RawConnection) -> bool:  # noqa: ARG002 -- see handle_next()
        """Return old deliveries of waiting queues to the broker, which delivers them again.

        So no delivery exceeds the broker's consumer timeout, the time limit for an
        acknowledgement. Waiting records are not handled here: in this mode, handle_next() handles
        them.

        Args:
            raw: the connection of the consumer.

        Returns:
            Always True. In another mode, False means that all unsettled deliveries must be returned
            to the broker.

        """
        if self._run.waiting is not None:
            self._run.waiting.renew(self._run.timeout.seconds)
        return True

    def handle_next(self, raw: RawConnection) -> bool:
        """Settle the deliveries whose records have ended, and start other records.

        The runner calls this after receive(), if there is work.

        Args:
            raw: the connection of the consumer.

        Returns:
            False if all unsettled deliveries must be returned to the broker, because the broker's
            consumer timeout would expire.

        """
        run, concurrent = self._run, self._concurrent
        buffered = len(run.buffer)
        # Whether the next delivery has the header of a fence, but comes from another program. Then
        # the delivery is handled as an ordinary message.
        is_ordinary = False
        run.buffer.next_lane()
        fence_is_next = bool(run.buffer) and self._fences.next_is_fence()
        # A fence is processed when the earlier deliveries of its queue are settled.
        if fence_is_next and not concurrent.has_deliveries_of(
            run.buffer.next_delivery.consumer_tag
        ):
            is_ordinary = not self._fences.process_next(raw)
        if not is_ordinary:  # a fence that must wait is not to delay the other lanes
            run.buffer.go_to_lane_without_fence()
        oldest_at = min(concurrent.oldest_at, run.buffer.oldest_at if run.buffer else math.inf)
        if oldest_at < math.inf and run.timeout.would_expire(oldest_at):
            return False
        try:
            with run.heartbeats.while_working():
                # _settle_ended() may call the dead handler, and start() calls handlers. Both need
                # open resources: those that were open may have ended by themselves.
                self._open_resources()
                outage = self._settle_ended()
                if outage is not None:
                    raise outage
                self._open_resources()
            if not self._decode(raw, is_ordinary=is_ordinary):
                return False
            concurrent.start()
            # If deliveries were taken, handle_next() is called again for the rest of the buffer. It
            # can then perhaps process a fence, or take deliveries of another queue.
            remaining = len(run.buffer)
            self._blocked_deliveries = remaining if remaining == buffered else 0
        except Outage as error:
            if run.must_read_again:
                raise
            run.hold(error, self.update_crash_guard)
            # If the connection is lost, this call raises an exception. The deliveries of the
            # connection must then not be handled, because the broker delivers them again.
            raw.take_arrived()
            self._was_interrupted = True
        return True

    def _open_resources(self) -> None:
        """Open the resources that are not open, if no handler call runs that may use others.

        Raises:
            Outage: a resource cannot be opened.

        """
        if not self._concurrent.has_running_calls:
            self._run.resources.open()

    def _decode(self, raw: RawConnection, *, is_ordinary: bool) -> bool:
        """Decode deliveries while more records can run; handle suspected messages alone.

        A message is suspected if it may have ended an earlier process.

        Args:
            raw: the connection.
            is_ordinary: whether to decode the next delivery although it has the header of a fence,
                because it comes from another program.

        Returns:
            False if all unsettled deliveries must be returned to the broker, because the broker's
            consumer timeout would expire.

        """
        run, concurrent, buffer = self._run, self._concurrent, self._run.buffer
        if not self._decode_waiting_records(raw):
            return False
        if run.has_reached_waiting_limit():
            return True
        while (
            buffer
            and len(concurrent) < run.limits.remaining_messages
            and (is_ordinary or not buffer.next_is_fence)
            and not run.stop_requested.is_set()
            and not run.has_given_up
        ):
            if run.crash_guard.is_suspected(buffer.next_delivery.message_id):
                if concurrent:
                    break  # the suspected message is handled after the others are settled
                arrived_at = buffer.oldest_at
                if not self._handle_and_settle(raw, [buffer.pop()], arrived_at):
                    return False
            elif concurrent.has_capacity:
                arrived_at = buffer.oldest_at
                concurrent.decode(buffer.pop(), arrived_at)
            else:
                break
            is_ordinary = False
        return True

    def _decode_waiting_records(self, raw: RawConnection) -> bool:
        """Decode waiting records that may run now.

        Returns:
            False if all unsettled deliveries must be returned to the broker, because the broker's
            consumer timeout would expire.

        """
        run, concurrent, waiting = self._run, self._concurrent, self._run.waiting
        self._defers_waiting_records = False
        if waiting is None or not waiting:
            return True
        while concurrent.has_capacity and len(concurrent) < run.limits.remaining_messages:
            if run.has_given_up:
                break
            deliveries = waiting.take(1, run.crash_guard.is_suspected)
            if not deliveries:
                break
            if not run.crash_guard.is_suspected(deliveries[0].message_id):
                concurrent.decode(deliveries[0], self._run.clock.monotonic())
            elif concurrent:
                # The suspected message is handled after the others are settled.
                waiting.put_back(deliveries)
                self._defers_waiting_records = True
                break
            elif not self._handle_and_settle(raw, deliveries, self._run.clock.monotonic()):
                return False
        else:  # no more records can run, or the limit of the run is reached
            self._defers_waiting_records = True
        return True

    def _settle_ended(self) -> Outage | None:
        """Send the messages of ended calls, and acknowledge the finished deliveries.

        Returns:
            The outage that the handler of an ended call raised; None if no handler raised one.

        Raises:
            Outage: the messages could not be sent.

        """
        run, concurrent = self._run, self._concurrent
        finished = concurrent.finish()
        if finished:
            concurrent.settle(self._subscriptions.readers)
            if run.waiting is not None:
                run.waiting.settle(finished)
            self._subscriptions.check_placement(finished[0])
            run.limits.restart_idle_time(self._run.clock.monotonic())
            run.limits.count_handled(len(finished))
        outage = concurrent.take_outage()
        if finished and outage is None:
            run.outage_pause.record_success()
        return outage

    def finish_running(self) -> None:
        """Wait for the handler calls that run, and settle their deliveries.

        All other deliveries are forgotten here, and the broker delivers them again.

        The runner calls this when it stops reading: at the end of the run, or before the queues are
        divided again among the consumers.
        """
        run, concurrent = self._run, self._concurrent
        while concurrent.has_running_calls:
            concurrent.wait(POLL_SECONDS)
            run.heartbeats.beat()
            try:
                with run.heartbeats.while_working():
                    # The result is an outage that a handler has raised. It is ignored, because the
                    # results of the other calls can still be sent.
                    self._settle_ended()
            except Outage as error:
                events.warning(
                    "unsettled_at_end",
                    f"{run.consumer.name} ends during an outage; the broker will deliver its"
                    " unacknowledged messages again",
                    consumer=run.consumer.name,
                    error=error,
                )
                break
        concurrent.forget_all()
