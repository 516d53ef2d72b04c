"""A queue of the processes that write to a SQLite file, so that none of them waits for long."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, InvalidStateError

from feedbus.process.file_locks import lock, try_lock, unlock
from feedbus.process.fork_safety import close_in_forks
from feedbus.process.private_files import open_private

TURN_SECONDS = 10.0


class WriteTurn:
    """The turn of one connection: its right to write. A file lock gives it to one at a time.

    In SQLite itself, a waiting writer sleeps for up to 100 ms and tries again. With a dozen
    writers, some wait for seconds. With this lock, the kernel wakes the next writer directly, and
    releases the lock of a killed process.
    """

    def __init__(self, path: str) -> None:
        """Create the object for a lock file, which only its owner can read."""
        self._path = path
        self._held: int | None = None
        close_in_forks(self)

    def fileno(self) -> int:
        """Return the descriptor of the lock, or -1 if it is not this connection's turn."""
        return -1 if self._held is None else self._held

    def take(self, patience_seconds: float) -> bool:
        """Wait for the turn; return False if the wait exceeds patience_seconds."""
        handle = open_private(self._path, os.O_CREAT | os.O_RDWR)
        if not try_lock(handle):
            return self._wait(handle, patience_seconds)
        self._held = handle
        return True

    def give(self) -> None:
        """End the turn, so that the next connection can write; without a turn, do nothing."""
        if self._held is not None:
            unlock(self._held)  # explicitly, because a forked process may share it
            os.close(self._held)
            self._held = None

    def _wait(self, handle: int, patience_seconds: float) -> bool:
        # The wait for a file lock has no time limit. So another thread waits for the lock, and this
        # thread waits for the other thread.
        granted: Future[None] = Future()
        threading.Thread(target=_queue, args=(handle, granted), daemon=True).start()
        try:
            granted.result(patience_seconds)
        except TimeoutError:
            if granted.cancel():
                return False
        self._held = handle
        return True


def _queue(handle: int, granted: Future[None]) -> None:
    lock(handle)
    try:
        granted.set_result(None)
    except InvalidStateError:  # nobody waits any more
        os.close(handle)
