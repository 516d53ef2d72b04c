"""Run a read-only query of a user on the store, for `feedbus balance --query`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import peewee

from feedbus.errors import StoreOutage, UsageError
from feedbus.printable import one_line
from feedbus.store.outages import describe, is_outage
from feedbus.store.peewee.databases import make_database, parsed
from feedbus.store.peewee.lazy_transactions import Database
from feedbus.store.peewee.postgresql import PostgresDatabase
from feedbus.urls import StoreUrl

ROWS_AT_ONCE = 10_000  # rows that are in memory together
LONGEST_SECONDS = 600  # the time limit of a query on PostgreSQL
POSTGRES_READ_ONLY = "25006"

QueryResult = tuple[Sequence[str], Iterator[Sequence[Any]]]


@contextmanager
def reading(url: StoreUrl | str, query: str) -> Iterator[QueryResult]:
    """Run a query for a `with` block; yield the names of its columns, and an iterator of its rows.

    `feedbus balance --query` uses the function. On PostgreSQL, the query may run for at most 600 s.

    Args:
        url: the URL of the store.
        query: an SQL query; statements that write are refused.

    Raises:
        UsageError: the store refused the query, for example because it would write.
        StoreOutage: the store is unavailable, or the SQLite file or a table of the query does not
            exist.
    """
    database = make_database(parsed(url), "feedbus balance")
    try:
        with closing(_cursor(database, query)) as cursor:
            first = cursor.fetchmany(ROWS_AT_ONCE)
            yield _columns(cursor), _rows(cursor, first)
    except Exception as error:
        if not (isinstance(error, peewee.PeeweeException) or _of_driver(error)):
            raise
        # For other statements, a refused write is an outage: the file or the server is read-only.
        if is_outage(error) and not _would_write(error):
            raise StoreOutage(describe(error, database.where)) from error
        msg = f"query: {database.where} refuses it: {one_line(error)}"
        raise UsageError(msg) from error
    finally:
        database.discard()
        database.close_all()


def _cursor(database: Database, query: str) -> Any:
    if isinstance(database, PostgresDatabase):
        connection = database.connection()
        connection.set_session(readonly=True, autocommit=False)
        with connection.cursor() as setting:
            setting.execute(f"SET statement_timeout = '{LONGEST_SECONDS}s'")
        # A named cursor accepts only queries, and keeps only some rows in memory.
        cursor = connection.cursor(name="feedbus_reading")
        cursor.itersize = ROWS_AT_ONCE
        cursor.execute(query)
        return cursor
    if not Path(database.database).exists():
        msg = f"store {database.where}: there is no such file yet; `feedbus up` creates it"
        raise StoreOutage(msg)
    connection = database.connection()
    connection.execute("PRAGMA query_only = ON")
    return connection.execute(query)


def _columns(cursor: Any) -> list[str]:
    if cursor.description is None:
        msg = "query: expected a query that returns rows, such as SELECT follower_id FROM feed"
        raise UsageError(msg)
    return [column[0] for column in cursor.description]


def _rows(cursor: Any, rows: Sequence[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    while rows:
        yield from rows
        rows = cursor.fetchmany(ROWS_AT_ONCE)


def _would_write(error: BaseException) -> bool:
    """Whether an error means that the query tries to write."""
    refused = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY
    return refused or getattr(error, "pgcode", None) == POSTGRES_READ_ONLY


def _of_driver(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in {"sqlite3", "psycopg2"}
