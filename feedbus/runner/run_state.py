"""The state that the parts of a consumer's run share, such as its limits and its deliveries.

The state also determines when the run is over, and how long the run waits for a delivery or during
an outage.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from feedbus.clock import Clock
from feedbus.dispatch import Dispatch
from feedbus.errors import BrokerOutage, Outage, UsageError
from feedbus.handling.resources import Resources
from feedbus.logs import EventLog
from feedbus.runner.amqp_heartbeats import Heartbeats
from feedbus.runner.buffer import Buffer
from feedbus.runner.consumer_timeout import ConsumerTimeout
from feedbus.runner.crash_guard import CrashGuard
from feedbus.runner.limits import RemainingLimits
from feedbus.runner.outage_pause import OutagePause
from feedbus.runner.waiting_queues import WaitingQueues
from feedbus.topology import Consumer, Topology
from feedbus.wire.amqp_protocols import RawConnection

events = EventLog(__name__)

POLL_SECONDS = 0.5  # the longest wait, if a signal does not end a wait
# A queue is *free* when the consumer that has read it stops reading it.
FIRST_CHECK_SECONDS = 0.05  # before the first check whether a queue of another consumer is free
LONG_POLL_SECONDS = 5.0  # the longest wait, if a signal ends it
MIN_WAIT_SECONDS = 0.0001  # the time limit for reading data that has already arrived


@dataclass(slots=True)
class Run:
    """One run of a consumer: what its parts share. A process has one Run object.

    Attributes:
        topology: the topology of the system.
        consumer: the consumer of the queue.
        dispatch: calls the handlers.
        resources: the resources of the handlers.
        crash_guard: finds messages that may have ended a process.
        heartbeats: sends heartbeats while handlers run.
        outage_pause: waits during an outage, longer after each failed attempt.
        timeout: the broker's consumer timeout, how long the broker waits for an acknowledgement.
        limits: the remaining limits of the run.
        waiting: the waiting queues; None if the queue has no `order_by`.
        handler_seconds: the time limit of a handler call. If there is an async handler, the time
            that it may need to end after its cancellation is added.
        clock: the clock that is used for waiting.
        is_assigned: returns whether the queue is assigned to this host now.
        buffer: deliveries that have arrived and are not handled yet.
        stop_requested: set when the run is to end cleanly.
        removal_reason: why this consumer has no queue any more; None while it has one.
        standby_seconds: time until the next check whether a queue of another consumer is free;
            infinity if this consumer waits for no such queue.
        check_seconds: time until the next check of the queues of older generations; infinity if
            there is none.
        has_given_up: whether an outage lasted until the run was over, or until the shard was
            assigned to another host. The deliveries that were being handled are not settled then.
            So nothing more may be settled on this connection: an acknowledgement of later
            deliveries could include them. The connection ends, and the broker delivers them again.

    """

    topology: Topology
    consumer: Consumer
    dispatch: Dispatch
    resources: Resources
    crash_guard: CrashGuard
    heartbeats: Heartbeats
    outage_pause: OutagePause
    timeout: ConsumerTimeout
    limits: RemainingLimits
    waiting: WaitingQueues | None
    handler_seconds: float
    clock: Clock
    is_assigned: Callable[[], bool]
    buffer: Buffer = field(default_factory=Buffer)
    stop_requested: threading.Event = field(default_factory=threading.Event)
    removal_reason: str | None = None
    standby_seconds: float = math.inf
    check_seconds: float = math.inf
    has_given_up: bool = False

    def end_reason(self, *, has_unsettled: bool = False) -> str | None:
        """Return why the run is over, as a text for the log, or None if it continues.

        The runner asks this between batches.

        Args:
            has_unsettled: whether deliveries are being handled, so that the run is not idle.

        """
        if self.stop_requested.is_set():
            return "stopped by a signal"
        return self.removal_reason or self.limits.reached_limit(
            waiting=bool(self.buffer) or has_unsettled
        )

    def must_continue(self, *, has_unsettled: bool = False) -> bool:
        """Whether to read on: the run continues, and the shard is assigned to this host.

        The runner asks this between batches. The result is also False if `has_given_up` is true:
        then nothing more may be settled on this connection.

        Args:
            has_unsettled: whether deliveries are being handled, so that the run is not idle.

        """
        return (
            not self.has_given_up
            and self.end_reason(has_unsettled=has_unsettled) is None
            and self.is_assigned()
        )

    def await_assignment(self) -> None:
        """Wait until the shard is assigned to this host, or until the run is over.

        The runner calls this while another host works on the shard. The wait does not count as idle
        time.
        """
        name = self.consumer.name
        text = f"{name} does not read its queue now: its shard is assigned to another host"
        events.info("standing_by", text, consumer=name)
        self.outage_pause.record_success()
        while self.end_reason() is None and not self.is_assigned():
            self.clock.wait(self.stop_requested, POLL_SECONDS)
            self.limits.restart_idle_time(self.clock.monotonic())
        if self.is_assigned():
            text = f"{name} reads its queue: its shard is assigned to this host now"
            events.info("assigned", text, consumer=name)

    def set_standby(self, *, stands_by: bool) -> None:
        """Set the time until the next check whether a queue of another consumer is free.

        The time doubles with each check, up to POLL_SECONDS.

        The runner calls this each time that it has tried to subscribe.

        Args:
            stands_by: whether this consumer waits for a queue that another consumer reads.

        """
        if not stands_by:
            self.standby_seconds = math.inf
        elif self.standby_seconds == math.inf:
            self.standby_seconds = FIRST_CHECK_SECONDS
        else:
            self.standby_seconds = min(2 * self.standby_seconds, POLL_SECONDS)

    def wait_seconds(
        self, raw: RawConnection, *, has_unsettled: bool = False, takes_waiting_records: bool = True
    ) -> float:
        """Return how many seconds to wait for a delivery: at most until a limit of the run.

        If signals do not wake the connection, the wait is short, so that the run notices each
        signal soon.

        The modes of the runner call this before each wait for data of the broker.

        Args:
            raw: the connection of the consumer.
            has_unsettled: whether deliveries are being handled, so that the run is not idle.
            takes_waiting_records: whether a waiting record can be handled as soon as it is due.

        """
        wakes = getattr(raw, "wakes_on_signals", False)
        longest = min(LONG_POLL_SECONDS if wakes else POLL_SECONDS, self.standby_seconds)
        longest = min(longest, self.check_seconds)
        if takes_waiting_records:
            longest = min(longest, self.seconds_until_due())
        if not has_unsettled:
            longest = min(longest, self.limits.remaining_idle_seconds)
        return max(min(longest, self.limits.remaining_seconds), 0.001)

    def seconds_until_due(self) -> float:
        """Return in how many seconds a waiting record may be handled; infinity if none waits."""
        return self.waiting.seconds_until_due() if self.waiting is not None else math.inf

    def has_reached_waiting_limit(self) -> bool:
        """Whether `waiting_limit` is reached: then the consumer handles only waiting records.

        The modes of the runner ask this before each batch.
        """
        return self.waiting is not None and self.waiting.has_reached_limit()

    @property
    def must_read_again(self) -> bool:
        """Whether, after an outage, the waiting records must be read again.

        The result is True if a waiting queue may contain messages that this process does not know.
        Then the caller raises the outage, so that the run connects again, and reads the waiting
        queues from their start.
        """
        return self.waiting is not None and self.waiting.may_have_unknown_messages

    def receive(self, raw: RawConnection, timeout: float) -> None:
        """Wait for a delivery, and then read all deliveries that have arrived into the buffer.

        The modes of the runner call this.

        Args:
            raw: the connection of the consumer.
            timeout: the longest time to wait, in seconds.

        """
        # raw.take_arrived() does not suffice here: on the embedded broker it fetches nothing new.
        while not self.stop_requested.is_set():
            try:
                raw.drain_events(timeout=max(timeout, MIN_WAIT_SECONDS))
            except TimeoutError:
                break
            timeout = 0.0

    def hold(self, error: Outage | UsageError, update: Callable[[], None] = lambda: None) -> None:
        """Wait during an outage, longer after each failure; the caller then tries again.

        The wait ends early when a limit of the run is reached, such as its longest duration, or
        when a signal asks the process to end.

        Args:
            error: the outage or the usage error that ended the latest attempt.
            update: a function that is called now, and often during the wait.

        """

        def wait(seconds: float) -> None:
            clock, stopped = self.clock, self.stop_requested
            deadline = clock.monotonic() + seconds
            while (remaining_seconds := deadline - clock.monotonic()) > 0 and not stopped.is_set():
                self.heartbeats.wait(stopped, min(remaining_seconds, POLL_SECONDS))
                update()

        update()
        self.resources.close_at_next_open(error)
        if not isinstance(error, (BrokerOutage, UsageError)):
            # The error came from the call of a handler, so the run was not idle until now.
            self.limits.restart_idle_time(self.clock.monotonic())
        self.outage_pause.hold(error, wait, self.limits.remaining_seconds)
