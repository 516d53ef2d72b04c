"""Decide whether an error is an outage of the store or is caused by a message."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterator

from feedbus.errors import Outage, StoreOutage
from feedbus.printable import one_line
from feedbus.shortened_tracebacks import user_line

# Primary result codes of SQLite, and what to do about each.
SQLITE_OUTAGES = {
    sqlite3.SQLITE_BUSY: "another process keeps it locked; feedbus tries again",
    sqlite3.SQLITE_LOCKED: "another connection keeps it locked; feedbus tries again",
    sqlite3.SQLITE_NOMEM: "there is no memory left; free some memory",
    sqlite3.SQLITE_READONLY: "it cannot be written; make the file and its folder writable",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write it; check the disk",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore it from a backup",
    sqlite3.SQLITE_FULL: "the disk is full; free space",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that its folder exists and is writable",
    sqlite3.SQLITE_PROTOCOL: "its lock could not be taken; feedbus tries again",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database; move the file to another place",
}
NO_TABLES = (
    "tables are missing; run `feedbus up`, which creates feedbus's tables and calls [store] prepare"
)

# SQLSTATE classes and codes, https://www.postgresql.org/docs/15/errcodes-appendix.html.
# The codes of POSTGRES_TIMEOUTS are not outages: a message whose handling needs too much time may
# be the cause of a timeout. So the retry policy applies. The delays of the policy also give a slow
# server time.
POSTGRES_CONNECTION = "08"
POSTGRES_CLASSES = {POSTGRES_CONNECTION, "53", "58"}  # 53: too few resources, 58: system error
POSTGRES_CODES = {
    "25006",  # read-only: a standby, until it is promoted
    "40001",  # serialization failure: the transaction must be repeated
    "40P01",  # deadlock: the transaction must be repeated
    "57P01",  # shutting down
    "57P02",  # crashed
    "57P03",  # starting up
    "57P05",  # idle session timeout
}
POSTGRES_TIMEOUTS = {
    "57014",  # a statement timeout
    "55P03",  # a lock timeout
}
POSTGRES_ABORTED = "25P02"  # an earlier statement of the transaction has failed
POSTGRES_NO_TABLE = "42P01"
# PostgreSQL also sends the code 42501 if a row security policy refuses a row, which a message may
# cause. Only the name of the server's function distinguishes this case from a missing privilege.
POSTGRES_NO_PRIVILEGE = "42501"
PRIVILEGE_CHECK = "aclcheck_error"  # the function of the server for a missing privilege
POSTGRES_DRIVERS = {"psycopg2", "psycopg", "pg8000"}
# The texts of these drivers about a connection that cannot be opened.
NOT_CONNECTED = re.compile("connection to server|connection failed|translate host|create a conn")
NO_CONNECTION = "; start the database, or correct the URL of the store"


def is_outage(error: BaseException) -> bool:
    """Whether an error is an outage of the store: it is unavailable, full or has no tables.

    The result is False for an error that a message or its handler may have caused. The function
    recognises errors of SQLite and of the drivers of PostgreSQL, also inside an error of peewee or
    SQLAlchemy.
    """
    if isinstance(error, Outage):
        return True
    return any(_reason(each) is not None for each in _causes(error))


def is_connection_loss(error: BaseException) -> bool:
    """Whether an error, or the cause of an outage, means that the store's connection is lost."""
    cause = error.__cause__ if isinstance(error, StoreOutage) else error
    return cause is not None and any(map(_is_lost, _causes(cause)))


def is_timeout(error: BaseException) -> bool:
    """Whether an error means that PostgreSQL has ended a statement because of its time limits.

    These are the settings statement_timeout and lock_timeout.
    """
    return _has_code(error, POSTGRES_TIMEOUTS)


def is_in_aborted_transaction(error: BaseException) -> bool:
    """Whether PostgreSQL has refused a statement because an earlier one in the transaction failed.

    So the error of the earlier statement was caught.
    """
    return _has_code(error, {POSTGRES_ABORTED})


def _has_code(error: BaseException, codes: Collection[str]) -> bool:
    return any(
        _library(each) in POSTGRES_DRIVERS and _code(each) in codes for each in _causes(error)
    )


def describe(error: BaseException, where: str) -> str:
    """Return one line with the reason of an outage, and what to do.

    If a call of the project's code raised the error, the line names the file and line of this call.
    So an operator can see whether the error came from another database than the store.

    Args:
        error: an outage; for any other error of the database, the line contains the error's text.
        where: the store's file or URL, with which the line begins.

    """
    if isinstance(error, StoreOutage):
        return str(error)  # transaction() has described it
    for each in _causes(error):
        reason = _reason(each)
        if reason is not None:
            place = user_line(error)
            return f"store {where}: {reason}" + (f" (raised at {place})" if place else "")
    return f"store {where}: {one_line(error)}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the driver's errors that caused it."""
    cause: object = error
    while isinstance(cause, BaseException):
        yield cause
        cause = getattr(cause, "orig", None)


def _reason(error: BaseException) -> str | None:
    """Return why an error is an outage, and what to do; None if it is not an outage."""
    if isinstance(error, sqlite3.Error):
        return _sqlite_reason(error)
    if _library(error) in POSTGRES_DRIVERS:
        return _postgres_reason(error)
    return (str(error) or "the connection was lost") if _is_lost(error) else None


def _is_lost(error: BaseException) -> bool:
    """Whether a driver's error means that the connection is closed or lost."""
    if isinstance(error, sqlite3.ProgrammingError):
        return str(error).startswith("Cannot operate on a closed database")
    if _library(error) in POSTGRES_DRIVERS:
        code = _code(error)
        return code[:2] == POSTGRES_CONNECTION if code else _is_unanswered(error)
    return _library(error) == "peewee" and type(error).__name__ == "InterfaceError"


def _library(error: BaseException) -> str:
    """Return the name of the package that defines the class of an error."""
    return type(error).__module__.partition(".")[0]


def _sqlite_reason(error: sqlite3.Error) -> str | None:
    if _is_lost(error):
        return "its connection was closed"
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    if code == sqlite3.SQLITE_ERROR and str(error).startswith("no such table"):
        return NO_TABLES
    return SQLITE_OUTAGES.get(code & 0xFF)


def _postgres_reason(error: BaseException) -> str | None:
    code = _code(error)
    text = one_line(error) or type(error).__name__
    if not code:
        # The second line of a driver is a sentence of its own, such as "Is the server running …?".
        text = "; ".join(filter(None, map(one_line, str(error).splitlines()))) or text
        advice = NO_CONNECTION if NOT_CONNECTED.search(text) else ""
        return f"{text}{advice}" if _is_unanswered(error) else None
    if code == POSTGRES_NO_TABLE:
        return NO_TABLES
    if code == POSTGRES_NO_PRIVILEGE:
        diagnosis = getattr(error, "diag", None)
        checked = getattr(diagnosis, "source_function", None) or _field(error, "R") or ""
        is_missing = checked.startswith(PRIVILEGE_CHECK)
        return f"{text.partition(' LINE ')[0]}; grant it to the role" if is_missing else None
    return text if code[:2] in POSTGRES_CLASSES or code in POSTGRES_CODES else None


def _code(error: BaseException) -> str:
    """Return the SQLSTATE of a driver's error, or "" if it has none."""
    code = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
    return code or _field(error, "C") or ""


def _is_unanswered(error: BaseException) -> bool:
    """Whether a driver's error without SQLSTATE means that the connection was refused or lost."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"OperationalError", "InterfaceError"})


def _field(error: BaseException, name: str) -> str | None:
    """Return a field of the server's error message, if the driver is pg8000; else None.

    pg8000 puts the fields into a dict.

    Args:
        error: an error of a driver of PostgreSQL.
        name: the letter of the field in the protocol of PostgreSQL, such as C for the SQLSTATE.

    """
    first = error.args[0] if error.args else None
    return first.get(name) if isinstance(first, dict) else None
