"""Free disk space after a backlog: rewrite the broker file while nobody uses it.

SQLite can also give pages back one by one (auto_vacuum). But then it has to keep a map of all
pages. The map costs 6 to 15 percent of the processor time of publishing and consuming packs. So the
file is rewritten as a whole, but only if nobody has written to it for a while, most of it is free,
and the rest is small. Then the rewrite is quick and disturbs nobody.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path

from feedbus.process.file_locks import try_lock
from feedbus.process.private_files import open_private

QUIET_SECONDS = 1.0  # the file is checked after no process has written to it for this time
# Fewer free bytes are not worth a rewrite. A smaller write-ahead log is not worth a checkpoint.
SPARE_BYTES = 16_000_000
# The file is not rewritten if it has more bytes in use than this. A rewrite copies them, at about
# 10 ms for each megabyte, and publishers wait meanwhile.
MAX_KEPT_BYTES = 100_000_000


class Compaction:
    """Rewrites the broker file to free disk space, while a connection waits for events.

    Each connection has one Compaction object.

    Args:
        database: the connection to the file.
        path: the broker file.
        lock_folder: the folder of the lock that lets only one process rewrite the file at a time.
    """

    def __init__(self, database: sqlite3.Connection, path: Path, lock_folder: Path) -> None:
        """Create the object; the first check is after QUIET_SECONDS of waiting.

        Args:
            database: the connection of SQLite to the file.
            path: the broker file.
            lock_folder: the folder of the lock that lets only one process rewrite the file.

        """
        self._database = database
        self._log = path.with_name(f"{path.name}-wal")
        self._lock = lock_folder / "compaction"
        # When run() must be called, on the monotonic clock. 0: seconds() sets the time at the next
        # wait. None: run() was called, and need not be called again before postpone().
        self._due: float | None = 0.0
        self._version = -1  # the version of the file's content at the last check

    def postpone(self) -> None:
        """Let QUIET_SECONDS begin again at the next wait, because this connection used the file."""
        self._due = 0.0

    def seconds(self) -> float | None:
        """Return in how many seconds run() must be called, or None if it need not be called.

        A connection reads it before it waits for events.
        """
        if self._due is None:
            return None
        now = time.monotonic()
        if not self._due:
            self._due = now + QUIET_SECONDS
            self._version = self._pragma("data_version")
        return max(0.0, self._due - now)

    def run(self) -> None:
        """Rewrite the file if most of it is free; truncate its write-ahead log if the log is large.

        If another process has changed the file in the last QUIET_SECONDS, nothing is rewritten, and
        run() is postponed. Errors of a busy file or a full disk are ignored.
        """
        self._due = None
        # SQLite raises this error if the file is busy, or if the disk has no room for the copy.
        with contextlib.suppress(sqlite3.OperationalError):
            if not self._is_worth_it():
                return
            if self._pragma("data_version") != self._version:  # others are busy
                self._due = 0.0
                return
            self._rewrite()

    def _is_worth_it(self) -> bool:
        try:
            log_bytes = self._log.stat().st_size
        except FileNotFoundError:
            log_bytes = 0
        return log_bytes > SPARE_BYTES or self._has_space()

    def _has_space(self) -> bool:
        page_bytes = self._pragma("page_size")
        free_bytes = self._pragma("freelist_count") * page_bytes
        kept_bytes = self._pragma("page_count") * page_bytes - free_bytes
        return free_bytes > max(SPARE_BYTES, kept_bytes) and kept_bytes <= MAX_KEPT_BYTES

    def _rewrite(self) -> None:
        handle = open_private(self._lock, os.O_RDWR | os.O_CREAT)
        patience_ms = self._pragma("busy_timeout")
        try:
            if not try_lock(handle):
                return  # another process does it
            self._database.execute("PRAGMA busy_timeout = 0")  # other connections have priority
            # The first checkpoint copies the log and does not block writers. So little is left to
            # copy for the last checkpoint, which blocks them.
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")
            if self._has_space():
                self._database.execute("VACUUM")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._database.execute(f"PRAGMA busy_timeout = {patience_ms}")
            os.close(handle)

    def _pragma(self, name: str) -> int:
        (value,) = self._database.execute(f"PRAGMA {name}").fetchone()
        return int(value)
