"""An interface for time, waiting and random numbers; the machine's clock, and a virtual clock.

Code that takes a Clock instead of `time`, `random` and `uuid` can be run in virtual time. A wait of
minutes then returns immediately, and the clock shows a time that is minutes later. With a seed, a
run can be repeated. A clock also starts the threads that wait by it. Everything that uses a broker
uses the clock of that broker (`broker.clock`).
"""

from __future__ import annotations

import math
import random
import selectors
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Protocol

from feedbus.errors import FeedbusError
from feedbus.process import threads
from feedbus.process.threads import Threads

NANOSECONDS = 1_000_000_000
Events = list[tuple[selectors.SelectorKey, int]]
# Makes a context manager around a wait that no handler causes, such as a wait for a server. The
# time of such a wait does not count for the time limit of a handler.
Waiting = Callable[[], AbstractContextManager[None]]


class NothingToWaitFor(FeedbusError):  # noqa: N818 -- clear without "Error"
    """A wait without a limit on a virtual clock would never end, so it raises this error."""


class Clock(Protocol):
    """The interface for time, waiting and random numbers; a broker's clock is `broker.clock`.

    SystemClock and VirtualClock implement it.

    Attributes:
        takes_time: whether a wait takes real time. If it does, a signal must be able to end it.
        random: the source of jitter and of random names.
        threads: starts the threads that wait by this clock.

    """

    takes_time: bool
    random: random.Random
    threads: Threads

    def monotonic(self) -> float:
        """Return a time in seconds that never goes back; only differences have a meaning."""

    def wall_nanoseconds(self) -> int:
        """Return the present time, in nanoseconds since 1970 (UTC)."""

    def sleep(self, seconds: float) -> None:
        """Wait for a number of seconds; on a virtual clock, the wait returns immediately."""

    def wait(self, event: threading.Event, seconds: float | None = None) -> bool:
        """Wait until an event is set, or until a time is over; return whether the event is set.

        Args:
            event: the event, which another thread can set.
            seconds: the longest time to wait; None for no limit.

        """

    def unique(self) -> str:
        """Return 32 random hexadecimal digits, for ids that are unique and cannot be guessed."""

    def select(self, selector: selectors.BaseSelector, seconds: float | None) -> Events:
        """Wait until a registered file is ready, and return the ready files with their events.

        Args:
            selector: the selector with the registered files.
            seconds: the longest time to wait; None to wait without a limit. After this time, the
                result is empty.

        """


class SystemClock:
    """The clock of the machine, and its random numbers; feedbus uses it outside of tests."""

    takes_time = True

    def __init__(self) -> None:
        """Create the clock; forked processes get different random numbers."""
        self.random: random.Random = random.SystemRandom()
        self.threads = threads.SYSTEM

    # The methods are the functions of the module time, so the interface costs no time per message.
    monotonic = staticmethod(time.monotonic)
    wall_nanoseconds = staticmethod(time.time_ns)
    sleep = staticmethod(time.sleep)

    def wait(self, event: threading.Event, seconds: float | None = None) -> bool:
        """Wait until an event is set, or until a time is over; return whether the event is set.

        Args:
            event: the event, which another thread can set.
            seconds: the longest time to wait; None for no limit.

        """
        return event.wait(seconds)

    def unique(self) -> str:
        """Return 128 random bits as 32 hexadecimal digits, for ids that nobody can guess."""
        return f"{self.random.getrandbits(128):032x}"

    def select(self, selector: selectors.BaseSelector, seconds: float | None) -> Events:
        """Wait until a registered file is ready, and return the ready files with their events.

        Args:
            selector: the selector with the registered files.
            seconds: the longest time to wait; None to wait without a limit. After this time, the
                result is empty.

        """
        return selector.select(seconds)


SYSTEM: Clock = SystemClock()


class VirtualClock:
    """A clock that stands still until something waits, and then advances by that time.

    Only one thread can use it: a wait does not give other threads time to run.

    Example:
        >>> clock = VirtualClock(datetime(2026, 1, 31, tzinfo=UTC))
        >>> clock.sleep(3600)
        >>> clock.now()
        datetime.datetime(2026, 1, 31, 1, 0, tzinfo=datetime.timezone.utc)

    """

    takes_time = False

    def __init__(self, start: datetime | None = None, *, seed: int | None = None) -> None:
        """Start the clock at a given time, by default at the machine's current time.

        Args:
            start: the time at which the clock begins.
            seed: the seed of the clock's random numbers; None for other numbers in each run.

        """
        begin = datetime.now(UTC) if start is None else start
        self._start = round(begin.timestamp() * 1_000_000) * 1_000
        self._passed = 0  # nanoseconds since the start of this clock
        self.random: random.Random = (
            random.SystemRandom() if seed is None else random.Random(seed)  # noqa: S311 -- no secrets
        )
        self.threads = threads.SYSTEM
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the current time of this clock, in UTC."""
        return datetime.fromtimestamp(self.wall_nanoseconds() / NANOSECONDS, UTC)

    def monotonic(self) -> float:
        """Return the seconds since the start of this clock."""
        return self._passed / NANOSECONDS

    def wall_nanoseconds(self) -> int:
        """Return the present time of this clock, in nanoseconds since 1970 (UTC)."""
        return self._start + self._passed

    def sleep(self, seconds: float) -> None:
        """Advance this clock by a number of seconds, and return immediately.

        Args:
            seconds: the seconds; 0 or less changes nothing.

        """
        if seconds > 0:
            with self._lock:
                # The time is rounded up: after a wait until a time, this time must be reached.
                self._passed += math.ceil(seconds * NANOSECONDS)

    def wait(self, event: threading.Event, seconds: float | None = None) -> bool:
        """Return whether an event is set; if it is not set, first advance the clock by the seconds.

        Args:
            event: the event.
            seconds: the longest time to wait; None for no limit.

        Raises:
            NothingToWaitFor: the event is not set, and there is no limit.

        """
        if not event.is_set():
            if seconds is None:
                msg = (
                    "a wait for an event would never end, because on a virtual clock nothing else"
                    " runs that could set it: set the event first, or wait with a time limit"
                )
                raise NothingToWaitFor(msg)
            self.sleep(seconds)
        return event.is_set()

    def unique(self) -> str:
        """Return 128 random bits as 32 hexadecimal digits; with a seed, they can be repeated."""
        return f"{self.random.getrandbits(128):032x}"

    def select(self, selector: selectors.BaseSelector, seconds: float | None) -> Events:
        """Return the files that are ready with their events; if none is, advance the clock.

        Args:
            selector: the selector with the registered files.
            seconds: by how many seconds the clock advances; None for a wait without a limit.

        Raises:
            NothingToWaitFor: nothing is ready, and there is no limit.

        """
        events = selector.select(0)
        if not events:
            if seconds is None:
                msg = (
                    "the event loop would wait for ever: no task is ready, no timer is set, and on"
                    " a virtual clock nothing else runs"
                )
                raise NothingToWaitFor(msg)
            self.sleep(seconds)
        return events
