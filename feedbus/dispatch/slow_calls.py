"""Calls of handlers that take so long that the broker may close the channel."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from feedbus.clock import Clock
from feedbus.dispatch.concurrent_records import RecordCall
from feedbus.wire.constants import LEAST_TIMEOUT_SECONDS

KEPT_SECONDS = 5.0  # how long ended calls are kept, because the broker reports its timeout late


class SlowCalls:
    """Registers the starts and ends of calls, and finds the slow calls among them."""

    def __init__(self, clock: Clock) -> None:
        """Create the object without calls."""
        self._clock = clock
        self._started: deque[tuple[float, RecordCall]] = deque()
        # The messages that took long and have ended: the time of their end, and the duration.
        self._ended_messages: deque[tuple[float, str, float]] = deque()

    def start(self, calls: Iterable[RecordCall], now: float) -> None:
        """Register that calls start now."""
        for call in calls:
            call.started_at = now
            self._started.append((now, call))

    def end(self, call: RecordCall) -> None:
        """Register that a call has ended."""
        if call.seconds >= LEAST_TIMEOUT_SECONDS and not call.is_known_as_slow:
            self._ended_messages.append((self._clock.monotonic(), call.message_id, call.seconds))

    @property
    def oldest_started_at(self) -> float | None:
        """The start time of the call that has run longest; None if no call runs."""
        started = self._started
        while started and (started[0][1].has_ended or started[0][1].started_at != started[0][0]):
            started.popleft()
        return started[0][0] if started else None

    def durations(self, running: Iterable[RecordCall]) -> list[tuple[str, float]]:
        """Return the messages whose calls take long or have just taken long, and the durations."""
        now = self._clock.monotonic()
        while self._ended_messages and self._ended_messages[0][0] < now - KEPT_SECONDS:
            self._ended_messages.popleft()
        ended = [(message_id, seconds) for _, message_id, seconds in self._ended_messages]
        running_calls = [
            (call.message_id, now - call.started_at) for call in running if call.started_at
        ]
        return ended + [each for each in running_calls if each[1] >= LEAST_TIMEOUT_SECONDS]

    def forget(self, running: Iterable[RecordCall]) -> None:
        """Remove the ended calls from durations().

        A call that still runs is listed until it ends, and not afterwards.
        """
        self._ended_messages.clear()
        for call in running:
            call.is_known_as_slow = True
