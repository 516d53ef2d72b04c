"""Concurrency: records of several keys run at the same time, and each is settled when it ends."""

from __future__ import annotations

import math

from feedbus.errors import Outage
from feedbus.logs import EventLog
from feedbus.runner.batch_mode import BatchMode
from feedbus.runner.concurrent_deliveries import ConcurrentDeliveries
from feedbus.runner.run_state import POLL_SECONDS, Run
from feedbus.runner.subscriptions import Subscriptions
from feedbus.runner.waiting_queues import WAITING_SUFFIX
from feedbus.wire.amqp_protocols import RawConnection

events = EventLog(__name__)


class ConcurrentMode(BatchMode):
    """A mode of the runner: up to `concurrency` records of the queue run at the same time."""

    def __init__(
        self, run: Run, subscriptions: Subscriptions, concurrent: ConcurrentDeliveries
    ) -> None:
        """Handle the deliveries of a run's subscriptions."""
        super().__init__(run, subscriptions)
        self._concurrent = concurrent
        self._defers_due = False  # whether waiting records may run, but cannot start yet

    @property
    def working(self) -> bool:
        """Whether there are deliveries that are decoded and not settled."""
        return bool(self._concurrent)

    def works_on(self, consumer_tag: str) -> bool:
        """Whether deliveries of a subscription are decoded and not settled."""
        return self._concurrent.has(consumer_tag) or self._concurrent.has(
            consumer_tag + WAITING_SUFFIX
        )

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when a record has ended."""
        return self._concurrent.fileno()

    def cancelled(self) -> None:
        """Count the cancelled subscription against the message whose handler runs longest."""
        self._concurrent.blame_slowest(self._run.timeout)

    def channel_closed(self, error: BaseException) -> None:
        """If the broker's timeout closed the channel, count this against the slow messages."""
        if self._run.timeout.learn(error):
            self._concurrent.blame_slow(self._run.timeout)

    def while_holding(self) -> None:
        """Write the messages in handlers to the crash guard's file; called often in an outage."""
        if self._concurrent:
            self._concurrent.check_event_loop()
            self._concurrent.note()

    def forget(self) -> None:
        """Forget all unsettled deliveries: the broker delivers them again."""
        worked = bool(self._concurrent)
        self._concurrent.forget_all()
        self._defers_due = False
        if worked:  # the records that ran are delivered again: the consumer was not idle
            self._run.limits.idle_from(self._run.clock.monotonic())

    def close(self) -> None:
        """End the threads."""
        self._concurrent.close()

    def receive(self, raw: RawConnection) -> bool:
        """Wait for a delivery or the end of a call; return whether there is work."""
        run, concurrent = self._run, self._concurrent
        raw.take_arrived()
        may_take = run.buffer and concurrent.hungry and not run.full()
        busy = concurrent.unfinished or (may_take and not concurrent)
        takes_due = concurrent.hungry and not self._defers_due
        timeout = 0.0 if busy else run.wait_seconds(raw, working=self.working, takes_due=takes_due)
        if concurrent:
            timeout = min(timeout, POLL_SECONDS)
        run.receive(raw, timeout)
        concurrent.check_event_loop()
        run.heartbeats.beat()
        arrived = bool(run.buffer or concurrent or run.until_due() <= 0)
        if not arrived:
            concurrent.ignore_wakes()
        return arrived

    def handle_due(self, raw: RawConnection) -> bool:  # noqa: ARG002 -- see handle_next()
        """Renew deliveries of waiting queues; handle_next() starts the records that may run now."""
        if self._run.waiting is not None:
            self._run.waiting.renew(self._run.timeout.seconds)
        return True

    def handle_next(self, raw: RawConnection) -> bool:
        """Settle ended records, and start others; return False if all must be returned."""
        run, concurrent = self._run, self._concurrent
        taken_for_message = False
        run.buffer.next_lane()
        at_fence = bool(run.buffer) and self._subscriptions.at_fence()
        if at_fence and not concurrent.has(run.buffer.first.consumer_tag):
            taken_for_message = not self._subscriptions.pass_fence(raw)
        if not taken_for_message:
            run.buffer.pass_over_fence()
        oldest_at = min(concurrent.oldest_at, run.buffer.oldest_at if run.buffer else math.inf)
        if oldest_at < math.inf and run.timeout.too_close(oldest_at):
            return False
        try:
            with run.heartbeats.while_working():
                self._settle_ended()
                if not concurrent.running:
                    run.resources.open()  # a resource may have ended by itself
            if not self._admit(raw, at_fence=taken_for_message):
                return False
            concurrent.start()
        except Outage as error:
            if run.must_read_anew:
                raise
            run.hold(error, self.while_holding)
            raw.take_arrived()  # if the connection is lost, its deliveries must not be handled
        return True

    def _admit(self, raw: RawConnection, *, at_fence: bool) -> bool:
        """Decode deliveries while more records can run; return False if all must be returned.

        Args:
            raw: the connection.
            at_fence: whether the first delivery looks like a fence, but is an ordinary message.

        """
        run, concurrent, buffer = self._run, self._concurrent, self._run.buffer
        if not self._admit_due(raw):
            return False
        if run.full():
            return True
        while buffer and (at_fence or not buffer.at_fence) and not run.stop_requested.is_set():
            if run.crash_guard.suspected(buffer.first.message_id):
                if concurrent:
                    break  # the message is handled alone, after the others are settled
                if not self._handle(raw):
                    return False
            elif concurrent.hungry and len(concurrent) < run.limits.messages:
                arrived_at = buffer.oldest_at
                concurrent.open(buffer.pop(), arrived_at)
            else:
                break
            at_fence = False
        return True

    def _admit_due(self, raw: RawConnection) -> bool:
        """Add waiting records that may run now; return False if all deliveries must be returned."""
        run, concurrent, waiting = self._run, self._concurrent, self._run.waiting
        self._defers_due = False
        if waiting is None or not waiting:
            return True
        while concurrent.hungry and len(concurrent) < run.limits.messages:
            deliveries = waiting.take(1, run.crash_guard.suspected)
            if not deliveries:
                break
            if not run.crash_guard.suspected(deliveries[0].message_id):
                concurrent.open(deliveries[0], self._run.clock.monotonic())
            elif concurrent:
                waiting.put_back(deliveries)  # it is handled alone, after the others are settled
                self._defers_due = True
                break
            elif not self._work(raw, deliveries, self._run.clock.monotonic()):
                return False
        else:
            self._defers_due = True
        return True

    def _settle_ended(self) -> None:
        """Finish ended records, and acknowledge the deliveries that are done."""
        run, concurrent = self._run, self._concurrent
        settled = concurrent.finish()
        if settled:
            concurrent.settle(self._subscriptions.readers)
            if run.waiting is not None:
                run.waiting.settle(settled)
            self._subscriptions.sample(settled[0])
            run.limits.idle_from(self._run.clock.monotonic())
            run.limits.handled(len(settled))
        outage = concurrent.take_outage()
        if outage is not None:
            raise outage
        if settled:
            run.holding.record_success()

    def let_finish(self) -> None:
        """Finish and settle the running records; the broker delivers the others again."""
        run, concurrent = self._run, self._concurrent
        while concurrent.running:
            concurrent.wait(POLL_SECONDS)
            run.heartbeats.beat()
            try:
                with run.heartbeats.while_working():
                    self._settle_ended()
            except Outage as error:
                if concurrent.unfinished:  # the broker or the store is unavailable
                    events.warning(
                        "unsettled_at_end",
                        f"{run.consumer.name} ends during an outage; the broker will deliver its"
                        " unacknowledged messages again",
                        consumer=run.consumer.name,
                        error=error,
                    )
                    break
        concurrent.forget_all()
