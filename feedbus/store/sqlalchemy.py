"""The store on the SQLAlchemy engine of the project; handlers get its session."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, Self

from sqlalchemy import Connection, Engine, ExceptionContext, TextClause, event, exc, text
from sqlalchemy.orm import Session

from feedbus.clock import Waiting
from feedbus.errors import Outage, StoreOutage, UsageError
from feedbus.store.outages import is_outage
from feedbus.store.sql import (
    ABORTED,
    IDLE,
    IN_TRANSACTION,
    SqlStore,
    cannot_end_transaction,
    ended_transaction,
    refuse_failed_transaction,
)
from feedbus.store.sqlite_write_lock import LOCK_TIMEOUT_SECONDS, WriteLock
from feedbus.store.stale_server_sessions import StaleServerSessions, session_of
from feedbus.store.tables import Cursor, Dialect

# SQLAlchemy's pool keeps a dictionary `info` for each connection. The dictionary has the session of
# the connection on the server under this key.
SERVER_SESSION = "feedbus_server_session"
# This key is in the dictionary while a transaction is over in SQLite, because a statement ended it.
HAS_ENDED = "feedbus_has_ended"
SAVEPOINT = "session.begin_nested()"
BEGUN = 2  # psycopg2's status of a connection on which it has begun a transaction, STATUS_BEGIN
AUTOCOMMIT = (
    '[store] engine: expected an engine with transactions, got isolation_level="AUTOCOMMIT", with'
    " which each statement is committed alone: remove it, and use another engine where a program"
    " needs it"
)


@dataclass(frozen=True, slots=True)
class StatementResult:
    """The result of a statement on feedbus's own tables.

    All rows are read within the transaction, so the result can be used after the transaction.

    Attributes:
        rowcount: the number of rows that the statement has changed.
        rows: the rows of the result; empty if the statement returns none.
    """

    rowcount: int
    rows: Sequence[Any]

    def fetchall(self) -> Sequence[Any]:
        """Return the rows of the result."""
        return self.rows


class StoreSession(Session):
    """The session of a store's transaction, which handlers get; only the store can end it.

    If a handler could commit its effects, the rows of the inbox and of the outbox would not be in
    the same transaction as these effects.
    """

    @classmethod
    @contextmanager
    def open_session(cls, engine: Engine) -> Iterator[Self]:
        """Yield a new session of an engine, and close it at the end of the `with` block.

        The store calls it at the beginning of each transaction.
        """
        session = cls(engine)
        try:
            yield session
        finally:
            Session.close(session)

    def commit(self) -> NoReturn:
        """Raise UsageError: the store commits when the handler has returned."""
        self._refuse("commit")

    def rollback(self) -> NoReturn:
        """Raise UsageError: if the handler raises an error, the store rolls back."""
        self._refuse("rollback")

    def close(self) -> NoReturn:
        """Raise UsageError: the store closes the session after the handler."""
        self._refuse("close")

    def _refuse(self, name: str) -> NoReturn:
        raise UsageError(cannot_end_transaction(f"session.{name}", SAVEPOINT))


class SqlAlchemyStore(SqlStore):
    """A store on SQLAlchemy: its transactions are the transactions of an engine's sessions.

    Args:
        engine: the engine of the project, synchronous and on SQLite or PostgreSQL.
        project: the name of the project; only the rows of this project are used.
        waiting: makes a context manager around each wait for the lock of the SQLite file, so that
            the wait does not count for the time limit of a handler.

    Raises:
        UsageError: the engine is asynchronous, is not for SQLite or PostgreSQL, or commits each
            statement on PostgreSQL (isolation_level="AUTOCOMMIT").
    """

    session_type = Session

    def __init__(self, engine: Engine, project: str, *, waiting: Waiting = nullcontext) -> None:
        """Create the store with the engine of the project.

        Args:
            engine: an engine for SQLite or PostgreSQL.
            project: the name of the project; the store uses only the rows of this project.
            waiting: makes a context manager around each wait for the lock of the SQLite file, so
                that the wait does not count for the time limit of a handler.

        Raises:
            UsageError: the engine is asynchronous, is not for SQLite or PostgreSQL, or commits each
                statement on PostgreSQL (isolation_level="AUTOCOMMIT").

        """
        dialects: dict[str, Dialect] = {"sqlite": "sqlite", "postgresql": "postgresql"}
        dialect = dialects.get(engine.dialect.name)
        if dialect is None or engine.dialect.is_async:
            msg = (
                "[store] engine: expected a synchronous engine of SQLite or PostgreSQL, got"
                f" {engine.dialect.name}+{engine.dialect.driver}"
            )
            raise UsageError(msg)
        if dialect == "postgresql" and _isolation_level(engine) == "AUTOCOMMIT":
            raise UsageError(AUTOCOMMIT)
        name = engine.url.database
        in_file = dialect == "sqlite" and name not in {None, "", ":memory:"}
        file = Path(str(name)).absolute() if in_file else None
        super().__init__(project, engine.url.render_as_string(), dialect, file)
        self.engine = engine
        if engine not in _sessions:
            watch = _notice_ended_transactions if dialect == "sqlite" else _end_stale_sessions
            watch(engine)
        self._waiting = waiting
        self._local = _sessions.setdefault(engine, threading.local())

    @property
    def in_transaction(self) -> bool:
        """Whether this thread has begun a transaction, which transaction() would join."""
        return self._session is not None

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Commit all changes of a `with` block, or none; yield the session of the transaction.

        If this thread has already begun a transaction, the block joins that transaction.

        Raises:
            StoreOutage: the store became unavailable. If the connection was lost during the commit,
                it is unknown whether the store has committed, so the block must be idempotent. In
                all other cases, nothing was committed.
            UsageError: a statement of the block has failed or has ended the transaction, and the
                block has caught its error.

        """
        if self._session is not None:
            yield self._session
            return
        write_lock = WriteLock(f"{self._file}.turn") if self._file is not None else None
        try:
            with StoreSession.open_session(self.engine) as session:
                begun: list[Connection] = []  # the connection, after the first statement
                event.listen(session, "after_begin", self._begin_of(write_lock, begun))
                self._local.session = session
                with session.begin(), self._rolled_back(session):
                    yield session
                    for connection in begun:
                        _check_open(connection)
        except Exception as error:
            if not self.is_outage(error):
                raise
            if isinstance(error, Outage):
                raise
            raise StoreOutage(self.describe(error)) from error
        finally:
            self._local.session = None
            if write_lock is not None:
                write_lock.release()

    def execute(self, sql: str, parameters: Mapping[str, Any]) -> Cursor:
        """Execute a statement on feedbus's own tables, and return its result.

        The statement belongs to this thread's transaction; without one, it gets a new transaction.

        Args:
            sql: the statement, with parameters of the form :name.
            parameters: maps the names of the parameters to their values.
        """
        with self.transaction() as session:
            result = session.connection().execute(_clause(sql), parameters)
            return StatementResult(result.rowcount, result.all() if result.returns_rows else ())

    def is_outage(self, error: BaseException) -> bool:
        """Whether an error means that the store is unavailable, full or not set up.

        It is also an outage if no connection of the engine's pool was free in time.
        """
        if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
            return True
        # A TimeoutError: no connection of the engine's pool was free.
        return isinstance(error, exc.TimeoutError) or is_outage(error)

    def close(self) -> None:
        """Close the connections of the engine's pool; the pool opens new ones at its next use."""
        self.engine.dispose()

    @contextmanager
    def _rolled_back(self, session: Session) -> Iterator[None]:
        """If the block raises an error, roll back, and raise the same error.

        If the rollback fails because the connection is lost, the database itself rolls back. This
        outage is not raised, because it would replace the error of the block.

        After an outage of a SQLite file, the connection is closed, so that the next transaction
        opens the file again. For example, this is necessary after the file was read-only: a
        connection that was opened during this time can never write.
        """
        try:
            yield
        except BaseException as error:
            if self._file is not None and self.is_outage(error):
                session.invalidate()
                raise
            try:
                Session.rollback(session)
            except Exception as outage:
                if not self.is_outage(outage):
                    raise
                session.invalidate()
            raise

    @property
    def _session(self) -> Session | None:
        session: Session | None = getattr(self._local, "session", None)
        return session

    def _begin_of(
        self, write_lock: WriteLock | None, begun: list[Connection]
    ) -> Callable[..., None]:
        """Return a listener for SQLAlchemy's event `after_begin`, for one session.

        SQLAlchemy sends this event before the first statement of the session. On SQLite, the
        listener then begins a write transaction. Without the listener, Python's sqlite3 would begin
        one only before the first statement that writes. If the handler has read before, and another
        transaction writes in between, SQLite would refuse this statement, without waiting.

        On PostgreSQL, the driver begins the transaction. The listener raises UsageError if the
        driver commits each statement instead.

        Args:
            write_lock: the lock of the SQLite file; None without a file.
            begun: a list to which the listener adds the connection of the transaction.
        """

        def begin(_session: Session, _transaction: Any, connection: Connection) -> None:
            if connection in begun:
                return  # a savepoint
            raw: Any = connection.connection.dbapi_connection
            if self.dialect == "postgresql" and raw.autocommit:
                raise UsageError(AUTOCOMMIT)
            if isinstance(raw, sqlite3.Connection) and not raw.in_transaction:
                with self._waiting():
                    if write_lock is not None:
                        write_lock.acquire(LOCK_TIMEOUT_SECONDS)
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.info.pop(HAS_ENDED, None)
            begun.append(connection)

        return begin


def _isolation_level(engine: Engine) -> object:
    """Return the isolation level that the program has set for an engine; None if it set none."""
    set_by_create_engine = getattr(engine.dialect, "_on_connect_isolation_level", None)
    return engine.get_execution_options().get("isolation_level", set_by_create_engine)


def _check_open(connection: Connection) -> None:
    """Check that the transaction of a connection can be committed.

    Raises:
        UsageError: a statement has failed or has ended the transaction, so that its effects cannot
            be committed.

    """
    if connection.closed or connection.invalidated:
        return  # the commit reports it
    raw: Any = connection.connection.dbapi_connection
    if not isinstance(raw, sqlite3.Connection):
        refuse_failed_transaction(_status(raw), SAVEPOINT)
    elif connection.info.get(HAS_ENDED) or not raw.in_transaction:
        raise ended_transaction(SAVEPOINT)


def _status(connection: Any) -> int:
    """Return the status of the transaction of a driver's connection, as libpq numbers it.

    IDLE means that a statement has ended the transaction. Only with psycopg2 can this be known. The
    other drivers begin a new transaction with the next statement; with them, the result is
    IN_TRANSACTION instead.

    Args:
        connection: a connection of psycopg2, of psycopg, or of pg8000. pg8000 has no such number,
            only the letter that the server has sent.

    """
    letter = getattr(connection, "_transaction_status", None)
    if letter is not None:
        return ABORTED if letter == b"E" else IN_TRANSACTION
    status = int(connection.info.transaction_status)
    has_begun = getattr(connection, "status", None) == BEGUN
    return IN_TRANSACTION if status == IDLE and not has_begun else status


# Each engine that a store uses, with the session of the thread's transaction. The stores of one
# engine share it, so that a transaction of one of them is a transaction of all. These engines have
# the listeners below.
_sessions: weakref.WeakKeyDictionary[Engine, threading.local] = weakref.WeakKeyDictionary()


def _leave_transactions() -> None:
    for local in _sessions.values():
        local.session = None  # a forked process is in no transaction of its parent


os.register_at_fork(after_in_child=_leave_transactions)


def _notice_ended_transactions(engine: Engine) -> None:
    """Add a listener to an engine of SQLite that marks connections whose transaction has ended.

    SQLAlchemy calls the listener when a statement has failed. If the statement has rolled back its
    transaction, the listener marks the connection, and the store then refuses to commit. Without
    the mark, the store could not see the end of the transaction: Python's sqlite3 begins a new
    transaction before the next statement that writes.
    """

    @event.listens_for(engine, "handle_error")
    def failed(context: ExceptionContext) -> None:
        connection = context.connection
        if connection is None or connection.closed or connection.invalidated:
            return
        raw = connection.connection.dbapi_connection
        with suppress(sqlite3.ProgrammingError):  # a handler has closed it
            if isinstance(raw, sqlite3.Connection) and not raw.in_transaction:
                connection.info[HAS_ENDED] = True


def _end_stale_sessions(engine: Engine) -> None:
    """Add listeners to an engine, so that sessions of dropped connections end on the server.

    A connection is dropped if SQLAlchemy invalidates it. Its session on the server can stay open.
    The next connection that the engine opens ends this session. See StaleServerSessions.
    """
    stale = StaleServerSessions()

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        def query(sql: str) -> Sequence[Any]:
            cursor = connection.cursor()
            try:
                cursor.execute(sql)
                rows: Sequence[Any] = cursor.fetchall()
            except Exception:
                connection.rollback()
                raise
            finally:
                cursor.close()
            connection.commit()
            return rows

        # The drivers psycopg and psycopg2 know the process id; with other drivers, it is None.
        backend_pid = getattr(getattr(connection, "info", None), "backend_pid", None)
        if backend_pid is not None:
            record.info[SERVER_SESSION] = session_of(query, backend_pid)
            stale.end(query)

    @event.listens_for(engine, "invalidate")
    def dropped(_connection: Any, record: Any, _error: BaseException | None) -> None:
        stale.add(record.info.get(SERVER_SESSION))


@lru_cache(maxsize=64)
def _clause(sql: str) -> TextClause:
    return text(sql)
