"""Slow calls: they take so long that the broker may close the channel.

The broker closes the channel if a delivery is not settled within its consumer timeout. Then the
slow calls are the possible causes. A call is slow if it takes at least SLOW_SECONDS, a little less
than the shortest consumer timeout of any broker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from feedbus.clock import Clock
from feedbus.dispatch.concurrent_records import RecordCall
from feedbus.wire.constants import SLOW_SECONDS

# Slow calls are kept for this time after their end, because the broker reports its timeout late.
KEPT_SECONDS = 5.0


class SlowCalls:
    """Registers the starts and ends of calls, and finds the slow calls among them.

    A call is slow if it takes at least SLOW_SECONDS (0.9 s). The broker may close the channel
    because of a slow call. ConcurrentCalls has one SlowCalls object.
    """

    def __init__(self, clock: Clock) -> None:
        """Create the object without calls."""
        self._clock = clock
        self._started: deque[tuple[float, RecordCall]] = deque()
        # The slow calls that have ended: the time of the end, the message id, and the duration.
        self._ended_messages: deque[tuple[float, str, float]] = deque()

    def start(self, calls: Iterable[RecordCall], now: float) -> None:
        """Register that handler calls start now.

        Args:
            calls: the records whose calls start.
            now: the present time of the monotonic clock, in seconds.

        """
        for call in calls:
            call.started_at = now
            self._started.append((now, call))

    def end(self, call: RecordCall) -> None:
        """Register that a handler call has ended.

        Args:
            call: the record of the call.

        """
        if call.seconds >= SLOW_SECONDS and not call.is_known_as_slow:
            self._ended_messages.append((self._clock.monotonic(), call.message_id, call.seconds))

    @property
    def oldest_started_at(self) -> float | None:
        """When the oldest running call started; None if no call runs.

        The value is a time of the monotonic clock in seconds.
        """
        started = self._started
        # Calls that have ended are removed, and earlier starts of calls that were started again.
        while started and (started[0][1].has_ended or started[0][1].started_at != started[0][0]):
            started.popleft()
        return started[0][0] if started else None

    def durations(self, unfinished: Iterable[RecordCall]) -> list[tuple[str, float]]:
        """Return (message id, duration in seconds) of each slow call that runs or has just ended.

        A call is slow if it takes at least SLOW_SECONDS (0.9 s). A slow call is in the result until
        KEPT_SECONDS (5 s) after its end, because the broker may close the channel only then.

        Args:
            unfinished: the calls that have started, and for which end() was not called.

        """
        now = self._clock.monotonic()
        while self._ended_messages and self._ended_messages[0][0] < now - KEPT_SECONDS:
            self._ended_messages.popleft()
        ended = [(message_id, seconds) for _, message_id, seconds in self._ended_messages]
        others = [
            (call.message_id, call.seconds if call.has_ended else now - call.started_at)
            for call in unfinished
            if call.started_at and not call.is_known_as_slow
        ]
        return ended + [each for each in others if each[1] >= SLOW_SECONDS]

    def forget(self, unfinished: Iterable[RecordCall]) -> None:
        """Leave out all present calls in later results of durations().

        This method is called when the broker has closed the channel or cancelled the consumer, and
        the runner has counted a crash against the messages of slow calls. So no call is counted
        twice.

        Args:
            unfinished: the calls that have started, and for which end() was not called.

        """
        self._ended_messages.clear()
        for call in unfinished:
            call.is_known_as_slow = True
