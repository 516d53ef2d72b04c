"""The resident memory of this process."""

from __future__ import annotations

import contextlib
import os

STATM_BYTES = 200  # more than the length of /proc/self/statm
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ResidentMemory:
    """The resident memory of this process, read from a file that stays open.

    RemainingLimits has one ResidentMemory object, for the option `memory_limit`.
    """

    def __init__(self) -> None:
        """Open /proc/self/statm; on a system without it, only the kernel limits the memory."""
        self._statm: int | None = None
        with contextlib.suppress(OSError):
            self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def exceeds(self, limit_bytes: int) -> bool:
        """Whether the resident memory of this process is larger than a number of bytes.

        On a system without /proc/self/statm, the result is False.

        Args:
            limit_bytes: the number of bytes.

        """
        if self._statm is None:
            return False
        return int(os.pread(self._statm, STATM_BYTES, 0).split()[1]) * PAGE_BYTES > limit_bytes

    def close(self) -> None:
        """Close the file from which the memory is read."""
        if self._statm is not None:
            os.close(self._statm)
            self._statm = None
