"""Find dead connections by their locks, which the kernel releases when their processes end."""

from __future__ import annotations

import os
from pathlib import Path

from feedbus.process.file_locks import try_lock
from feedbus.process.private_files import open_private


class Locks:
    """Holds the lock of one connection, and checks the locks of other connections.

    Args:
        folder: the folder of the lock files, which is beside the broker file.
    """

    def __init__(self, folder: Path) -> None:
        """Create the object with the folder of the lock files; no lock is held yet."""
        self._folder = folder
        self._own: Path | None = None
        self._handle = -1

    def begin(self, connection_id: int) -> None:
        """Create and lock the file of this connection, before other connections can see its id.

        Raises:
            BlockingIOError: the file of this id is locked already.
            OSError: the file cannot be created.
        """
        self._own = self._path(connection_id)
        self._handle = open_private(self._own, os.O_RDWR | os.O_CREAT)
        if not try_lock(self._handle):
            msg = f"{self._own} is locked already"
            raise BlockingIOError(msg)

    def end(self) -> None:
        """Release the lock and remove the file; a second call does nothing."""
        if self._handle >= 0 and self._own is not None:
            self._own.unlink(missing_ok=True)
            self.drop()

    def drop(self) -> None:
        """Close the descriptor of the lock; a forked child calls this method for its copy.

        Otherwise the child would keep the lock after the death of its parent.
        """
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def is_live(self, connection_id: int) -> bool:
        """Return whether the connection with this id is live: whether its file is locked.

        The check takes the lock for a moment if the connection is dead. So the caller must hold the
        write lock of the broker file: otherwise a second check at this moment could find the lock
        taken, and return True.
        """
        try:
            handle = os.open(self._path(connection_id), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not try_lock(handle)
        finally:
            os.close(handle)

    def sweep(self, connection_id: int) -> None:
        """Remove the lock file and the socket of the dead connection with this id."""
        for path in (self._path(connection_id), self._folder / f"{connection_id}.sock"):
            path.unlink(missing_ok=True)

    def _path(self, connection_id: int) -> Path:
        return self._folder / f"{connection_id}.lock"


def process_namespace() -> str:
    """Return the PID namespace of this process; "unknown" if the system does not name it.

    Only processes of the same namespace can watch each other by their process ids.
    """
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "unknown"
