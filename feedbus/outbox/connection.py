"""Open the store, run transactions in it, and connect anew after it was away."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import peewee

from feedbus.errors import Outage, UsageError
from feedbus.outbox.outages import describe, outage

SQLITE_PREFIX = "sqlite:///"
POSTGRES_PREFIXES = ("postgresql://", "postgres://")
BUSY_TIMEOUT_SECONDS = 10
POSTGRES_SETTINGS = {
    "statement_timeout": "30s",
    "random_page_cost": "1.1",  # solid state: else a batch of keys may read its whole table
    "jit": "off",  # compiling takes longer than any statement here
}
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

database = peewee.DatabaseProxy()


class _Connected(peewee.Database):
    """A database that drops a connection on which an outage showed; the next use connects anew.

    Connections belong to threads. The threads here live as long as their process, so there are
    as many connections as threads and none is asked SELECT 1 before each use, as a pool's are.
    """

    def __init__(self, database: str, *, where: str, **options: Any) -> None:
        """Start with no connection; where is how messages to people name the store."""
        self.where = where
        self._opened: dict[int, Any] = {}
        self._opened_lock = threading.Lock()
        super().__init__(database, **options)

    def _connect(self) -> Any:
        connection = super()._connect()  # type: ignore[misc]  # inner, not in the stubs
        with self._opened_lock:
            self._opened[id(connection)] = connection
        return connection

    def _close(self, conn: Any) -> None:
        with self._opened_lock:
            self._opened.pop(id(conn), None)
        super()._close(conn)  # type: ignore[misc]  # inner, not in the stubs

    def close_all(self) -> None:
        """Close the connections of all threads; call it when the others have stopped."""
        with self._opened_lock:
            opened, self._opened = list(self._opened.values()), {}
        for connection in opened:
            with suppress(Exception):  # the server may have closed it already
                connection.close()
        self.dispose()

    def discard(self) -> None:
        """Close this thread's connection, whatever state it is in."""
        with suppress(Exception):  # it may be lost, which is why it is discarded
            self.close()

    def _execute_cursor(self, sql: str, params: Any, **options: Any) -> Any:
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

    def lost(self) -> bool:
        """Whether this thread's connection is gone for good."""
        return False


class SqliteStore(_Connected, peewee.SqliteDatabase):
    """SQLite in WAL mode, durable, its file for its owner alone."""

    def _connect(self) -> Any:
        path = Path(self.database)
        with suppress(OSError):  # SQLite tells better what is wrong with the file
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        return super()._connect()

    def rollback(self) -> None:
        """Roll back, unless SQLite has done so by itself, as it does when the disk is full."""
        if self.connection().in_transaction:
            super().rollback()


class PostgresStore(_Connected, peewee.PostgresqlDatabase):
    """PostgreSQL by psycopg2; a transaction that begins on a lost connection begins anew."""

    def lost(self) -> bool:
        """Whether the server closed this thread's connection."""
        return self.is_closed() or bool(self.connection().closed)

    def begin(self, isolation_level: Any = None) -> None:
        """Begin a transaction, on a new connection when the old one is gone."""
        try:
            super().begin(isolation_level)
        except (peewee.OperationalError, peewee.InterfaceError):
            if not self.lost():
                raise
            self.discard()
            super().begin(isolation_level)


def open_store(url: str, *, application_name: str = "feedbus") -> peewee.Database:
    """Bind the database of that URL; it is connected on first use, by each thread.

    Args:
        url: sqlite:////absolute/path or postgresql://user@host/name; what libpq takes in the
            query string goes before the defaults here.
        application_name: how PostgreSQL lists these connections.

    Raises:
        UsageError: the URL is neither.

    """
    opened = _make(url, application_name)
    close_store()
    database.initialize(opened)
    return opened


def _make(url: str, application_name: str) -> _Connected:
    if url.startswith(SQLITE_PREFIX):
        path = url.removeprefix(SQLITE_PREFIX)
        if not Path(path).is_absolute():
            msg = f"store url: expected sqlite:////absolute/path, got '{url}'"
            raise UsageError(msg)
        return SqliteStore(
            path,
            where=path,
            pragmas=PRAGMAS,
            timeout=BUSY_TIMEOUT_SECONDS,
            lock_type="IMMEDIATE",
            check_same_thread=False,  # close_all closes those of other threads
        )
    if url.startswith(POSTGRES_PREFIXES):
        return _make_postgres(url, application_name)
    scheme = url.partition(":")[0]
    msg = f"store url: expected sqlite:/// or postgresql://, got '{scheme}:'"
    raise UsageError(msg)


def _make_postgres(url: str, application_name: str) -> PostgresStore:
    import psycopg2
    from psycopg2.extensions import parse_dsn

    try:
        given = parse_dsn(url)
    except psycopg2.ProgrammingError as error:
        told = str(error).strip().replace(url, "it")
        msg = f"store url: not a PostgreSQL URL: {told}"
        raise UsageError(msg) from error
    defaults = {
        "connect_timeout": "5",
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "tcp_user_timeout": "30000",
        "application_name": application_name,
    }
    settings = " ".join(f"-c {name}={value}" for name, value in POSTGRES_SETTINGS.items())
    options = f"{settings} {given.pop('options', '')}".strip()
    name = given.pop("dbname", given.get("user", "postgres"))
    where = f"postgresql://{given.get('host', '')}:{given.get('port', '5432')}/{name}"
    return PostgresStore(name, where=where, **(defaults | given), options=options)


def close_store() -> None:
    """Close every thread's connection and unbind the database; harmless when none is open."""
    opened = database.obj
    database.initialize(None)
    if isinstance(opened, _Connected):
        opened.close_all()


def bound() -> _Connected:
    """Return the database that open_store bound, or raise UsageError when there is none."""
    if not isinstance(database.obj, _Connected):
        msg = "no store is open: call feedbus.outbox.open_store(url) first"
        raise UsageError(msg)
    return database.obj


def on_postgres() -> bool:
    """Whether the store is PostgreSQL; otherwise it is SQLite."""
    return isinstance(database.obj, PostgresStore)


@contextmanager
def transaction() -> Iterator[None]:
    """Commit what the block does, or nothing of it; within another transaction, join that one.

    Raises:
        Outage: the store went away; nothing was committed, or (when the connection broke during
            the commit itself) it is unknown whether it was: repeat it, idempotently.

    """
    store = bound()
    if store.in_transaction():
        yield
        return
    try:
        with store.atomic():
            yield
    except Exception as error:
        if not outage(error):
            raise
        store.discard()
        if isinstance(error, Outage):
            raise
        raise Outage(describe(error, store.where)) from error


def ready() -> None:
    """Ask the store for an answer, on a new connection when the old one is gone.

    Raises:
        Outage: there is none; its text says why and what to do.

    """
    _ask(bound())


def ping(url: str) -> None:
    """Ask the store of that URL for an answer, whatever store is open.

    Raises:
        Outage: there is none; its text says why and what to do.
        UsageError: the URL is that of no store.

    """
    store = _make(url, "feedbus ping")
    try:
        _ask(store)
    finally:
        store.close_all()


def _ask(store: _Connected) -> None:
    postgres = isinstance(store, PostgresStore)
    question = "SELECT 1" if postgres else "SELECT count(*) FROM sqlite_master"
    try:
        store.execute_sql(question).fetchone()
    except Exception as error:
        store.discard()
        raise Outage(describe(error, store.where)) from error
