"""A lock file beside a SQLite file, by which the processes that write take turns."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, InvalidStateError

from feedbus.process.file_locks import lock, try_lock, unlock
from feedbus.process.fork_safety import close_in_forks
from feedbus.process.private_files import open_private

LOCK_TIMEOUT_SECONDS = 10.0  # how long a transaction waits for the lock


class WriteLock:
    """A file lock that only one connection at a time holds; a connection takes it before it writes.

    In SQLite itself, a waiting writer sleeps for up to 100 ms and tries again. With a dozen
    writers, some wait for seconds. With this lock, the kernel wakes the next writer directly, and
    releases the lock of a killed process.

    Args:
        path: the path of the lock file, beside the SQLite file; it is created if it is missing.
    """

    def __init__(self, path: str) -> None:
        """Create the object for the path of a lock file; the lock is not held."""
        self._path = path
        self._descriptor: int | None = None
        close_in_forks(self)

    def fileno(self) -> int:
        """Return the descriptor of the lock file, or -1 if this connection does not hold the lock.

        A forked child calls the method, to close its copy of the descriptor; see close_in_forks().
        """
        return -1 if self._descriptor is None else self._descriptor

    def acquire(self, timeout_seconds: float) -> bool:
        """Wait for the lock, at most timeout_seconds; return whether this connection holds it.

        If this connection holds the lock already, the method does nothing.

        After False, the caller may still begin a transaction: SQLite's own lock protects the file.

        Raises:
            OSError: the lock file cannot be created or opened.
        """
        if self._descriptor is not None:
            return True
        handle = open_private(self._path, os.O_CREAT | os.O_RDWR)
        if not try_lock(handle):
            return self._wait(handle, timeout_seconds)
        self._descriptor = handle
        return True

    def release(self) -> None:
        """Release the lock, so that the next connection can write; do nothing if it is not held."""
        if self._descriptor is not None:
            unlock(self._descriptor)  # explicitly, because a forked process may share it
            os.close(self._descriptor)
            self._descriptor = None

    def _wait(self, handle: int, timeout_seconds: float) -> bool:
        # The wait for a file lock has no time limit. So another thread waits for the lock, and this
        # thread waits for the other thread.
        granted: Future[None] = Future()
        threading.Thread(target=_lock_in_thread, args=(handle, granted), daemon=True).start()
        try:
            granted.result(timeout_seconds)
        except TimeoutError:
            if granted.cancel():  # false if the other thread has just got the lock
                return False
        self._descriptor = handle
        return True


def _lock_in_thread(handle: int, granted: Future[None]) -> None:
    lock(handle)
    try:
        granted.set_result(None)
    except InvalidStateError:  # nobody waits any more
        os.close(handle)
