"""Slow calls: they take so long that the broker may close the channel.

The broker closes the channel if a delivery is not settled within its consumer timeout. Then the
slow calls are the possible causes. A call is slow if it takes at least the shortest consumer
timeout of any broker, LEAST_TIMEOUT_SECONDS.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from feedbus.clock import Clock
from feedbus.dispatch.concurrent_records import RecordCall
from feedbus.wire.constants import LEAST_TIMEOUT_SECONDS

# Slow calls are kept for this time after their end, because the broker reports its timeout late.
KEPT_SECONDS = 5.0


class SlowCalls:
    """Registers the starts and ends of calls, and finds the slow calls among them.

    The broker may close the channel because of a slow call. ConcurrentCalls has one SlowCalls
    object.
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
        if call.seconds >= LEAST_TIMEOUT_SECONDS and not call.is_known_as_slow:
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

    def durations(self, running: Iterable[RecordCall]) -> list[tuple[str, float]]:
        """Return (message id, seconds) of each slow call that runs or has just ended.

        Args:
            running: the calls that have started and have not ended.

        """
        now = self._clock.monotonic()
        while self._ended_messages and self._ended_messages[0][0] < now - KEPT_SECONDS:
            self._ended_messages.popleft()
        ended = [(message_id, seconds) for _, message_id, seconds in self._ended_messages]
        running_calls = [
            (call.message_id, now - call.started_at) for call in running if call.started_at
        ]
        return ended + [each for each in running_calls if each[1] >= LEAST_TIMEOUT_SECONDS]

    def forget(self, running: Iterable[RecordCall]) -> None:
        """Remove the ended calls from durations() now, and the running calls at their end.

        This method is called when the broker has closed the channel or cancelled the consumer, and
        the runner has counted a crash against slow messages. So no call is counted twice.

        Args:
            running: the calls that have started and have not ended.

        """
        self._ended_messages.clear()
        for call in running:
            call.is_known_as_slow = True
