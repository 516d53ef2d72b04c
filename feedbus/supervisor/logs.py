"""A watcher's log: what its processes write to stdout and stderr, rotated by size."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any


class RotatedLog:
    """A circus stream that appends bytes to a file of mode 0600 and keeps some older ones.

    circus's own FileStream decodes what it is given piecewise and raises when the disk is full;
    this one passes bytes on as they are, and a full disk costs lines, never the supervisor.
    """

    def __init__(self, filename: str, max_bytes: int, backup_count: int) -> None:
        """Write to filename until it holds max_bytes; keep backup_count files before it."""
        self.path = Path(filename)
        self.max_bytes = max_bytes
        self.backup_count = backup_count
        self._handle: int | None = None

    def __call__(self, received: dict[str, Any]) -> None:
        """Append what a process wrote."""
        with contextlib.suppress(OSError):
            self.open()
            if self._handle is not None:
                if os.fstat(self._handle).st_size + len(received["data"]) > self.max_bytes:
                    self._rotate()
                os.write(self._handle, received["data"])

    def open(self) -> None:
        """Open the file, unless it is open."""
        if self._handle is None:
            with contextlib.suppress(OSError):
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
                self._handle = os.open(self.path, flags, 0o600)

    def close(self) -> None:
        """Close the file; the next write opens it again."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _rotate(self) -> None:
        self.close()
        for number in range(self.backup_count, 0, -1):
            newer = f"{self.path}.{number - 1}" if number > 1 else str(self.path)
            if os.path.exists(newer):  # noqa: PTH110 -- a numbered name, no path object
                os.replace(newer, f"{self.path}.{number}")  # noqa: PTH105 -- the same
        self.open()
