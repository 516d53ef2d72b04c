"""Read a broker file without registering in it, locking it or changing it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from feedbus.transports.sqlite.schema import SCHEMA_VERSION
from feedbus.transports.sqlite.table_json import table_from_json


@dataclass(frozen=True, slots=True)
class BrokerRows:
    """The exchanges, queues and bindings of a broker at one time, as rows.

    Attributes:
        exchanges: name, type and arguments of each exchange.
        queues: name, arguments, and the numbers of ready messages, unacknowledged messages and
            consumers of each queue.
        bindings: source, kind of the destination ("queue" or "exchange"), destination, binding key
            and arguments of each binding, in the order in which they were declared.
    """

    exchanges: list[tuple[str, str, Mapping[str, Any]]]
    queues: list[tuple[str, Mapping[str, Any], int, int, int]]
    bindings: list[tuple[str, str, str, str, Mapping[str, Any]]]


def survey(path: Path) -> BrokerRows:
    """Return the rows of a broker file; a file that does not exist yet has none.

    `feedbus plan` and `feedbus apply` use it, also while other processes use the file.

    Raises:
        sqlite3.DatabaseError: the file cannot be read, or is of another version of feedbus.
    """
    if not path.exists():
        return BrokerRows([], [], [])
    uri = f"file:{quote(str(path))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as database:
        database.execute("BEGIN")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:  # the file exists, but its tables do not exist yet
            return BrokerRows([], [], [])
        if version != SCHEMA_VERSION:
            msg = (
                f"{path}: expected version {SCHEMA_VERSION} of its tables, got {version}; use the"
                " version of feedbus that wrote it, or another file"
            )
            raise sqlite3.DatabaseError(msg)
        return read_rows(database)


def read_rows(database: sqlite3.Connection) -> BrokerRows:
    """Return the exchanges, queues and bindings of an open broker database.

    The caller begins a transaction first, so that all rows are of the same moment.
    """
    exchanges = database.execute("SELECT name, type, arguments FROM exchanges").fetchall()
    queues = database.execute(
        "SELECT name, arguments, depth,"
        " (SELECT count(*) FROM unacked WHERE unacked.queue = queues.id),"
        " (SELECT count(*) FROM consumers WHERE consumers.queue = queues.id) FROM queues"
    ).fetchall()
    bindings = database.execute(
        "SELECT source, kind, destination, routing_key, arguments FROM bindings ORDER BY id"
    ).fetchall()
    return BrokerRows(
        [(name, kind, table_from_json(text)) for name, kind, text in exchanges],
        [(name, table_from_json(text), *counts) for name, text, *counts in queues],
        [(*names, table_from_json(text)) for *names, text in bindings],
    )
