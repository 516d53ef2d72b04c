"""The base class of the stores on SQLite and PostgreSQL, for peewee and SQLAlchemy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from feedbus.clock import SYSTEM, Clock
from feedbus.errors import StoreOutage, UsageError
from feedbus.store.inbox_table import SqlInbox
from feedbus.store.migrations import is_up_to_date, upgrade
from feedbus.store.outages import (
    describe,
    is_in_aborted_transaction,
    is_outage,
    is_timeout,
)
from feedbus.store.outbox_table import SqlOutbox
from feedbus.store.process_locks import advisory_lock, file_lock
from feedbus.store.tables import Cursor, Dialect

# libpq's status of a connection: in no transaction (PQTRANS_IDLE), in one (PQTRANS_INTRANS), and in
# one in which a statement has failed (PQTRANS_INERROR).
IDLE, IN_TRANSACTION, ABORTED = 0, 2, 3
SET_UP_SECONDS = 60.0  # the time limit of the wait while another process sets up the tables


def cannot_end_transaction(call: str, savepoint: str) -> str:
    """Return the text of the error for a call that would end a transaction of the store.

    Args:
        call: the refused call, such as "session.commit".
        savepoint: the call that makes a savepoint, such as "database.atomic()"; the text of the
            error recommends it.

    """
    return (
        f"{call}() inside a transaction of the store: remove this call, because the store commits"
        " when the handler or the block returns, and rolls back when the handler or the block"
        f" raises; to roll back a part of the transaction, use {savepoint}"
    )


def refuse_failed_transaction(status: int, savepoint: str) -> None:
    """Raise UsageError if PostgreSQL has aborted or ended a transaction that is to be committed.

    PostgreSQL aborts a transaction when one of its statements fails. It answers the COMMIT of such
    a transaction without an error, but rolls back. If a handler has caught the error of the
    statement, the handler returns as if it had succeeded. So a store calls this function before it
    commits a transaction that has begun in the database.

    Args:
        status: the status of the transaction, as libpq numbers it: `info.transaction_status` of a
            connection of psycopg2 or psycopg.
        savepoint: the call that makes a savepoint, such as "database.atomic()"; the text of the
            error recommends it.

    Raises:
        UsageError: a statement has failed, and none of its effects can be committed. Or a statement
            has ended the transaction, such as COMMIT.
    """
    if status == IDLE:
        raise ended_transaction(savepoint)
    if status == ABORTED:
        raise _aborted_transaction(savepoint)


def _aborted_transaction(savepoint: str = "a savepoint") -> UsageError:
    return UsageError(
        "a statement in this transaction of the store has failed, and its error was caught:"
        " PostgreSQL rolls back the whole transaction; raise the error again, or execute the"
        f" statement in a block of {savepoint}, which rolls back only this block"
    )


def ended_transaction(savepoint: str) -> UsageError:
    """Return the error for a transaction of the store that one of its statements has ended.

    On SQLite, `INSERT OR ROLLBACK` and RAISE(ROLLBACK) in a trigger roll back the transaction when
    they fail. COMMIT and ROLLBACK, executed as statements, end it, too.

    Args:
        savepoint: the call that makes a savepoint, such as "database.atomic()"; the text of the
            error recommends it.

    """
    return UsageError(
        "a statement has ended this transaction of the store, such as COMMIT, ROLLBACK, or INSERT"
        " OR ROLLBACK that failed: only the store may end it; to roll back a part of the"
        f" transaction, use {savepoint}"
    )


class OwnStatements:
    """Executes the statements on feedbus's own tables; a timeout of the server is an outage here.

    A timeout of a handler's statement can be caused by the message. But a timeout of these
    statements means that the database is too slow, or that another session keeps a lock.

    Args:
        store: the store that executes the statements.
    """

    def __init__(self, store: SqlStore) -> None:
        """Create the object for a store, which executes the statements."""
        self._store = store
        self.dialect = store.dialect
        self.clock = store.clock

    def execute(self, sql: str, parameters: Mapping[str, Any]) -> Cursor:
        """Execute a statement on feedbus's own tables, and return its result.

        The statement belongs to the caller's transaction; without one, it gets a new transaction.

        Args:
            sql: the statement, with parameters of the form :name.
            parameters: maps the names of the parameters to their values.

        Raises:
            StoreOutage: PostgreSQL has ended the statement because of its time limit.
            UsageError: an earlier statement of the transaction has failed on PostgreSQL.
        """
        try:
            return self._store.execute(sql, parameters)
        except Exception as error:
            if is_in_aborted_transaction(error):
                raise _aborted_transaction() from error
            if not is_timeout(error):
                raise
            msg = (
                f"{self._store.describe(error)}, in feedbus's own tables; if this continues,"
                " another session keeps them locked: find it with pg_blocking_pids()"
            )
            raise StoreOutage(msg) from error


class SqlStore(ABC):
    """A store with feedbus's own tables; a subclass executes the statements.

    Args:
        project: the name of the project; only the rows of this project are used.
        where: the store's file or URL, for errors.
        dialect: "sqlite" or "postgresql".
        file: the file of an SQLite database; None on PostgreSQL, or for a database in memory.
        clock: gives the times of the rows.

    Attributes:
        session_type: the type of the session; a handler gets the session if one of its parameters
            is annotated with this type. None if the store has no sessions.
        outbox: the messages that are committed and must still be published.
        inbox: the ids of the messages that were handled.
    """

    session_type: type | None = None

    def __init__(
        self,
        project: str,
        where: str,
        dialect: Dialect,
        file: Path | None = None,
        *,
        clock: Clock = SYSTEM,
    ) -> None:
        """Create the store.

        Args:
            project: the name of the project; the store uses only the rows of this project.
            where: the store's file or URL, for errors.
            dialect: "sqlite" or "postgresql".
            file: the SQLite file; None on PostgreSQL, and for SQLite in memory.
            clock: the clock for the times in rows, and for waiting.

        """
        self.clock = clock
        self.project = project
        self.where = where
        self.dialect: Dialect = dialect
        self._own = OwnStatements(self)
        self.outbox = SqlOutbox(self._own, project)
        self.inbox = SqlInbox(self._own, project)
        self._file = file

    @property
    @abstractmethod
    def in_transaction(self) -> bool:
        """Whether this thread has begun a transaction, which transaction() would join."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Any]:
        """Commit all changes of a `with` block, or none; join a transaction that is already open.

        The block gets the session of the transaction, such as a Session of SQLAlchemy.

        Raises:
            StoreOutage: the store became unavailable. If the connection was lost during the commit,
                it is unknown whether the store has committed, so the block must be idempotent. In
                all other cases, nothing was committed.
            UsageError: a statement of the block has failed or has ended the transaction, and the
                block has caught its error. Then the database would not commit the whole block.
        """

    @abstractmethod
    def execute(self, sql: str, parameters: Mapping[str, Any]) -> Cursor:
        """Execute a statement on feedbus's own tables, and return its result.

        The statement is executed in the caller's transaction. If the caller has no transaction, the
        statement is executed in a new one.

        Args:
            sql: the statement, with parameters of the form :name.
            parameters: maps the names of the parameters to their values.
        """

    def refusing_autocommit(self, queue: str) -> AbstractContextManager[None]:
        """Return a context manager in which a write outside of a transaction raises UsageError.

        feedbus uses it for the handlers of a queue with `store = false`. Here it does nothing,
        because a Session of SQLAlchemy always has a transaction: without a commit() of the handler,
        nothing is written.

        Args:
            queue: the name of the queue, for the error.

        """
        del queue
        return nullcontext()

    @abstractmethod
    def close(self) -> None:
        """Close all connections to the database; do nothing if none is open."""

    def is_outage(self, error: BaseException) -> bool:
        """Whether an error means that the store is unavailable, full or not set up.

        The result is False for an error that a message or its handler may have caused.
        """
        return is_outage(error)

    def describe(self, error: BaseException) -> str:
        """Return one line for operators: the store, the reason of an error, and what to do."""
        return describe(error, self.where)

    @contextmanager
    def exclusive(self, name: str, *, wait_seconds: float = 0.0) -> Iterator[bool]:
        """Hold a lock in a `with` block; yield whether this process holds the lock.

        On PostgreSQL, the block is one transaction, and the lock ends with this transaction. So the
        lock is also released behind a connection pooler, which uses a session of the server for
        several clients. An error that leaves the block also undoes the changes that the block has
        made in the store. On SQLite, the block is not a transaction.

        Args:
            name: the name of the lock, such as "relay.shop".
            wait_seconds: how long to wait while another process holds the lock.
        """
        if self.dialect == "postgresql":
            with self.transaction():
                yield advisory_lock(self._own.execute, name, wait_seconds)
        elif self._file is None:
            yield True  # no other process can use a database in memory
        else:
            with file_lock(Path(f"{self._file}.{name}.lock"), wait_seconds) as acquired:
                yield acquired

    def set_up(self) -> None:
        """Create feedbus's own tables, or upgrade the tables of an earlier version.

        Raises:
            StoreOutage: the store is unavailable or cannot be written to, or another process has
                locked the tables for longer than 60 s.
            UsageError: the tables belong to a newer version.
        """
        with self.transaction():
            is_done = is_up_to_date(self._own, self.where)
        if is_done:
            return
        with self.exclusive("tables", wait_seconds=SET_UP_SECONDS) as acquired, self.transaction():
            if not acquired:
                msg = (
                    f"store {self.where}: another process has locked feedbus's tables for"
                    f" {SET_UP_SECONDS:g} s; end it, or wait for it"
                )
                raise StoreOutage(msg)
            if not is_up_to_date(self._own, self.where):
                upgrade(self._own, self.project)

    def refusal(self) -> str:
        """Return why this version of feedbus cannot use the store's tables; "" if it can use them.

        ping() calls it; nothing is changed.

        Raises:
            StoreOutage: the store does not answer.
        """
        try:
            is_up_to_date(self._own, self.where)
        except UsageError as error:
            return str(error)
        except Exception as error:
            raise StoreOutage(self.describe(error)) from error
        return ""

    def ready(self) -> None:
        """Check that the store answers, on a new connection if the old one is lost.

        Raises:
            StoreOutage: the store does not answer; the text says why and what to do.

        """
        # On SQLite, `SELECT 1` would not read the file.
        question = "SELECT count(*) FROM sqlite_master" if self.dialect == "sqlite" else "SELECT 1"
        try:
            self.execute(question, {}).fetchall()
        except Exception as error:
            raise StoreOutage(self.describe(error)) from error
