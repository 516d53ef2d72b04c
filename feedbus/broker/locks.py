"""Locks on files: the kernel gives them back when their holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feedbus.errors import UsageError
from feedbus.private_files import open_private

POLL_SECONDS = 0.05


@contextmanager
def held(path: Path, timeout_seconds: float) -> Iterator[None]:
    """Hold the lock on a file, which is made where it is missing.

    Raises:
        UsageError: somebody else holds it for longer than timeout_seconds.

    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    msg = f"{path} is locked by another process; wait for it to end, or end it"
                    raise UsageError(msg) from error
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
