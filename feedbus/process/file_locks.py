"""Locks on files; the kernel releases them when their holder ends for any reason.

There are two kinds:

- A lock on an open file (flock) ends at unlock(), or when every copy of its descriptor is closed,
  also the copies of forked children. try_lock(), lock(), unlock() and locked() use this kind.
- A record lock (lockf) belongs to one process: its children do not hold the lock, and the kernel
  knows the id of the holder. The lock ends when the process closes any descriptor of the file.
  take_lock() and lock_holder() use this kind. last_holder() only reads the id that take_lock() has
  written to the file.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from feedbus.process.private_files import open_private

POLL_SECONDS = 0.05  # between two attempts to take a lock
FLOCK = struct.Struct("hhqqi4x")  # fcntl(2): type, whence, start, length, process id


def try_lock(descriptor: int) -> bool:
    """Lock an open file (flock); return False if another process has locked it.

    Args:
        descriptor: the descriptor of the file.

    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(descriptor: int) -> None:
    """Lock an open file (flock); wait in the kernel until the lock is free.

    Args:
        descriptor: the descriptor of the file.

    """
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def unlock(descriptor: int) -> None:
    """Release the lock of an open file, even if a forked process or a mapping keeps it open.

    Args:
        descriptor: the descriptor of the file.

    """
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def poll(take: Callable[[], bool], wait_seconds: float) -> bool:
    """Call a function until it returns True, with short pauses; return False after some time.

    Args:
        take: the function, such as one that tries to take a lock.
        wait_seconds: how long to try.

    """
    deadline = time.monotonic() + wait_seconds
    while not take():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


@contextmanager
def locked(path: Path, wait_seconds: float) -> Iterator[bool]:
    """Hold the lock (flock) on a file in a `with` block; yield whether this process holds it.

    The block gets False if another process still holds the lock after `wait_seconds`.

    Args:
        path: the file; it is created with its folder if it is missing.
        wait_seconds: how long to wait for the lock.

    Raises:
        NotPrivate: the file is a link, is not a regular file, or belongs to another user.
        OSError: the file cannot be created.

    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        yield poll(lambda: try_lock(descriptor), wait_seconds)
    finally:
        os.close(descriptor)


def take_lock(path: Path, *, patience_seconds: float = 0.0) -> int:
    """Lock a file for this process, and write the process id to the file.

    The lock is a POSIX record lock (fcntl.lockf). It belongs to this process only: a forked child
    does not inherit it. A supervisor takes such a lock. So does each consumer's process, for its
    slot (its number among the processes of the consumer).

    Args:
        path: the file; it is created if it is missing.
        patience_seconds: how long to wait while another process holds the lock.

    Returns:
        The descriptor of the file; the caller closes it to release the lock.

    Raises:
        BlockingIOError: another process holds the lock; the error's second argument is the id of
            that process, as text, or "unknown".
        NotPrivate: the file is a link, is not a regular file, or belongs to another user.
        OSError: the file cannot be created.

    """
    deadline = time.monotonic() + patience_seconds
    while True:
        handle = open_private(path, os.O_RDWR | os.O_CREAT, any_owner=True)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # `feedbus down` can have deleted the file between the open and the lock. Another
            # process would then lock a new file at this path. So the attempt is repeated.
            if os.path.samestat(os.fstat(handle), os.stat(path)):  # noqa: PTH116 -- as os.fstat()
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
                return handle
        except FileNotFoundError:
            pass  # the file was deleted, and there is no new file yet
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= deadline:
                holder = _holder(handle)
                os.close(handle)
                raise BlockingIOError(0, str(holder or "unknown")) from None
            time.sleep(POLL_SECONDS)
        os.close(handle)


def lock_holder(path: Path) -> int | None:
    """Return the id of the process that has locked a file with take_lock().

    The holder itself must not call this function: the close of the file would release its lock.

    Args:
        path: the file.

    Returns:
        The process id; 0 if a process holds the lock and its id is not known; None if the lock is
        free or the file is missing.

    """
    try:
        handle = open_private(path, os.O_RDWR, any_owner=True)
    except FileNotFoundError:
        return None
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return _holder(handle)
    else:
        return None
    finally:
        os.close(handle)


def last_holder(path: Path) -> int:
    """Return the id of the process that last got the lock of a file by take_lock().

    The process may have ended. The id is read from the file. It is 0 if the file is missing or
    contains no id.

    Args:
        path: the file.

    """
    try:
        handle = open_private(path, os.O_RDONLY, any_owner=True)
    except FileNotFoundError:
        return 0
    try:
        return _written(handle)
    finally:
        os.close(handle)


def _holder(handle: int) -> int:
    """Return the id of the process that holds a lock, or 0 if it is not known.

    On 64-bit Linux the kernel gives the id. Another user may have written an id into the file, and
    feedbus sends signals to the process with the returned id. So the id in the file is used only on
    other systems.
    """
    if sys.platform != "linux" or struct.calcsize("P") != 8:  # noqa: PLR2004 -- FLOCK is of 64 bits
        return _written(handle)
    asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, *_, holder = FLOCK.unpack(fcntl.fcntl(handle, fcntl.F_GETLK, asked))
    return 0 if kind == fcntl.F_UNLCK else max(holder, 0)


def _written(handle: int) -> int:
    text = os.pread(handle, 20, 0).decode(errors="replace").strip()
    return int(text) if text.isdecimal() else 0
