"""The store on SQLite or PostgreSQL by peewee: its transactions, and the database of models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import peewee

from feedbus.clock import Waiting
from feedbus.errors import Outage, StoreOutage, UsageError
from feedbus.store.outages import is_outage
from feedbus.store.peewee.databases import make_database
from feedbus.store.peewee.lazy_transactions import Database
from feedbus.store.peewee.postgresql import PostgresDatabase
from feedbus.store.sql import SqlStore
from feedbus.store.tables import Cursor, Dialect
from feedbus.urls import StoreUrl

# The database that a project's models use: the database of the store that was passed to bind().
database = peewee.DatabaseProxy()
NAMED = re.compile(r"(?<!:):(\w+)")  # a parameter in the SQL of feedbus, such as :project


class PeeweeStore(SqlStore):
    """A store on peewee: the project's peewee models use the same transactions.

    Args:
        url: sqlite:////absolute/path or postgresql://user@host/name.
        project: the name of the project; only the rows of this project are used.
        application_name: the name of the connections in PostgreSQL's list.
        waiting: makes a context manager around each wait for the lock of the SQLite file, so that
            the wait does not count for the time limit of a handler.

    Attributes:
        database: the peewee database.
        on_postgres: whether it is on PostgreSQL; otherwise it is on SQLite.

    Raises:
        UsageError: the URL is not the URL of a store.
    """

    session_type = peewee.Database

    def __init__(
        self,
        url: StoreUrl | str,
        project: str = "",
        *,
        application_name: str = "feedbus",
        waiting: Waiting = nullcontext,
    ) -> None:
        """Create the store of a URL; each thread connects at its first use.

        Args:
            url: sqlite:////absolute/path or postgresql://user@host/name; libpq's parameters in its
                query string override the defaults of feedbus.
            project: the name of the project; the store uses only the rows of this project.
            application_name: the name of the connections in PostgreSQL's list.
            waiting: makes a context manager around each wait for the lock of the SQLite file; see
                feedbus.clock.Waiting.

        Raises:
            UsageError: the URL is not the URL of a store.

        """
        self.database: Database = make_database(url, application_name, waiting=waiting)
        self.on_postgres = isinstance(self.database, PostgresDatabase)
        dialect: Dialect = "postgresql" if self.on_postgres else "sqlite"
        file = None if self.on_postgres else Path(self.database.database)
        super().__init__(project, self.database.where, dialect, file)

    @property
    def in_transaction(self) -> bool:
        """Whether this thread has begun a transaction, also by `database.atomic()`."""
        return bool(self.database.in_transaction())

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        """Commit all changes of a `with` block, or none; yield the peewee database.

        If this thread has already begun a transaction, the block joins that transaction.

        Raises:
            StoreOutage: the store became unavailable. If the connection was lost during the commit,
                it is unknown whether the store has committed, so the block must be idempotent. In
                all other cases, nothing was committed.
            UsageError: a statement of the block has failed or has ended the transaction, and the
                block has caught its error.

        """
        if self.in_transaction:
            yield self.database
            return
        try:
            with self.database.atomic(), self.database.kept_whole():
                yield self.database
        except Exception as error:
            if not is_outage(error):
                raise
            self.database.discard()
            if isinstance(error, Outage):
                raise
            raise StoreOutage(self.describe(error)) from error

    def execute(self, sql: str, parameters: Mapping[str, Any]) -> Cursor:
        """Execute a statement on feedbus's own tables, and return its result.

        The statement belongs to this thread's transaction. If none has begun, its changes are
        committed immediately.

        Args:
            sql: the statement, with parameters of the form :name.
            parameters: maps the names of the parameters to their values.
        """
        statement = _for_psycopg2(sql) if self.on_postgres else sql
        cursor: Cursor = self.database.execute_sql(statement, parameters)
        return cursor

    def ready(self) -> None:
        """Check that the store answers, on a new connection if the old one is lost.

        Raises:
            StoreOutage: the store does not answer; the text says why and what to do.
        """
        try:
            super().ready()
        except StoreOutage:
            self.database.discard()
            raise

    def close(self) -> None:
        """Close every thread's connection; models that use this store have no store afterwards."""
        if _binding.store is self:
            _binding.store = None
            database.initialize(None)
        self.database.close_all()


class _Binding:
    """The store that the models of the project use; a process has only one such store at a time."""

    store: PeeweeStore | None = None


_binding = _Binding()


def bind(store: PeeweeStore) -> PeeweeStore:
    """Make the project's peewee models use a store, and close the store that they used before.

    Returns:
        The store that the models use now, which is the argument.
    """
    close_bound()
    _binding.store = store
    database.initialize(store.database)
    return store


def bound() -> PeeweeStore:
    """Return the store that the project's peewee models use.

    Raises:
        UsageError: no store is open.
    """
    if _binding.store is None:
        msg = "no store is open: open the topology's with feedbus.store.open_store(topology)"
        raise UsageError(msg)
    return _binding.store


def close_bound() -> None:
    """Close the store that the project's peewee models use; without an open store, do nothing."""
    if _binding.store is not None:
        _binding.store.close()


def transaction() -> AbstractContextManager[Database]:
    """Return a context manager that commits all changes of a `with` block, or none.

    The block runs in a transaction of the store that the project's peewee models use. The context
    manager yields the peewee database.

    Raises:
        UsageError: no store is open.
    """
    return bound().transaction()


def on_postgres() -> bool:
    """Whether the store of the project's peewee models is on PostgreSQL; otherwise it is on SQLite.

    Raises:
        UsageError: no store is open.
    """
    return bound().on_postgres


@lru_cache(maxsize=64)
def _for_psycopg2(sql: str) -> str:
    """Return a statement in which the parameters have psycopg2's notation."""
    return NAMED.sub(r"%(\1)s", sql)
