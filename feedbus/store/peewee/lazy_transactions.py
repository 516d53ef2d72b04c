"""The peewee database of the store, whose transactions begin with their first statement."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import peewee

from feedbus.errors import UsageError
from feedbus.store.outages import is_outage
from feedbus.store.sql import cannot_end_transaction, ended_transaction

SAVEPOINT = "database.atomic()"
# A statement that changes rows, also behind the queries of a WITH clause.
WRITE = re.compile(
    r"\s*(INSERT|UPDATE|DELETE|REPLACE|MERGE)\b"
    r"|\s*WITH\b.*(?<!FOR )\b(INSERT\s+INTO|DELETE\s+FROM|MERGE\s+INTO|UPDATE(?=\s.*\bSET\b))\b",
    re.IGNORECASE | re.DOTALL,
)


class Database(peewee.Database):
    """A database that begins a transaction with its first statement, and reconnects by itself.

    Before its first statement, a transaction needs neither a connection nor a lock. After an
    outage, a connection is dropped, and the next use connects again. Each thread has its own
    connection. When a thread connects, the connections of ended threads are closed. This class is
    not a pool: a pool would check a connection by SELECT 1 before each use.

    Args:
        database: the name or file of the database, for peewee.
        where: the store's file or URL, for texts of errors.
        options: further options of peewee and of the driver.
    """

    def __init__(self, database: str, *, where: str, **options: Any) -> None:
        """Create the object without a connection.

        Args:
            database: the path of the file, or the name of the database on the server.
            where: the store's file or URL, for errors.
            options: peewee's options.

        """
        self.where = where
        # The name of the queue whose handlers run without a transaction of the store, or "".
        self._queue_without_store = ""
        self._local = threading.local()
        # The open connections by their id(), each with the thread that opened it.
        self._opened: dict[int, tuple[threading.Thread, Any]] = {}
        self._opened_lock = threading.Lock()
        super().__init__(database, **options)

    def _connect(self) -> Any:
        connection = super()._connect()  # type: ignore[misc]  # internal, not in the stubs
        with self._opened_lock:
            ended = [key for key, (thread, _) in self._opened.items() if not thread.is_alive()]
            left_open = [self._opened.pop(key)[1] for key in ended]
            self._opened[id(connection)] = threading.current_thread(), connection
        for each in left_open:
            with suppress(Exception):  # the server may have closed it already
                each.close()
        return connection

    def _close(self, conn: Any) -> None:
        with self._opened_lock:
            self._opened.pop(id(conn), None)
        super()._close(conn)  # type: ignore[misc]  # internal, not in the stubs

    def close_all(self) -> None:
        """Close the connections of all threads, when the store is closed.

        On SQLite, the connections of other threads that still run stay open.
        """
        with self._opened_lock:
            opened, self._opened = list(self._opened.values()), {}
        for thread, connection in opened:
            if self.may_close(thread):
                with suppress(Exception):  # the server may have closed it already
                    connection.close()
        self.dispose()

    @staticmethod
    def may_close(thread: threading.Thread) -> bool:  # noqa: ARG004 -- subclasses use the argument
        """Whether the calling thread may close a connection that the given thread has opened.

        Here the result is always True. On SQLite, it is True only if the given thread has ended or
        is the calling thread.
        """
        return True

    def discard(self) -> None:
        """Close the connection of this thread, also if it is lost; the next use connects again."""
        with suppress(Exception):  # the connection may be lost
            self.close()

    def begin(self, *_: Any) -> None:
        """Begin a transaction in peewee only; the database begins it with the first statement.

        peewee calls this method. The arguments are ignored.
        """
        self._local.has_ended = False
        self._begin_with_next(True)

    @contextmanager
    def kept_whole(self) -> Iterator[None]:
        """In a `with` block, commit() and rollback() of this thread raise UsageError.

        The store uses it in each of its transactions, so that a handler cannot end the transaction.
        The store itself commits or rolls back after this block.
        """
        self._local.kept_whole = True
        try:
            yield
        finally:
            self._local.kept_whole = False

    @contextmanager
    def refusing_autocommit(self, queue: str) -> Iterator[None]:
        """In a `with` block, raise UsageError if the project writes outside of a transaction.

        This applies to all threads.

        Args:
            queue: the name of the queue with `store = false`, for the error.

        """
        self._queue_without_store = queue
        try:
            yield
        finally:
            self._queue_without_store = ""

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """Execute a statement of the project, and return its cursor; peewee calls it.

        Raises:
            UsageError: the statement would be committed on its own, in a handler that has no
                transaction.

        """
        if self._queue_without_store and (found := WRITE.match(sql)) and not self.in_transaction():
            msg = (
                f"'{found[found.lastindex or 0].upper()}' outside of a transaction: [queues."
                f"{self._queue_without_store}] has store = false, so the write would be committed"
                " at once, also if the handler fails: remove store = false, or write inside `with"
                " database.atomic():`"
            )
            raise UsageError(msg)
        return self._execute_cursor(sql, params)

    def execute_own(self, sql: str, params: Any) -> Any:
        """Execute a statement on feedbus's own tables, and return its cursor.

        Outside of a transaction, its changes are committed immediately.
        """
        return self._execute_cursor(sql, params)

    def commit(self) -> None:
        """Commit if any statement was executed in the transaction; peewee calls it.

        Raises:
            UsageError: the store's own transaction is running, which only the store may end; or a
                statement has failed or has ended the transaction, so its effects are not committed.
        """
        self._check_owner("commit")
        if getattr(self._local, "has_ended", False):
            raise ended_transaction(SAVEPOINT)
        if not self._begin_with_next(False):
            self._check_open()
            super().commit()

    def rollback(self) -> None:
        """Roll back if any statement was executed and the connection is not lost; peewee calls it.

        An outage is not raised, because it would replace the error that is the reason for the
        rollback. If the connection is lost, the database itself rolls back.

        Raises:
            UsageError: the store's own transaction is running, which only the store may end.
        """
        self._check_owner("rollback")
        self._local.has_ended = False
        if not self._begin_with_next(False) and self._begun():
            try:
                super().rollback()
            except peewee.PeeweeException as error:
                if not is_outage(error):
                    raise
                self.discard()

    def _check_owner(self, name: str) -> None:
        if getattr(self._local, "kept_whole", False):
            raise UsageError(cannot_end_transaction(f"database.{name}", SAVEPOINT))

    def connection(self) -> Any:
        """Return the driver's connection of this thread, such as a sqlite3.Connection.

        If the current transaction has no statement yet, this method begins it in the database. The
        reason: the caller can execute statements on the connection without this class.
        """
        if self._begin_with_next(False):
            self._begin("SELECT 1", ())
        return super().connection()

    def lost(self) -> bool:
        """Whether this thread's connection is closed or lost, so that the next use must connect."""
        return self.is_closed()

    def _begun(self) -> bool:
        """Whether this thread has an open transaction in the database."""
        raise NotImplementedError

    def _check_open(self) -> None:
        """Check that the transaction that has begun in the database can be committed.

        If the connection is lost, the method does nothing: the commit then raises the error.

        Raises:
            UsageError: a statement has failed or has ended the transaction, so that its effects
                cannot be committed.
        """
        raise NotImplementedError

    def _begin_with_next(self, begins: bool) -> bool:  # noqa: FBT001 -- the argument is a state
        """Set whether this thread's next statement begins a transaction; return the old value."""
        earlier: bool = getattr(self._local, "next_begins", False)
        self._local.next_begins = begins
        return earlier

    def _connect_within(self) -> None:
        """Connect again within a transaction of peewee that has executed no statement yet.

        peewee's list of open transactions is kept. So peewee does not notice the new connection,
        and the transaction continues on this connection.
        """
        state: Any = self._state  # type: ignore[attr-defined]  # internal, not in the stubs
        transactions, state.transactions = state.transactions, []
        self.discard()
        try:
            self.connect()
        finally:
            state.transactions = transactions

    def _begin(self, sql: str, params: Any, **options: Any) -> Any:
        """Begin a transaction in the database, and execute its first statement.

        If the statement fails, and the database then has no transaction, the next statement begins
        one. So a caller that catches the error does not execute statements without a transaction.
        """
        if getattr(self._local, "has_ended", False):
            self._begin_with_next(True)
            raise ended_transaction(SAVEPOINT)
        try:
            return self._begin_and_execute(sql, params, **options)
        except BaseException:
            if not self._begun():
                self._begin_with_next(True)
            raise

    def _begin_and_execute(self, sql: str, params: Any, **options: Any) -> Any:
        """Begin a transaction in the database, and execute a statement in it.

        A subclass for one kind of database defines this method. If necessary, the method first
        connects. _begin() calls it, and handles its errors.
        """
        raise NotImplementedError

    def _execute_cursor(self, sql: str, params: Any, **options: Any) -> Any:
        if self._begin_with_next(False):
            return self._begin(sql, params, **options)
        try:
            return self._execute(sql, params, **options)
        except peewee.PeeweeException as error:
            if self.in_transaction():
                if not (self.lost() or self._begun()):
                    # The statement has rolled back the transaction. Each later statement is
                    # refused, because it would be executed without a transaction.
                    self._local.has_ended = True
                    self._begin_with_next(True)
                raise
            if not is_outage(error):
                raise
            lost = self.lost()
            self.discard()
            if not (lost and sql.lstrip()[:6].upper() == "SELECT"):
                raise
        # A read outside of a transaction can safely be repeated on a new connection.
        return self._execute(sql, params, **options)

    def _execute(self, sql: str, params: Any, **options: Any) -> Any:
        """Execute a statement, in the transaction that has begun in the database, if any."""
        return super()._execute_cursor(sql, params, **options)  # type: ignore[misc]  # internal, not in the stubs
