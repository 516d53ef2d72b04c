"""Open the store, run transactions in it, and tell its outages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import peewee

from feedbus.errors import Outage, StoreOutage, UsageError
from feedbus.outbox.databases import PostgresStore, Store, make_store
from feedbus.outbox.outages import describe, outage
from feedbus.urls import StoreUrl

database = peewee.DatabaseProxy()


def open_store(url: StoreUrl | str, *, application_name: str = "feedbus") -> peewee.Database:
    """Bind the database of that URL; it is connected on first use, by each thread.

    Args:
        url: sqlite:////absolute/path or postgresql://user@host/name; what libpq takes in the
            query string goes before the defaults here.
        application_name: how PostgreSQL lists these connections.

    Raises:
        UsageError: the URL is not a store's.

    """
    opened = make_store(url, application_name)
    close_store()
    database.initialize(opened)
    return opened


def load_driver(url: StoreUrl) -> None:
    """Import what open_store() will need, and leave the store alone.

    Raises:
        UsageError: as open_store() does.

    """
    make_store(url, "")


def close_store() -> None:
    """Close every thread's connection and unbind the database; harmless when none is open."""
    opened = database.obj
    database.initialize(None)
    if isinstance(opened, Store):
        opened.close_all()


def bound() -> Store:
    """Return the database that open_store bound, or raise UsageError when there is none."""
    if not isinstance(database.obj, Store):
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
        StoreOutage: the store went away; nothing was committed, or (when the connection broke
            during the commit itself) it is unknown whether it was: repeat it, idempotently.

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
        raise StoreOutage(describe(error, store.where)) from error


def ready() -> None:
    """Ask the store for an answer, on a new connection when the old one is gone.

    Raises:
        StoreOutage: there is none; its text says why and what to do.

    """
    _ask(bound())


def ping(url: StoreUrl | str) -> None:
    """Ask the store of that URL for an answer, whatever store is open.

    Raises:
        StoreOutage: there is none; its text says why and what to do.
        UsageError: the URL is that of no store.

    """
    store = make_store(url, "feedbus ping")
    try:
        _ask(store)
    finally:
        store.close_all()


def _ask(store: Store) -> None:
    postgres = isinstance(store, PostgresStore)
    question = "SELECT 1" if postgres else "SELECT count(*) FROM sqlite_master"
    try:
        store.execute_sql(question).fetchone()
    except Exception as error:
        store.discard()
        raise StoreOutage(describe(error, store.where)) from error
