"""Locks that only one process at a time can hold; a lock is released if its holder dies."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from feedbus.errors import StoreOutage
from feedbus.process.file_locks import locked, poll
from feedbus.store.tables import Cursor

Execute = Callable[[str, Mapping[str, Any]], Cursor]


def advisory_lock(execute: Execute, name: str, wait_seconds: float) -> bool:
    """Lock a name on PostgreSQL until the caller's transaction ends.

    Args:
        execute: executes a statement, with its parameters by name, in the caller's transaction.
        name: the name to lock, such as "relay.shop".
        wait_seconds: how long to wait while another session holds the lock.

    Returns:
        Whether the lock is held.
    """
    parameters = {"key": zlib.crc32(f"feedbus.{name}".encode())}

    def take() -> bool:
        return bool(execute("SELECT pg_try_advisory_xact_lock(:key)", parameters).fetchall()[0][0])

    # The lock is polled: a wait inside the server could exceed the statement timeout.
    return poll(take, wait_seconds)


@contextmanager
def file_lock(path: Path, wait_seconds: float) -> Iterator[bool]:
    """Hold a lock on a file in a `with` block; yield whether this process holds the lock.

    Args:
        path: the path of the lock file, which is created if it is missing.
        wait_seconds: how long to wait while another process holds the lock.

    Raises:
        StoreOutage: the file cannot be created.

    """
    with ExitStack() as stack:
        try:
            acquired = stack.enter_context(locked(path, wait_seconds))
        except OSError as error:
            msg = (
                f"store: cannot create the lock {path}: {error.strerror}; make the folder writable"
            )
            raise StoreOutage(msg) from error
        yield acquired
