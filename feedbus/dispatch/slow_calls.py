"""Calls of handlers that take so long that the broker may close the channel."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from feedbus.clock import Clock
from feedbus.dispatch.concurrent_records import Work
from feedbus.wire.constants import LEAST_TIMEOUT_SECONDS

KEPT_SECONDS = 5.0  # how long ended calls are kept, because the broker reports its timeout late


class SlowCalls:
    """The start of each running call, and the slow calls that have just ended."""

    def __init__(self, clock: Clock) -> None:
        """Create the object without calls."""
        self._clock = clock
        self._begun: deque[tuple[float, Work]] = deque()
        # The messages that took long and have ended: the time of their end, and the duration.
        self._ended: deque[tuple[float, str, float]] = deque()

    def start(self, works: Iterable[Work], now: float) -> None:
        """Register that calls start now."""
        for work in works:
            work.started_at = now
            self._begun.append((now, work))

    def end(self, work: Work) -> None:
        """Register that a call has ended."""
        if work.seconds >= LEAST_TIMEOUT_SECONDS and not work.known_slow:
            self._ended.append((self._clock.monotonic(), work.message_id, work.seconds))

    @property
    def oldest_started_at(self) -> float | None:
        """The start time of the call that has run longest; None if no call runs."""
        begun = self._begun
        while begun and (begun[0][1].ended or begun[0][1].started_at != begun[0][0]):
            begun.popleft()
        return begun[0][0] if begun else None

    def durations(self, running: Iterable[Work]) -> list[tuple[str, float]]:
        """Return the messages whose calls take long or have just taken long, and the durations."""
        now = self._clock.monotonic()
        while self._ended and self._ended[0][0] < now - KEPT_SECONDS:
            self._ended.popleft()
        ended = [(message_id, took) for _, message_id, took in self._ended]
        lasting = [(work.message_id, now - work.started_at) for work in running if work.started_at]
        return ended + [each for each in lasting if each[1] >= LEAST_TIMEOUT_SECONDS]

    def forget(self, running: Iterable[Work]) -> None:
        """Remove the ended calls from durations().

        A call that still runs is listed until it ends, and not afterwards.
        """
        self._ended.clear()
        for work in running:
            work.known_slow = True
