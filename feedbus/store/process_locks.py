"""Locks that only one process at a time can hold; they are released if the process dies."""

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
    """Lock a name on PostgreSQL until the transaction ends; return False if it stays locked."""
    key = {"key": zlib.crc32(f"feedbus.{name}".encode())}

    def take() -> bool:
        return bool(execute("SELECT pg_try_advisory_xact_lock(:key)", key).fetchall()[0][0])

    # The lock is polled: a wait inside the server would exceed the statement timeout.
    return poll(take, wait_seconds)


@contextmanager
def file_lock(path: Path, wait_seconds: float) -> Iterator[bool]:
    """Hold a lock on a file; yield False if another process holds it."""
    with ExitStack() as held:
        try:
            acquired = held.enter_context(locked(path, wait_seconds))
        except OSError as error:
            msg = (
                f"store: cannot create the lock {path}: {error.strerror}; make the folder writable"
            )
            raise StoreOutage(msg) from error
        yield acquired
