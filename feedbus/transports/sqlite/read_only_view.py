"""Read a broker file without registering in it, locking it or changing it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from feedbus.transports.sqlite.schema import SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class BrokerRows:
    """Rows of a broker's tables: exchanges (name, type, arguments), queues (name, arguments, ready,
    unacknowledged, consumers), bindings (source, kind, destination, key, arguments) in order.
    """  # noqa: D205 -- one sentence

    exchanges: list[tuple[str, str, Mapping[str, Any]]]
    queues: list[tuple[str, Mapping[str, Any], int, int, int]]
    bindings: list[tuple[str, str, str, str, Mapping[str, Any]]]


def survey(path: Path) -> BrokerRows:
    """Return the rows of a broker file; a file that does not exist yet has none.

    Raises:
        sqlite3.DatabaseError: the file cannot be read.

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
            msg = f"{path}: expected version {SCHEMA_VERSION} of its tables, got {version}"
            raise sqlite3.DatabaseError(msg)
        return read_rows(database)


def read_rows(database: sqlite3.Connection) -> BrokerRows:
    """Return the rows of an open database; the caller has begun a transaction."""
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
        [(name, kind, json.loads(text)) for name, kind, text in exchanges],
        [(name, json.loads(text), *counts) for name, text, *counts in queues],
        [(*names, json.loads(text)) for *names, text in bindings],
    )
