"""The store on SQLite or PostgreSQL by peewee: its transactions, and the database of models."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import peewee

from feedbus.clock import Waiting
from feedbus.errors import Outage, StoreOutage, UsageError
from feedbus.store.outages import is_outage
from feedbus.store.peewee.databases import make_database, parsed
from feedbus.store.peewee.lazy_transactions import Database
from feedbus.store.peewee.postgresql import PostgresDatabase
from feedbus.store.peewee.sqlite import SqliteDatabase
from feedbus.store.sql import SqlStore
from feedbus.store.tables import Cursor, Dialect
from feedbus.urls import StoreUrl

# The database that a project's models use: the database of the open stores, see open_or_share().
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
        url: the URL.
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
            waiting: makes a context manager around each wait for the lock of the SQLite file, so
                that the wait does not count for the time limit of a handler.

        Raises:
            UsageError: the URL is not the URL of a store.

        """
        self.url = parsed(url)
        self.database: Database = make_database(self.url, application_name, waiting=waiting)
        self._waiting = waiting
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

    def refusing_autocommit(self, queue: str) -> AbstractContextManager[None]:
        """In a `with` block, raise UsageError if a model writes outside of a transaction.

        Args:
            queue: the name of the queue with `store = false`, for the error.

        """
        return self.database.refusing_autocommit(queue)

    def execute(self, sql: str, parameters: Mapping[str, Any]) -> Cursor:
        """Execute a statement on feedbus's own tables, and return its result.

        The statement belongs to this thread's transaction. If none has begun, its changes are
        committed immediately.

        Args:
            sql: the statement, with parameters of the form :name.
            parameters: maps the names of the parameters to their values.
        """
        statement = _for_psycopg2(sql) if self.on_postgres else sql
        cursor: Cursor = self.database.execute_own(statement, parameters)
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
        """Close every thread's connection, unless another open store shares the database.

        Models that use the database have no database after their last store was closed.
        """
        with _models.lock:
            if self in _models.stores:
                _models.stores.remove(self)
                if not _models.stores:
                    database.initialize(None)
            if not _models.use(self.database):
                self.database.close_all()

    def has_database_of(self, other: PeeweeStore) -> bool:
        """Whether this store has the same URL as another one, and so the same database."""
        mine, theirs = self.url, other.url
        return (mine.file or mine.written) == (theirs.file or theirs.written)

    def share_database(self, other: PeeweeStore) -> None:
        """Use the database of another store with the same URL, instead of an own one.

        A transaction of one of the two stores is then a transaction of the other one, too.
        """
        self.database = other.database
        if isinstance(self.database, SqliteDatabase) and self._waiting is not nullcontext:
            self.database.while_waiting = self._waiting


class _Models:
    """The database of the project's models; a process has only one at a time.

    Attributes:
        stores: the open stores that share the database, the latest last.
        are_inherited: whether this process has only inherited the stores, by a fork. Then no store
            may share the database, because its connections belong to the parent.
        lock: held while the other attributes change.
    """

    def __init__(self) -> None:
        self.stores: list[PeeweeStore] = []
        self.after_fork(inherited=False)

    def after_fork(self, *, inherited: bool = True) -> None:
        """Prepare the object at its creation, or its copy in a forked process.

        Args:
            inherited: whether this is a forked process, so that the stores belong to its parent.

        """
        self.are_inherited = inherited
        self.lock = threading.Lock()

    def use(self, other: Database) -> bool:
        """Whether the models use the given database."""
        return bool(self.stores) and self.stores[-1].database is other

    def add(self, store: PeeweeStore) -> None:
        """Add an open store, which shares the database of the other ones, if it has the same URL.

        If the other stores have another URL, their database is closed.
        """
        if self.stores and not self.are_inherited and store.has_database_of(self.stores[-1]):
            store.share_database(self.stores[-1])
        else:
            self.clear()
            self.are_inherited = False
            database.initialize(store.database)
        if store not in self.stores:
            self.stores.append(store)

    def clear(self) -> None:
        """Close the database, also if stores are open."""
        if self.stores:
            closed = self.stores[-1].database
            self.stores.clear()
            database.initialize(None)
            closed.close_all()


_models = _Models()
os.register_at_fork(after_in_child=_models.after_fork)


def bind(store: PeeweeStore) -> PeeweeStore:
    """Make the project's peewee models use a store, and close the stores that they used before.

    An open store with the same URL stays open: both stores share one database.

    Returns:
        The argument.
    """
    with _models.lock:
        _models.add(store)
    return store


def open_or_share(store: PeeweeStore) -> None:
    """Make the project's peewee models use a store; refuse if they use one with another URL.

    An open store with the same URL and this store share one database. So all buses of a process
    have the same transactions as the models.

    Raises:
        UsageError: the models use a store with another URL, which is open.
    """
    with _models.lock:
        used = _models.stores[-1] if _models.stores and not _models.are_inherited else None
        if used is not None and not store.has_database_of(used):
            msg = (
                f"cannot open store {store.url}: in this process, the models of"
                f" feedbus.store.peewee.database use store {used.url}, which is open; first close"
                " the bus, the TestSystem or the store that opened it; a second project, whose"
                " models use another database, needs"
                " feedbus.connect(…, store=PeeweeStore(url, project))"
            )
            raise UsageError(msg)
        _models.add(store)


def bound() -> PeeweeStore:
    """Return the latest open store whose database the project's peewee models use.

    Raises:
        UsageError: no store is open.
    """
    if not _models.stores:
        msg = "no store is open: open the topology's with feedbus.store.open_store(topology)"
        raise UsageError(msg)
    return _models.stores[-1]


def close_bound() -> None:
    """Close the database that the project's peewee models use; without an open store, do nothing.

    It is closed for all stores that share it.
    """
    with _models.lock:
        _models.clear()


@contextmanager
def closing_new_stores() -> Iterator[None]:
    """After a `with` block, close the stores that the block has opened and not closed.

    Such a store would keep the database open that it shares with other stores.
    """
    earlier = list(_models.stores)
    try:
        yield
    finally:
        for store in [each for each in _models.stores if each not in earlier]:
            store.close()


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
