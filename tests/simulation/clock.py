"""The interface of time, waiting and random numbers, over a scheduler."""

from __future__ import annotations

import math
import random
import selectors
import threading
from collections.abc import Callable

from feedbus.clock import Events
from feedbus.transports.sqlite.event_wait import WOKEN
from tests.simulation.scheduler import SECONDS, Scheduler
from tests.simulation.threads import SimulatedThreads

START = 1_800_000_001 * SECONDS  # no moment of the schedule


class SimulatedClock:
    """The clock of every simulated process."""

    takes_time = False

    def __init__(self, scheduler: Scheduler, woken: Callable[[], bool] | None = None) -> None:
        """Wait by a scheduler; woken says whether a wait for descriptors is over."""
        self.random: random.Random = scheduler.random
        self.threads = SimulatedThreads(scheduler)
        self._scheduler = scheduler
        self._woken = woken

    def monotonic(self) -> float:
        """Return virtual seconds."""
        return self._scheduler.now / SECONDS

    def wall_nanoseconds(self) -> int:
        """Return virtual nanoseconds since 1970."""
        return START + self._scheduler.now

    def sleep(self, seconds: float) -> None:
        """Give the turn away for so long."""
        self._scheduler.wait(f"sleeps {seconds:.3f} s", until=self._in(seconds))

    def wait(self, event: threading.Event, seconds: float | None = None) -> bool:
        """Give the turn away until an event is set."""
        until = None if seconds is None else self._in(seconds)
        if not event.is_set():
            self._scheduler.wait("waits for an event", until=until, ready=event.is_set)
        return event.is_set()

    def unique(self) -> str:
        """Return 32 hexadecimal digits."""
        return f"{self.random.getrandbits(128):032x}"

    def select(self, selector: selectors.BaseSelector, seconds: float | None) -> Events:
        """Give the turn away until the broker or a thread wakes this process."""
        woken = self._woken
        if woken is not None and len(selector.get_map()) == 1 and not woken():
            events: Events = []  # it waits for wake-ups alone
        else:
            events = selector.select(0)
        if not events and seconds != 0:
            until = None if seconds is None else self._in(seconds)
            what, ready = "waits for the broker", woken
            if woken is None:
                what, ready = "waits for a thread", lambda: bool(selector.select(0))
            elif any(key.data == WOKEN for key in selector.get_map().values()):
                ready = lambda: woken() or bool(selector.select(0))  # noqa: E731 -- as above
            self._scheduler.wait(what, until=until, ready=ready)
            self.check_open()
            events = selector.select(0)
        return events

    def check_open(self) -> None:
        """Raise an error if the awaited event can never come."""

    def _in(self, seconds: float) -> int:
        if math.isinf(seconds):
            return self._scheduler.now + 10**6 * SECONDS
        return self._scheduler.now + math.ceil(max(seconds, 0) * SECONDS)
