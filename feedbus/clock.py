"""Time as a port: the machine's clock, or a virtual one that goes on only while somebody waits.

Code that takes a Clock instead of `time` can be run in virtual time: a wait of minutes returns at
once, and the clock shows minutes more.
"""

from __future__ import annotations

import math
import selectors
import threading
import time
from datetime import UTC, datetime
from typing import Protocol

from feedbus.errors import FeedbusError

NANOSECONDS = 1_000_000_000
Events = list[tuple[selectors.SelectorKey, int]]


class NothingToWaitFor(FeedbusError):  # noqa: N818 -- names what it is
    """A wait without a limit on a virtual clock: it would never end."""


class Clock(Protocol):
    """What code that waits, or that asks for the time, needs to know of it.

    Attributes:
        takes_time: whether a wait takes real time, so that a signal has to be able to end it.

    """

    takes_time: bool

    def monotonic(self) -> float:
        """Return seconds that never go back, from a beginning of no meaning."""

    def wall_nanoseconds(self) -> int:
        """Return the nanoseconds since 1970."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""

    def select(self, selector: selectors.BaseSelector, seconds: float | None) -> Events:
        """Wait until something that is registered is ready, for seconds at most; None for ever."""


class SystemClock:
    """The clock of the machine."""

    takes_time = True

    def monotonic(self) -> float:
        """Return the machine's monotonic seconds."""
        return time.monotonic()

    def wall_nanoseconds(self) -> int:
        """Return the nanoseconds since 1970."""
        return time.time_ns()

    def sleep(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    def select(self, selector: selectors.BaseSelector, seconds: float | None) -> Events:
        """Wait for what is registered."""
        return selector.select(seconds)


class VirtualClock:
    """A clock that stands still until somebody waits, and then goes on by what was waited for.

    It is for one thread: another thread, which could end a wait early, is not waited for.

    Example:
        >>> clock = VirtualClock(datetime(2026, 1, 31, tzinfo=UTC))
        >>> clock.sleep(3600)
        >>> clock.now()
        datetime.datetime(2026, 1, 31, 1, 0, tzinfo=datetime.timezone.utc)

    """

    takes_time = False

    def __init__(self, start: datetime | None = None) -> None:
        """Begin at a moment; without one, at the machine's time of now."""
        moment = datetime.now(UTC) if start is None else start
        self._start = round(moment.timestamp() * 1_000_000) * 1_000
        self._passed = 0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the moment that it shows, in UTC."""
        return datetime.fromtimestamp(self.wall_nanoseconds() / NANOSECONDS, UTC)

    def monotonic(self) -> float:
        """Return the seconds since its start."""
        return self._passed / NANOSECONDS

    def wall_nanoseconds(self) -> int:
        """Return the nanoseconds since 1970."""
        return self._start + self._passed

    def sleep(self, seconds: float) -> None:
        """Go on by some seconds; 0 or less change nothing."""
        if seconds > 0:
            with self._lock:
                self._passed += math.ceil(seconds * NANOSECONDS)  # a wait always ends

    def select(self, selector: selectors.BaseSelector, seconds: float | None) -> Events:
        """Return what is ready; where nothing is, go on by the seconds.

        Raises:
            NothingToWaitFor: nothing is ready, and there is no limit.

        """
        events = selector.select(0)
        if not events:
            if seconds is None:
                msg = "nothing is ready and nothing is due: on a virtual clock this wait never ends"
                raise NothingToWaitFor(msg)
            self.sleep(seconds)
        return events
