"""One process at a time, by a lock that the store or its machine drops when its holder dies."""

from __future__ import annotations

import fcntl
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from feedbus.errors import StoreOutage
from feedbus.outbox.connection import bound
from feedbus.outbox.databases import PostgresStore
from feedbus.private_files import open_private

POLL_SECONDS = 0.05


@contextmanager
def exclusive(name: str, *, wait_seconds: float = 0.0) -> Iterator[bool]:
    """Hold the store's lock of that name; yields False when another process keeps it.

    Args:
        name: what is done under the lock, such as "migrate".
        wait_seconds: how long to wait for the other process.

    """
    store = bound()
    if isinstance(store, PostgresStore):
        with _advisory_lock(store, name, wait_seconds) as held:
            yield held
        return
    with _file_lock(Path(f"{store.database}.{name}.lock"), wait_seconds) as held:
        yield held


@contextmanager
def _advisory_lock(store: PostgresStore, name: str, wait_seconds: float) -> Iterator[bool]:
    key = zlib.crc32(f"feedbus.{name}".encode())

    def take() -> bool:
        return bool(store.execute_sql("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()[0])

    # Polled: waiting inside the server would run into the statement timeout.
    held = _poll(take, wait_seconds)
    try:
        yield held
    finally:
        if held:
            with suppress(Exception):  # a lost connection has released it
                store.execute_sql("SELECT pg_advisory_unlock(%s)", (key,))


@contextmanager
def _file_lock(path: Path, wait_seconds: float) -> Iterator[bool]:
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
