"""SQLite for the peewee store: WAL mode, durable commits, one writer at a time."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import peewee

from feedbus.clock import Waiting
from feedbus.process.private_files import make_database_file
from feedbus.store.peewee.lazy_transactions import SAVEPOINT, Database
from feedbus.store.sql import ended_transaction
from feedbus.store.sqlite_write_lock import WriteLock

BUSY_TIMEOUT_SECONDS = 10.0
PRAGMAS = {
    "journal_mode": "wal",
    # A delivery is settled after its commit, so a commit must survive a power cut. One fsync for
    # each batch costs little. The setting NORMAL could lose the last commits, and so the effects of
    # settled messages.
    "synchronous": "full",
    "foreign_keys": 1,
    "cache_size": -8_000,
    "temp_store": "memory",
    "wal_autocheckpoint": 4_000,
    "journal_size_limit": 64 * 1024 * 1024,
}


class SqliteDatabase(Database, peewee.SqliteDatabase):
    """SQLite in WAL mode, in a private file; one transaction at a time writes.

    Args:
        database: the path of the file.
        waiting: makes a context manager around each wait for the lock of the file, so that the wait
            does not count for the time limit of a handler.
        options: further options of the base class, such as `where`, and of sqlite3.
    """

    def __init__(self, database: str, *, waiting: Waiting, **options: Any) -> None:
        """Create the database of a file.

        Args:
            database: the path of the file.
            waiting: makes a context manager around each wait for the lock of the file, so that the
                wait does not count for the time limit of a handler.
            options: peewee's options.

        """
        self.while_waiting = waiting
        super().__init__(database, **options)

    @staticmethod
    def may_close(thread: threading.Thread) -> bool:
        """Whether the calling thread may close the connection of the given thread.

        This is so if the given thread has ended, or is the calling thread. Another thread that
        still runs may be using its connection, so the connection is closed when the thread ends.
        """
        return thread is threading.current_thread() or not thread.is_alive()

    def _connect(self) -> Any:
        with suppress(OSError):  # SQLite's error describes the problem of the file better
            make_database_file(Path(self.database))
        if self._is_empty():
            # If two connections switch a new file to WAL at the same time, SQLite ignores the
            # timeout and raises "locked".
            write_lock = self._write_lock()
            with suppress(OSError):
                write_lock.acquire(BUSY_TIMEOUT_SECONDS)
            try:
                return super()._connect()
            finally:
                write_lock.release()
        return super()._connect()

    def _is_empty(self) -> bool:
        # The file must not be opened here: closing it would release the locks that SQLite has on it
        # in this process.
        with suppress(OSError):
            return Path(self.database).stat().st_size == 0
        return False

    def _begin_and_execute(self, sql: str, params: Any, **options: Any) -> Any:
        write_lock = self._write_lock()
        with self.while_waiting():
            if self.lost():
                self._connect_within()
            # This lock lets only one connection write. If the lock file cannot be used, the
            # transaction begins without it: SQLite itself then waits, or raises the error.
            with suppress(OSError):
                write_lock.acquire(BUSY_TIMEOUT_SECONDS)
            try:
                peewee.SqliteDatabase.begin(self)
            except BaseException:
                write_lock.release()
                raise
        return self._execute(sql, params, **options)

    def commit(self) -> None:
        """Commit, and let the next waiting transaction write; peewee calls it.

        Raises:
            UsageError: the store's own transaction is running, which only the store may end; or a
                statement has ended the transaction, so its effects are not committed.
        """
        super().commit()
        self._write_lock().release()

    def rollback(self) -> None:
        """Roll back, and let the next waiting transaction write; peewee calls it.

        Raises:
            UsageError: the store's own transaction is running, which only the store may end.
        """
        self._check_owner("rollback")  # before `finally`: a refused call must not release the lock
        try:
            super().rollback()
        finally:
            self._write_lock().release()

    def lost(self) -> bool:
        """Whether the connection of this thread is closed, for example by a handler."""
        if self.is_closed():
            return True
        try:
            _ = peewee.SqliteDatabase.connection(self).total_changes
        except sqlite3.ProgrammingError:
            return True
        return False

    def _begun(self) -> bool:
        # SQLite ends a transaction by itself when the disk is full.
        return not self.lost() and bool(self.connection().in_transaction)

    def _check_open(self) -> None:
        if not (self.lost() or self._begun()):
            raise ended_transaction(SAVEPOINT)

    def _write_lock(self) -> WriteLock:
        if not hasattr(self._local, "write_lock"):
            self._local.write_lock = WriteLock(f"{self.database}.turn")
        return cast("WriteLock", self._local.write_lock)


def make_sqlite(file: Path, waiting: Waiting) -> SqliteDatabase:
    """Return the database of a file; it is not connected yet.

    Args:
        file: the absolute path of the file.
        waiting: makes a context manager around each wait for the lock of the file, so that the wait
            does not count for the time limit of a handler.
    """
    return SqliteDatabase(
        str(file),
        where=str(file),
        pragmas=PRAGMAS,
        timeout=BUSY_TIMEOUT_SECONDS,
        lock_type="IMMEDIATE",
        waiting=waiting,
        check_same_thread=False,  # close_all() closes connections of other threads
    )
