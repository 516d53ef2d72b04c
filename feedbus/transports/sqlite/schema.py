"""The tables of a broker file; many processes may create them at the same time."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feedbus.process import file_locks
from feedbus.process.private_files import make_database_file, open_private, private_folder

SCHEMA_VERSION = 1
OLDEST_SQLITE = (3, 38)  # this version has RETURNING, and has JSON built in
JOURNAL_BYTES = 64_000_000  # size to which the journal is truncated after a burst

# A message is written once and never changed. Only its state changes: `ready` has a small row for
# each message in a queue, and `unacked` has a row for each message that a connection holds. By the
# key of `ready`, the first message of a queue is found with one seek, however long the queue is.
TABLES = """
CREATE TABLE state (
    topology INTEGER NOT NULL,      -- counts changes of exchanges, queues and bindings
    owners INTEGER NOT NULL,        -- counts changes of owners and consumers
    next_message INTEGER NOT NULL,  -- never reused, so a late ack cannot settle another message
    armed_ms INTEGER                -- the next time at which something expires in any queue
);
INSERT INTO state VALUES (1, 1, 1, NULL);
CREATE TABLE exchanges (
    name TEXT PRIMARY KEY, type TEXT NOT NULL, durable INTEGER NOT NULL,
    auto_delete INTEGER NOT NULL, arguments TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE queues (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, durable INTEGER NOT NULL,
    exclusive INTEGER NOT NULL, auto_delete INTEGER NOT NULL, arguments TEXT NOT NULL,
    owner INTEGER,                  -- the connection that has declared an exclusive queue
    expiring INTEGER NOT NULL,      -- whether any message in it may have a time to live
    depth INTEGER NOT NULL,         -- the number of the queue's rows in the table ready
    used_ms INTEGER NOT NULL        -- the time of the last use; x-expires counts from it
);
CREATE TABLE bindings (
    id INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT NOT NULL, kind TEXT NOT NULL,
    destination TEXT NOT NULL, routing_key TEXT NOT NULL, arguments TEXT NOT NULL,
    bucketed INTEGER NOT NULL,      -- whether the binding gives its queue buckets on a ring
    UNIQUE (source, kind, destination, routing_key, arguments)
);
CREATE INDEX bindings_destination ON bindings (kind, destination);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY, exchange TEXT NOT NULL, routing_key TEXT NOT NULL,
    properties TEXT NOT NULL, body BLOB NOT NULL
);
CREATE TABLE ready (
    queue INTEGER NOT NULL,
    message INTEGER NOT NULL,       -- ascending in the order of delivery, see Queue.row_id
    returns INTEGER NOT NULL,       -- how often the message was returned unsettled
    expires_ms INTEGER, PRIMARY KEY (queue, message)
) WITHOUT ROWID;
CREATE TABLE unacked (
    owner INTEGER NOT NULL, message INTEGER NOT NULL, queue INTEGER NOT NULL,
    returns INTEGER NOT NULL, expires_ms INTEGER, PRIMARY KEY (owner, message)
) WITHOUT ROWID;
CREATE TABLE owners (
    id INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, namespace TEXT NOT NULL
);
CREATE TABLE consumers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, owner INTEGER NOT NULL,
    tag TEXT NOT NULL, exclusive INTEGER NOT NULL
);
CREATE INDEX consumers_queue ON consumers (queue);
"""
BUILT_IN_EXCHANGES = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.headers": "headers",
    "amq.match": "headers",
    "amq.topic": "topic",
}


def live_folder(path: Path) -> Path:
    """Return the folder for the locks and sockets of the connections to a broker file.

    It is beside the file, and has the name of the file with ".live" at its end.

    Args:
        path: the broker file.
    """
    return path.with_name(f"{path.name}.live")


def open_database(path: Path, *, busy_timeout_seconds: float) -> sqlite3.Connection:
    """Return a connection of SQLite to the broker file.

    The file (0600), its folders (0700) and its tables are created if they are missing.

    Args:
        path: the broker file.
        busy_timeout_seconds: how long to wait while another process has locked the file.

    Raises:
        sqlite3.DatabaseError: the file cannot be opened, is not a broker file, or is of another
            version of feedbus.
        NotPrivate: the file or one of its folders belongs to another user, or is a link.
        OSError: a folder cannot be created.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(str(number) for number in OLDEST_SQLITE)
        msg = f"expected SQLite {needed} or newer, got {sqlite3.sqlite_version}"
        raise sqlite3.DatabaseError(msg)
    make_database_file(path)
    private_folder(live_folder(path))
    database = sqlite3.connect(
        path,
        timeout=busy_timeout_seconds,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
        if _version(database) != SCHEMA_VERSION:
            with _alone(path):
                _create(database, path)
        _add_built_in_exchanges(database)
    except BaseException:
        database.close()
        raise
    return database


def _version(database: sqlite3.Connection) -> int:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return int(version)


def _create(database: sqlite3.Connection, path: Path) -> None:
    version = _version(database)
    if version == SCHEMA_VERSION:  # another process was faster
        return
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version or tables:
        msg = (
            f"{path} is not a broker file that this version of feedbus can read: expected version"
            f" {SCHEMA_VERSION} of its tables, got {version}; use the version of feedbus that wrote"
            " it, or another file"
        )
        raise sqlite3.DatabaseError(msg)
    database.execute("PRAGMA journal_mode = WAL")
    create_tables(database)


def create_tables(database: sqlite3.Connection) -> None:
    """Create the tables of a broker in an empty database."""
    database.executescript(
        f"BEGIN IMMEDIATE;\n{TABLES}\nPRAGMA user_version = {SCHEMA_VERSION};\nCOMMIT;"
    )
    _add_built_in_exchanges(database)


def _add_built_in_exchanges(database: sqlite3.Connection) -> None:
    """Add the built-in exchanges that the file does not have.

    A new file has none of them. A file of an older version may have only some.
    """
    names = database.execute("SELECT name FROM exchanges WHERE name LIKE 'amq.%'").fetchall()
    missing = BUILT_IN_EXCHANGES.keys() - {name for (name,) in names}
    if not missing:
        return
    with database:
        database.execute("BEGIN IMMEDIATE")
        database.executemany(
            "INSERT OR IGNORE INTO exchanges VALUES (?, ?, 1, 0, '{}')",
            [(name, BUILT_IN_EXCHANGES[name]) for name in sorted(missing)],
        )
        database.execute("UPDATE state SET topology = topology + 1")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    # If two connections switch to WAL together, SQLite ignores the timeout and returns "locked".
    handle = open_private(live_folder(path) / "creation", os.O_RDWR | os.O_CREAT)
    try:
        file_locks.lock(handle)
        yield
    finally:
        os.close(handle)
