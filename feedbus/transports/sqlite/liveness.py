"""Which connections live: each holds a lock that the kernel releases when its process dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from feedbus.private_files import open_private


class Pulse:
    """A connection's sign of life: a locked file named by the connection's id."""

    def __init__(self, folder: Path, owner: int) -> None:
        """Create and lock the file; do so before others can see the id."""
        self.path = lock_path(folder, owner)
        self._handle = open_private(self.path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def stop(self) -> None:
        """Release the lock and remove the file; a second time does nothing."""
        if self._handle >= 0:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
            self.drop()

    def drop(self) -> None:
        """Close this process's copy of the lock, which a child would keep when its parent died."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def lock_path(folder: Path, owner: int) -> Path:
    """Name the lock of a connection."""
    return folder / f"{owner}.lock"


def lives(folder: Path, owner: int) -> bool:
    """Tell whether a connection lives; it takes the lock to see, so hold the write lock."""
    try:
        handle = os.open(lock_path(folder, owner), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def sweep(folder: Path, owner: int) -> None:
    """Remove what a dead connection left in the folder."""
    for path in (lock_path(folder, owner), folder / f"{owner}.sock"):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def process_namespace() -> str:
    """Name the space in which this process's id has a meaning: others cannot be watched by id."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "unknown"
