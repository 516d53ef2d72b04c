"""The limits that end a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from feedbus.clock import Clock
from feedbus.runner.resident_memory import ResidentMemory
from feedbus.units import counted


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that end a run; None means no limit.

    `feedbus run` takes them from its options and the topology.

    Attributes:
        max_messages: the largest number of handled deliveries.
        idle_timeout_seconds: the longest time since the last delivery.
        max_runtime_seconds: the longest time since the start.
        memory_limit_bytes: the largest resident memory after a batch. With this limit, a consumer
            with a memory leak ends cleanly before the kernel kills it.

    """

    max_messages: int | None = None
    idle_timeout_seconds: float | None = None
    max_runtime_seconds: float | None = None
    memory_limit_bytes: int | None = None


class RemainingLimits:
    """What is left of the limits of a run.

    The run begins when the object is created. Each run has one RemainingLimits object.

    Attributes:
        handled: how many deliveries were handled, since the creation of the object.

    """

    def __init__(self, limits: Limits, clock: Clock) -> None:
        """Create the object; from now on, handled messages and time count against the limits."""
        self._clock = clock
        self._limits = limits
        self._memory = ResidentMemory()
        self.handled = 0
        self._started = self._idle_since = self._clock.monotonic()

    def close(self) -> None:
        """Close the file from which the resident memory is read; called at the end of the run."""
        self._memory.close()

    def restart_idle_time(self, now: float) -> None:
        """Begin the idle time again, at the time `now`.

        This method is called when a delivery has arrived or was handled, and when the consumer
        begins to wait for deliveries.

        Args:
            now: the present time of the monotonic clock, in seconds.

        """
        self._idle_since = now

    def count_handled(self, deliveries: int) -> None:
        """Count handled deliveries.

        This method is called after each batch.

        Args:
            deliveries: the number of deliveries that were settled.

        """
        self.handled += deliveries

    @property
    def remaining_messages(self) -> float:
        """The number of deliveries that may still be handled; infinity if there is no limit."""
        return (self._limits.max_messages or math.inf) - self.handled

    @property
    def remaining_seconds(self) -> float:
        """The number of seconds that the run may still last; infinity if there is no limit."""
        ends_at = self._started + (self._limits.max_runtime_seconds or math.inf)
        return ends_at - self._clock.monotonic()

    @property
    def remaining_idle_seconds(self) -> float:
        """How many seconds the run may still wait for a delivery; infinity if there is no limit."""
        idle = self._limits.idle_timeout_seconds or math.inf
        return self._idle_since + idle - self._clock.monotonic()

    def reached_limit(self, *, waiting: bool) -> str | None:
        """Return a text for the log that names a reached limit; None if no limit is reached.

        The runner asks this before each batch, and while it waits.

        Args:
            waiting: whether deliveries wait to be handled, so that the run is not idle.

        """
        limits = self._limits
        if self.remaining_messages <= 0:
            return f"handled {counted(self.handled, 'message')}"
        if self.remaining_seconds <= 0:
            return f"ran for {limits.max_runtime_seconds:g} s"
        if not waiting and self.remaining_idle_seconds <= 0:
            return f"idle for {limits.idle_timeout_seconds:g} s"
        limit = limits.memory_limit_bytes
        if limit is not None and self._memory.exceeds(limit):
            return "used more memory than memory_limit"
        return None
