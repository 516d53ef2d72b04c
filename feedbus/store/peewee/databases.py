"""The SQLite and the PostgreSQL database of the peewee store, and how each connects."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, cast

import peewee

from feedbus.errors import UsageError
from feedbus.process.fork_safety import close_in_forks
from feedbus.process.private_files import make_database_file
from feedbus.store.outages import outage
from feedbus.store.sql import not_the_owner
from feedbus.store.write_queue import Turn, Waiting
from feedbus.urls import StoreUrl, UrlError, parse_store_url

BUSY_TIMEOUT_SECONDS = 10.0
POSTGRES_SETTINGS = {
    "statement_timeout": "30s",
    "random_page_cost": "1.1",  # solid state: else a batch of keys may read its whole table
    "jit": "off",  # compiling takes longer than any statement here
}
SETTING_GIVEN = re.compile(r"(?:-c\s*|--)(\w+)\s*=")  # in libpq's options
PRAGMAS = {
    "journal_mode": "wal",
    # A delivery is settled after its commit, so a commit must survive a power cut. An fsync a
    # batch costs little; NORMAL would lose the last commits, and with them settled messages.
    "synchronous": "full",
    "foreign_keys": 1,
    "cache_size": -8_000,
    "temp_store": "memory",
    "wal_autocheckpoint": 4_000,
    "journal_size_limit": 64 * 1024 * 1024,
}


class Database(peewee.Database):
    """A database that begins a transaction with its first statement, and reconnects by itself.

    Until then a transaction needs neither a connection nor a lock. After an outage a connection is
    dropped, and the next use connects again. Connections belong to threads. The threads here
    live as long as their process, so there are as many connections as threads and none is asked
    SELECT 1 before each use, as a pool's are.
    """

    def __init__(self, database: str, *, where: str, **options: Any) -> None:
        """Start with no connection; where is how messages to people name the database."""
        self.where = where
        self._local = threading.local()
        self._opened: dict[int, tuple[threading.Thread, Any]] = {}
        self._opened_lock = threading.Lock()
        super().__init__(database, **options)

    def _connect(self) -> Any:
        connection = super()._connect()  # type: ignore[misc]  # inner, not in the stubs
        with self._opened_lock:
            self._opened[id(connection)] = threading.current_thread(), connection
        return connection

    def _close(self, conn: Any) -> None:
        with self._opened_lock:
            self._opened.pop(id(conn), None)
        super()._close(conn)  # type: ignore[misc]  # inner, not in the stubs

    def close_all(self) -> None:
        """Close the connections of all threads; call it when the others have stopped."""
        with self._opened_lock:
            opened, self._opened = list(self._opened.values()), {}
        for thread, connection in opened:
            if self.may_close(thread):
                with suppress(Exception):  # the server may have closed it already
                    connection.close()
        self.dispose()

    @staticmethod
    def may_close(thread: threading.Thread) -> bool:  # noqa: ARG004 -- other databases ask
        """Whether this thread may close a connection that another thread opened."""
        return True

    def discard(self) -> None:
        """Close this thread's connection in any state."""
        with suppress(Exception):  # it may be lost, which is why it is discarded
            self.close()

    def begin(self, *_: Any) -> None:
        """Begin a transaction, in the database with its first statement."""
        self._begin_with_next(True)

    @contextmanager
    def kept_whole(self) -> Iterator[None]:
        """Refuse to commit or roll back in this thread for as long as the block runs."""
        self._local.kept_whole = True
        try:
            yield
        finally:
            self._local.kept_whole = False

    def commit(self) -> None:
        """Commit, unless nothing was executed."""
        self._check_owner("commit")
        if not self._begin_with_next(False):
            super().commit()

    def rollback(self) -> None:
        """Roll back, unless nothing was executed or the connection is gone."""
        self._check_owner("rollback")
        if not self._begin_with_next(False) and self._begun():
            super().rollback()

    def _check_owner(self, name: str) -> None:
        if getattr(self._local, "kept_whole", False):
            raise UsageError(not_the_owner(f"database.{name}", "database.atomic()"))

    def connection(self) -> Any:
        """Return the driver's connection, within the transaction that has begun to Python."""
        if self._begin_with_next(False):
            self._begin_and_execute("SELECT 1", ())
        return super().connection()

    def lost(self) -> bool:
        """Whether this thread's connection is lost."""
        return self.is_closed()

    def _begun(self) -> bool:
        """Whether the database has an open transaction of this thread."""
        return not self.lost()

    def _begin_with_next(self, waiting: bool) -> bool:  # noqa: FBT001 -- a state to set
        """Set whether a transaction has still to begin; return whether one had until now."""
        earlier: bool = getattr(self._local, "waiting", False)
        self._local.waiting = waiting
        return earlier

    def _connect_within(self) -> None:
        """Connect within a transaction of which nothing was executed, which so goes on."""
        state: Any = self._state  # type: ignore[attr-defined]  # inner, not in the stubs
        begun, state.transactions = state.transactions, []
        self.discard()
        try:
            self.connect()
        finally:
            state.transactions = begun

    def _begin_and_execute(self, sql: str, params: Any, **options: Any) -> Any:
        """Begin a transaction in the database, and execute its first statement."""
        raise NotImplementedError

    def _execute_cursor(self, sql: str, params: Any, **options: Any) -> Any:
        if self._begin_with_next(False):
            return self._begin_and_execute(sql, params, **options)
        try:
            return super()._execute_cursor(sql, params, **options)  # type: ignore[misc]  # inner, not in the stubs
        except peewee.PeeweeException as error:
            if self.in_transaction() or not outage(error):
                raise
            lost = self.lost()
            self.discard()
            if not (lost and sql.lstrip()[:6].upper() == "SELECT"):
                raise
        # A read outside any transaction may safely be asked again on a new connection.
        return super()._execute_cursor(sql, params, **options)  # type: ignore[misc]  # inner, not in the stubs


class SqliteDatabase(Database, peewee.SqliteDatabase):
    """SQLite in WAL mode, durable, its file for its owner alone; transactions take turns."""

    def __init__(self, database: str, *, waiting: Waiting, **options: Any) -> None:
        """Wait for a turn, and for SQLite's own lock, within waiting()."""
        self._while_waiting = waiting
        super().__init__(database, **options)

    @staticmethod
    def may_close(thread: threading.Thread) -> bool:
        """Whether it cannot be at work: to close a connection in use crashes the process.

        A thread that goes on closes its connection when it ends.
        """
        return thread is threading.current_thread() or not thread.is_alive()

    def _connect(self) -> Any:
        with suppress(OSError):  # SQLite says better what is wrong with the file
            make_database_file(Path(self.database))
        return super()._connect()

    def _begin_and_execute(self, sql: str, params: Any, **options: Any) -> Any:
        turn = self._turn()
        with self._while_waiting():
            if self.is_closed():
                self._connect_within()
            with suppress(OSError):  # without a turn SQLite itself waits, or says what is wrong
                turn.take(BUSY_TIMEOUT_SECONDS)
            try:
                peewee.SqliteDatabase.begin(self)
            except BaseException:
                turn.give()
                raise
        return self._execute_cursor(sql, params, **options)

    def commit(self) -> None:
        """Commit, and let the next one write."""
        super().commit()
        self._turn().give()

    def rollback(self) -> None:
        """Roll back, and let the next one write."""
        self._check_owner("rollback")
        try:
            super().rollback()
        finally:
            self._turn().give()

    def _begun(self) -> bool:
        # SQLite ends a transaction by itself when the disk is full.
        return super()._begun() and bool(self.connection().in_transaction)

    def _turn(self) -> Turn:
        if not hasattr(self._local, "turn"):
            self._local.turn = Turn(f"{self.database}.turn")
        return cast("Turn", self._local.turn)


class PostgresDatabase(Database, peewee.PostgresqlDatabase):
    """PostgreSQL by psycopg2; BEGIN travels with a transaction's first statement.

    If that statement finds the connection lost, the transaction begins on another one.
    """

    def __init__(self, database: str, *, settings: Mapping[str, str], **options: Any) -> None:
        """Set settings on each connection: poolers refuse the startup parameter options."""
        self._settings = "; ".join(f"SET {name} = '{value}'" for name, value in settings.items())
        super().__init__(database, **options)

    def _connect(self) -> Any:
        connection = super()._connect()
        close_in_forks(connection)
        if self._settings:
            with connection.cursor() as cursor:
                cursor.execute(self._settings)
        return connection

    def begin(self, isolation_level: Any = None) -> None:
        """Begin a transaction, on the server with its first statement."""
        if isolation_level:
            peewee.PostgresqlDatabase.begin(self, isolation_level)
        else:
            super().begin()

    def lost(self) -> bool:
        """Whether the server closed this thread's connection."""
        return super().lost() or bool(self.connection().closed)

    def _begin_and_execute(self, sql: str, params: Any, **options: Any) -> Any:
        sql = f"BEGIN; {sql}"
        if self.is_closed():
            self._connect_within()
        try:
            return self._execute_cursor(sql, params, **options)
        except (peewee.OperationalError, peewee.InterfaceError):
            if not self.lost():
                raise
        # Nothing of the transaction was there to be lost; to peewee it is the same one still.
        self._connect_within()
        return self._execute_cursor(sql, params, **options)


def make_database(
    url: StoreUrl | str, application_name: str, *, waiting: Waiting = nullcontext
) -> Database:
    """Return the database of a URL, not yet connected; raise UsageError for an invalid URL."""
    if isinstance(url, str):
        try:
            url = parse_store_url(url)
        except UrlError as error:
            msg = f"store url: {error}"
            raise UsageError(msg) from None
    if url.file is None:
        return _make_postgres(url, application_name)
    if not url.file.is_absolute():
        msg = f"store url: expected sqlite:////absolute/path, got '{url}'"
        raise UsageError(msg)
    return SqliteDatabase(
        str(url.file),
        where=str(url.file),
        pragmas=PRAGMAS,
        timeout=BUSY_TIMEOUT_SECONDS,
        lock_type="IMMEDIATE",
        waiting=waiting,
        check_same_thread=False,  # close_all closes those of other threads
    )


def _make_postgres(url: StoreUrl, application_name: str) -> PostgresDatabase:
    from feedbus.store.peewee.deadlines import Connection  # only where psycopg2 is installed

    defaults = {
        "connect_timeout": "5",
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "tcp_user_timeout": "30000",
        "application_name": application_name,
    }
    given = dict(url.parameters)
    own = SETTING_GIVEN.findall(given.get("options", ""))
    settings = {name: value for name, value in POSTGRES_SETTINGS.items() if name not in own}
    # peewee wants a name; for a URL it adds none, and libpq finds it by the user or the service.
    name = given.pop("dbname", "postgresql://")
    return PostgresDatabase(
        name,
        where=str(url),
        **(defaults | given),
        settings=settings,
        connection_factory=Connection,
    )
