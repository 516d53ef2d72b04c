"""When a run ends by itself."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from feedbus.runner.memory import ResidentMemory


@dataclass(frozen=True, slots=True)
class Limits:
    """When a runner ends by itself; None is never.

    Attributes:
        max_messages: deliveries handled.
        idle_timeout_seconds: since anything came.
        max_runtime_seconds: since the start.
        memory_limit_bytes: resident after a batch; a leak ends here, not in the kernel's killer.

    """

    max_messages: int | None = None
    idle_timeout_seconds: float | None = None
    max_runtime_seconds: float | None = None
    memory_limit_bytes: int | None = None


class Allowance:
    """What is left of a run's limits."""

    def __init__(self, limits: Limits) -> None:
        """Begin the run."""
        self._limits = limits
        self._memory = ResidentMemory()
        self._handled = 0
        self._started = self._idle_from = time.monotonic()

    def close(self) -> None:
        """Let go of what memory is read from."""
        self._memory.close()

    def idle_from(self, now: float) -> None:
        """Note that a delivery has come or was handled, or that waiting begins, by the clock."""
        self._idle_from = now

    def handled(self, deliveries: int) -> None:
        """Count deliveries."""
        self._handled += deliveries

    @property
    def messages(self) -> float:
        """How many deliveries may still be handled."""
        return (self._limits.max_messages or math.inf) - self._handled

    @property
    def run_seconds(self) -> float:
        """How long the run may still go on."""
        return self._started + (self._limits.max_runtime_seconds or math.inf) - time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """How long a delivery may still be waited for."""
        idle = self._limits.idle_timeout_seconds or math.inf
        return self._idle_from + idle - time.monotonic()

    def used_up(self, *, waiting: bool) -> str | None:
        """Return which limit is reached, None while none is.

        Args:
            waiting: whether deliveries wait to be handled, so that the run is not idle.

        """
        limits = self._limits
        if self.messages <= 0:
            return f"handled {self._handled} messages"
        if self.run_seconds <= 0:
            return f"ran for {limits.max_runtime_seconds:g} s"
        if not waiting and self.idle_seconds <= 0:
            return f"idle for {limits.idle_timeout_seconds:g} s"
        limit = limits.memory_limit_bytes
        if limit is not None and self._memory.above(limit):
            return "above its memory limit"
        return None
