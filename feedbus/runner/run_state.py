"""The state that the parts of a consumer's run share: its limits, deliveries and waits."""

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
FIRST_CHECK_SECONDS = 0.05  # before the first check whether another consumer's queue is free
LONG_POLL_SECONDS = 5.0  # the longest wait, if a signal ends it
HERE_SECONDS = 0.0001  # the time limit for reading data that has already arrived


@dataclass(slots=True)
class Run:
    """One run of a consumer.

    Attributes:
        topology: the topology of the system.
        consumer: the consumer of the queue.
        dispatch: calls the handlers.
        resources: the resources of the handlers.
        crash_guard: finds messages that may have ended a process.
        heartbeats: sends heartbeats while handlers run.
        holding: waits during an outage, longer after each failed attempt.
        timeout: how long the broker waits for an acknowledgement.
        limits: the remaining limits of the run.
        waiting: the waiting queues; None if the queue has no `order_by`.
        handler_seconds: the time limit of a handler call.
        clock: the clock that is used for waiting.
        assigned: returns whether the queue is assigned to this host now.
        buffer: deliveries that have arrived and are not handled yet.
        stop_requested: whether the run is to end cleanly.
        removal_reason: why this consumer has no queue any more; None while it has one.
        standby_seconds: time until the next check whether the queue of another consumer is free.
        check_seconds: time until the next check of the queues of older generations.

    """

    topology: Topology
    consumer: Consumer
    dispatch: Dispatch
    resources: Resources
    crash_guard: CrashGuard
    heartbeats: Heartbeats
    holding: OutagePause
    timeout: ConsumerTimeout
    limits: RemainingLimits
    waiting: WaitingQueues | None
    handler_seconds: float
    clock: Clock
    assigned: Callable[[], bool]
    buffer: Buffer = field(default_factory=Buffer)
    stop_requested: threading.Event = field(default_factory=threading.Event)
    removal_reason: str | None = None
    standby_seconds: float = math.inf
    check_seconds: float = math.inf

    def ended(self, *, working: bool = False) -> str | None:
        """Return why the run is over, or None if it continues.

        Args:
            working: whether deliveries are handled now.

        """
        if self.stop_requested.is_set():
            return "stopped by a signal"
        return self.removal_reason or self.limits.used_up(waiting=bool(self.buffer) or working)

    def goes_on(self, *, working: bool = False) -> bool:
        """Whether this process must continue to read its queue; see ended()."""
        return self.ended(working=working) is None and self.assigned()

    def await_assignment(self) -> None:
        """Wait while another host works on the queue; this process can begin at any time."""
        name = self.consumer.name
        text = f"{name} does not read its queue now: its shard is assigned to another host"
        events.info("standing_by", text, consumer=name)
        self.holding.record_success()
        while self.ended() is None and not self.assigned():
            self.clock.wait(self.stop_requested, POLL_SECONDS)
            self.limits.idle_from(self.clock.monotonic())
        if self.assigned():
            text = f"{name} reads its queue: its shard is assigned to this host now"
            events.info("assigned", text, consumer=name)

    def set_standby(self, *, stands_by: bool) -> None:
        """Set how soon to check again whether a queue that another consumer reads is free."""
        if not stands_by:
            self.standby_seconds = math.inf
        elif self.standby_seconds == math.inf:
            self.standby_seconds = FIRST_CHECK_SECONDS
        else:
            self.standby_seconds = min(2 * self.standby_seconds, POLL_SECONDS)

    def wait_seconds(
        self, raw: RawConnection, *, working: bool = False, takes_due: bool = True
    ) -> float:
        """Return how many seconds to wait for a delivery: at most until a limit.

        If signals do not wake the connection, the wait is short, so that the run notices them.

        Args:
            raw: the connection.
            working: whether deliveries are handled now, so that the run is not idle.
            takes_due: whether a waiting record can be handled as soon as its time has come.

        """
        wakes = getattr(raw, "wakes_on_signals", False)
        longest = min(LONG_POLL_SECONDS if wakes else POLL_SECONDS, self.standby_seconds)
        longest = min(longest, self.check_seconds)
        if takes_due:
            longest = min(longest, self.until_due())
        if not working:
            longest = min(longest, self.limits.idle_seconds)
        return max(min(longest, self.limits.run_seconds), 0.001)

    def until_due(self) -> float:
        """Return in how many seconds a waiting record may run; infinity if none waits."""
        return self.waiting.seconds_until_due() if self.waiting is not None else math.inf

    def full(self) -> bool:
        """Whether the limit of waiting records is reached, so that no more may be read."""
        return self.waiting is not None and self.waiting.full()

    @property
    def must_read_anew(self) -> bool:
        """Whether, after an outage, the waiting records must be read again."""
        return self.waiting is not None and self.waiting.unsettled

    def receive(self, raw: RawConnection, timeout: float) -> None:
        """Wait for a delivery for `timeout` seconds, and read all that have arrived.

        take_arrived() does not suffice here: on the embedded broker it fetches nothing new.
        """
        while not self.stop_requested.is_set():
            try:
                raw.drain_events(timeout=max(timeout, HERE_SECONDS))
            except TimeoutError:
                break
            timeout = 0.0

    def hold(
        self, error: Outage | UsageError, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Wait before the next attempt, longer each time, at most until a limit or a signal.

        Args:
            error: the cause.
            meanwhile: a function that is called often during the wait.

        """

        def wait(seconds: float) -> None:
            clock, stopped = self.clock, self.stop_requested
            deadline = clock.monotonic() + seconds
            while (left := deadline - clock.monotonic()) > 0 and not stopped.is_set():
                self.heartbeats.wait(stopped, min(left, POLL_SECONDS))
                meanwhile()

        if not isinstance(error, (BrokerOutage, UsageError)):
            # A handler was called until now, so only the wait itself can be idle time.
            self.limits.idle_from(self.clock.monotonic())
        self.holding.hold(error, wait, self.limits.run_seconds)
