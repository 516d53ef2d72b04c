"""Decide after the end of a process: restart immediately, wait, or give up."""

from __future__ import annotations

import signal
from dataclasses import dataclass

# If a process ends after it was ready for longer than this, it did not fail right after its start.
SETTLED_SECONDS = 1.0
# The same limit, from the start, for a process that was never ready, or does not report when it is.
SILENT_SECONDS = 10.0
# The wait after the second end in a row soon after the start. Each further such end doubles it.
FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 2.0


@dataclass(slots=True)
class RestartPolicy:
    """Counts how often in a row the processes of a watcher have failed right after their start.

    Each watcher has one RestartPolicy object.

    Attributes:
        start_retries: the number of failures in a row after which no process is started.
        failures: the number of failures in a row.
        ends: the number of ends in a row soon after the start, including ends without a failure.

    """

    start_retries: int
    failures: int = 0
    ends: int = 0

    @property
    def exhausted(self) -> bool:
        """Whether the watcher must give up: too many failures in a row came after a start."""
        return self.failures >= self.start_retries

    def count_end(self, exit_code: int, lived_seconds: float, ready_seconds: float | None) -> float:
        """Count the end of a process; return the seconds to wait before the next start.

        The watcher calls the method for each process that ends without a request.

        Args:
            exit_code: the exit code as in subprocess; negative after a signal.
            lived_seconds: the time from the start of the process to its end.
            ready_seconds: how long the process was ready, or None if it was never ready.

        """
        if ready_seconds is None:
            right_after_start = lived_seconds < SILENT_SECONDS
        else:
            right_after_start = ready_seconds < SETTLED_SECONDS
        if exit_code == 0:
            # A consumer that ended because of one of its limits has not failed. But it must not
            # restart too often.
            self.failures = 0
            self.ends = self.ends + 1 if lived_seconds < SETTLED_SECONDS else 0
        else:
            self.failures = self.failures + 1 if right_after_start else 0
            self.ends = self.failures
        if self.ends <= 1:
            return 0.0
        doubled = FIRST_WAIT_SECONDS * 2.0 ** min(self.ends - 2, 10)
        return min(doubled, LONGEST_WAIT_SECONDS)

    def reset(self) -> None:
        """Forget all counted ends; called when an operator has started the watcher."""
        self.failures = self.ends = 0


def describe_exit(exit_code: int) -> str:
    """Return how a process ended, such as "exit code 1" or "killed by SIGKILL".

    Args:
        exit_code: the exit code as in subprocess: negative after a signal.

    """
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
