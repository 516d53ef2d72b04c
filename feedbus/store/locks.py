"""One process at a time, by a lock that the store or its machine drops when its holder dies."""

from __future__ import annotations

import fcntl
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from feedbus.errors import StoreOutage
from feedbus.private_files import open_private
from feedbus.store.tables import Cursor

Execute = Callable[[str, Mapping[str, Any]], Cursor]

POLL_SECONDS = 0.05


def advisory_lock(execute: Execute, name: str, wait_seconds: float) -> bool:
    """Lock a name on PostgreSQL until the transaction ends; False when another one keeps it."""
    key = {"key": zlib.crc32(f"feedbus.{name}".encode())}

    def take() -> bool:
        return bool(execute("SELECT pg_try_advisory_xact_lock(:key)", key).fetchall()[0][0])

    # Polled: waiting inside the server would run into the statement timeout.
    return _poll(take, wait_seconds)


@contextmanager
def file_lock(path: Path, wait_seconds: float) -> Iterator[bool]:
    """Hold the lock of a file; yields False when another process keeps it."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = open_private(path, os.O_CREAT | os.O_RDWR)
    except OSError as error:
        msg = f"store: cannot make its lock {path}: {error.strerror}; make the folder writable"
        raise StoreOutage(msg) from error

    def take() -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    try:
        yield _poll(take, wait_seconds)
    finally:
        os.close(handle)


def _poll(take: Callable[[], bool], wait_seconds: float) -> bool:
    deadline = time.monotonic() + wait_seconds
    while not take():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
