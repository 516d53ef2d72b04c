"""Wait while a broker alarm blocks publishers; log each alarm once, and measure the waits.

If RabbitMQ is short of memory or disk space, it raises an alarm. Until the alarm ends, RabbitMQ
reads nothing from connections that publish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from feedbus.clock import Clock, Waiting
from feedbus.logs import EventLog
from feedbus.wire.amqp_protocols import RawConnection

events = EventLog(__name__)


class Alarm:
    """The state of a broker alarm (memory or disk) that blocks publishers.

    A publisher that connects again uses the same object. So one alarm is logged only once.

    Args:
        clock: measures the waits.
        on_waited: called with the seconds of each wait during an alarm.
        waiting: makes a context manager, which a publisher enters for each long wait, so that the
            wait does not count for the time limit of a handler.

    Attributes:
        is_active: whether an alarm blocks the publishers of the watched connection now.
    """

    def __init__(
        self,
        clock: Clock,
        on_waited: Callable[[float], None] = lambda _: None,
        *,
        waiting: Waiting = nullcontext,
    ) -> None:
        """Create the state; no alarm is active yet.

        Args:
            clock: the clock of the broker.
            on_waited: called after each wait during an alarm, with the seconds of the wait.
            waiting: returns a context manager, with which a long wait of a publisher does not count
                for the time limit of a handler. A wait is long during an alarm, after a second
                without a confirm, and before nacked messages are published again.

        """
        self._clock = clock
        self.waiting = waiting
        self._on_waited = on_waited
        self._since: float | None = None  # when the alarm began; None after its end is logged
        self.is_active = False

    def watch(self, connection: RawConnection) -> None:
        """Subscribe to the alarms of a py-amqp connection; each new publisher calls this method.

        A second call for the same connection has no effect.
        """
        self.is_active = False
        connection.on_blocked = self._on_blocked
        connection.on_unblocked = self._on_unblocked
        if connection.is_blocked:
            self._on_blocked("")

    @contextmanager
    def during_wait(self, *, long: bool = False) -> Iterator[None]:
        """Return a context manager for a `with` block in which the publisher waits for the broker.

        If an alarm is active when the block begins, the wait does not count for the time limit of a
        handler, and its duration in seconds is reported to the function `on_waited` of the
        constructor.

        Args:
            long: whether the publisher has already waited long for a slow broker. If so, the wait
                does not count for the time limit of a handler, even without an alarm.
        """
        started, blocked = self._clock.monotonic(), self.is_active
        try:
            with self.waiting() if blocked or long else nullcontext():
                yield
        finally:
            if blocked:
                self._on_waited(self._clock.monotonic() - started)

    def log_end(self) -> None:
        """Log once, after an alarm, that the broker accepts messages again.

        The publisher calls this method whenever the broker has answered all of its messages.
        """
        if self._since is not None and not self.is_active:
            seconds = self._clock.monotonic() - self._since
            events.warning(
                "broker_unblocked",
                f"the broker accepts messages again, {seconds:.1f} s after it blocked publishers",
                seconds=seconds,
            )
            self._since = None

    def _on_blocked(self, _reason: str) -> None:
        self.is_active = True
        if self._since is None:
            self._since = self._clock.monotonic()
            events.warning(
                "broker_blocked",
                "the broker is short of memory or disk space and blocks publishers; publishing"
                " waits until it accepts messages again; run `rabbitmq-diagnostics alarms` or read"
                " the broker's log",
            )

    def _on_unblocked(self) -> None:
        self.is_active = False
