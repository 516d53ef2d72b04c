"""Tell an outage of the store from the fault of a message, and say what it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import peewee

from feedbus.errors import Outage

# Primary result codes of SQLite, and what to do about each.
SQLITE_OUTAGES = {
    sqlite3.SQLITE_BUSY: "another process has kept it locked; it is tried again",
    sqlite3.SQLITE_LOCKED: "another connection has kept it locked; it is tried again",
    sqlite3.SQLITE_NOMEM: "there is no memory left; free some",
    sqlite3.SQLITE_READONLY: "it cannot be written; make the file and its folder writable",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write it; check the disk",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore it from a backup",
    sqlite3.SQLITE_FULL: "the disk is full; free space",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that its folder exists and is writable",
    sqlite3.SQLITE_PROTOCOL: "its lock could not be taken; it is tried again",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database; move the file away",
}
NO_TABLES = "tables are missing: create them (feedbus up creates its own and calls [store] prepare)"

# SQLSTATE classes and codes, https://www.postgresql.org/docs/15/errcodes-appendix.html.
# A statement timeout (57014) is not among them: it may well be the message that asks for too much,
# so it climbs the retry ladder, which also gives a slow server time.
POSTGRES_CLASSES = {"08", "53", "58"}  # connection, insufficient resources, system error
POSTGRES_CODES = {
    "25006",  # read-only: a standby, until it is promoted
    "40001",  # serialization failure: repeating it is the remedy
    "40P01",  # deadlock, likewise
    "57P01",  # shutting down
    "57P02",  # crashed
    "57P03",  # starting up
    "57P05",  # idle session timeout
}
POSTGRES_NO_TABLE = "42P01"


def outage(error: BaseException) -> bool:
    """Whether the store is away, full or not set up: nothing that the message in hand did."""
    if isinstance(error, Outage):
        return True
    return any(_reason(each) is not None for each in _causes(error))


def describe(error: BaseException, where: str) -> str:
    """Say in a line what is wrong with the store and what to do."""
    for each in _causes(error):
        reason = _reason(each)
        if reason is not None:
            return f"store {where}: {reason}"
    return f"store {where}: {error}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Go through an error as raised, and as peewee and its driver raised it before."""
    found: object = error
    while isinstance(found, BaseException):
        yield found
        found = getattr(found, "orig", None)


def _reason(error: BaseException) -> str | None:
    if isinstance(error, sqlite3.Error):
        return _sqlite_reason(error)
    if isinstance(error, peewee.InterfaceError):
        return str(error) or "the connection was lost"
    if type(error).__module__.partition(".")[0] == "psycopg2":
        return _postgres_reason(error)
    return None


def _sqlite_reason(error: sqlite3.Error) -> str | None:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    if code == sqlite3.SQLITE_ERROR and str(error).startswith("no such table"):
        return NO_TABLES
    return SQLITE_OUTAGES.get(code & 0xFF)


def _postgres_reason(error: BaseException) -> str | None:
    import psycopg2  # only where it is installed and in use

    code = getattr(error, "pgcode", None)
    text = " ".join(str(error).split()) or type(error).__name__
    if code is None:
        # No answer from the server: it refused, hung up, or the connection is closed.
        away = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
        return text if away else None
    if code == POSTGRES_NO_TABLE:
        return NO_TABLES
    return text if code[:2] in POSTGRES_CLASSES or code in POSTGRES_CODES else None
