"""The store on SQLite or PostgreSQL by peewee: its transactions, and the database of models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import peewee

from feedbus.errors import Outage, StoreOutage, UsageError
from feedbus.store.locks import advisory_lock, file_lock
from feedbus.store.peewee.databases import Database, PostgresDatabase, Waiting, make_database
from feedbus.store.peewee.outages import describe, outage
from feedbus.store.tables import Cursor, Dialect, SqlInbox, SqlOutbox, create_tables
from feedbus.urls import StoreUrl

# What a project's models name as their database: that of the store which is bound.
database = peewee.DatabaseProxy()
NAMED = re.compile(r":(\w+)")


class PeeweeStore:
    """A store whose transactions are those of the project's peewee models."""

    session_type = peewee.Database

    def __init__(
        self,
        url: StoreUrl | str,
        *,
        application_name: str = "feedbus",
        waiting: Waiting = nullcontext,
    ) -> None:
        """Take the database of that URL; it is connected on first use, by each thread.

        Args:
            url: sqlite:////absolute/path or postgresql://user@host/name; what libpq takes in the
                query string goes before the defaults here.
            application_name: how PostgreSQL lists these connections.
            waiting: a context manager around every wait for a lock of the whole SQLite file.

        Raises:
            UsageError: the URL is not a store's.

        """
        self.database: Database = make_database(url, application_name, waiting=waiting)
        self.on_postgres = isinstance(self.database, PostgresDatabase)
        self.dialect: Dialect = "postgresql" if self.on_postgres else "sqlite"
        self.outbox = SqlOutbox(self)
        self.inbox = SqlInbox(self)

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        """Commit what the block does, or nothing of it; see Store.transaction."""
        if self.database.in_transaction():
            yield self.database
            return
        try:
            with self.database.atomic():
                yield self.database
        except Exception as error:
            if not outage(error):
                raise
            self.database.discard()
            if isinstance(error, Outage):
                raise
            raise StoreOutage(describe(error, self.database.where)) from error

    def execute(self, sql: str, parameters: Mapping[str, Any]) -> Cursor:
        """Execute a statement of feedbus's own tables."""
        statement = _for_psycopg2(sql) if self.on_postgres else sql
        cursor: Cursor = self.database.execute_sql(statement, parameters)
        return cursor

    def is_outage(self, error: BaseException) -> bool:
        """Whether an error says that the store is away, full or not set up."""
        return outage(error)

    @contextmanager
    def exclusive(self, name: str, *, wait_seconds: float = 0.0) -> Iterator[bool]:
        """Hold the store's lock of that name; yields False when another process keeps it."""
        held = (
            advisory_lock(self.execute, name, wait_seconds)
            if self.on_postgres
            else file_lock(Path(f"{self.database.database}.{name}.lock"), wait_seconds)
        )
        with held as locked:
            yield locked

    def set_up(self) -> None:
        """Create feedbus's own tables where they are missing."""
        create_tables(self)

    def ready(self) -> None:
        """Ask the store for an answer, on a new connection when the old one is gone."""
        _ask(self.database)

    def close(self) -> None:
        """Close every thread's connection, and unbind the database of the models."""
        if _binding.store is self:
            _binding.store = None
            database.initialize(None)
        self.database.close_all()


class _Binding:
    """Which store the models use: one in a process at a time."""

    store: PeeweeStore | None = None


_binding = _Binding()


def bind(store: PeeweeStore) -> PeeweeStore:
    """Let the models use a store, close the one that they used before, and return the store."""
    close_bound()
    _binding.store = store
    database.initialize(store.database)
    return store


def bound() -> PeeweeStore:
    """Return the store that the models use, or raise UsageError when there is none."""
    if _binding.store is None:
        msg = "no store is open: open the topology's with feedbus.store.open_store(topology)"
        raise UsageError(msg)
    return _binding.store


def close_bound() -> None:
    """Close the store that the models use; harmless when none is open."""
    if _binding.store is not None:
        _binding.store.close()


def transaction() -> AbstractContextManager[Database]:
    """Return a transaction of the store that the models use; see Store.transaction."""
    return bound().transaction()


def on_postgres() -> bool:
    """Whether the store that the models use is on PostgreSQL; otherwise it is on SQLite."""
    return bound().on_postgres


def _ask(asked: Database) -> None:
    postgres = isinstance(asked, PostgresDatabase)
    question = "SELECT 1" if postgres else "SELECT count(*) FROM sqlite_master"
    try:
        asked.execute_sql(question).fetchone()
    except Exception as error:
        asked.discard()
        raise StoreOutage(describe(error, asked.where)) from error


@lru_cache(maxsize=64)
def _for_psycopg2(sql: str) -> str:
    """Return a statement of feedbus's own tables with parameters as psycopg2 names them."""
    return NAMED.sub(r"%(\1)s", sql)
