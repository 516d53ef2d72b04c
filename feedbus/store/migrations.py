"""Create feedbus's own tables, or upgrade the tables of an earlier version."""

from __future__ import annotations

from collections.abc import Iterator

from feedbus.errors import UsageError
from feedbus.store.tables import Database

# The version of the tables. Version 1 is of feedbus 0.1: it has no table of versions, and rows of
# only one project. Version 2 has no column `options`. In version 3, SQLite can use the id of a
# removed row again.
VERSION = 4
# The types of ids that are never used again. Without AUTOINCREMENT, a message could be lost on
# SQLite: two processes publish the last row, and one of them removes it. SQLite gives its id to a
# new row. Then the slower process removes the id, and so the new row.
SERIAL = {
    "sqlite": "integer NOT NULL PRIMARY KEY AUTOINCREMENT",
    "postgresql": "bigserial NOT NULL PRIMARY KEY",
}

OUTBOX = """
CREATE TABLE feedbus_outbox (
    id {serial},
    project text NOT NULL{default},
    exchange text NOT NULL,
    routing_key text NOT NULL,
    payload text NOT NULL,
    message_id text NOT NULL,
    created_at bigint NOT NULL,
    options text
)
"""
COLUMNS = "id, project, exchange, routing_key, payload, message_id, created_at, options"
OPTIONS = "ALTER TABLE feedbus_outbox ADD COLUMN options text"
INBOX = """
CREATE TABLE feedbus_inbox (
    project text NOT NULL{default},
    queue text NOT NULL,
    message_id text NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (project, queue, message_id)
)
"""
INBOX_AGE = "CREATE INDEX feedbus_inbox_age ON feedbus_inbox (project, created_at)"
VERSION_TABLE = "CREATE TABLE feedbus_version (version integer NOT NULL)"


def read_version(database: Database) -> int:
    """Return the version of feedbus's existing tables in a database, or 0 if there are none.

    The tables of feedbus 0.1, which have no version, count as version 1.
    """
    tables = _tables(database)
    if "feedbus_version" in tables:
        return int(database.execute("SELECT version FROM feedbus_version", {}).fetchall()[0][0])
    return 1 if "feedbus_outbox" in tables else 0


def is_up_to_date(database: Database, where: str) -> bool:
    """Whether feedbus's tables exist and have the version that this feedbus needs.

    Args:
        database: the database of the tables.
        where: the store's file or URL, for the text of the error.

    Raises:
        UsageError: they are the tables of a newer version.
    """
    version = read_version(database)
    if version > VERSION:
        msg = (
            f"store {where}: its tables have version {version}, this feedbus knows version"
            f" {VERSION}: upgrade feedbus on this host, or use another database"
        )
        raise UsageError(msg)
    return version == VERSION


def upgrade(database: Database, project: str) -> None:
    """Create or upgrade the tables, in the caller's transaction and under the caller's lock.

    Args:
        database: the database of the tables.
        project: the project of the rows that do not name their project: the rows of version 1, and
            the rows that a host with feedbus 0.1 still adds.

    """
    version = read_version(database)
    for statement in _steps(version, project, SERIAL[database.dialect]):
        database.execute(statement, {})
    if version and database.dialect == "sqlite":
        for statement in _never_reuse_ids(_default_project(database)):
            database.execute(statement, {})


def _steps(found_version: int, project: str, serial: str) -> Iterator[str]:
    """Yield the statements that upgrade tables of an earlier version, or create the tables.

    Args:
        found_version: the version of the existing tables, or 0 if there are none.
        project: the project of the rows that do not name their project: the rows of version 1, and
            the rows that a host with feedbus 0.1 still adds.
        serial: the SQL type of the outbox's ids.

    """
    if found_version == 1:
        default = f" DEFAULT '{project}'"
        # The inbox comes first: transactions of running hosts also lock the inbox before the
        # outbox. Another order could cause a deadlock.
        yield "ALTER TABLE feedbus_inbox RENAME TO feedbus_inbox_1"
        yield INBOX.format(default=default)
        yield (
            "INSERT INTO feedbus_inbox (queue, message_id, created_at)"
            " SELECT queue, message_id, created_at FROM feedbus_inbox_1"
        )
        yield "DROP TABLE feedbus_inbox_1"
        yield f"ALTER TABLE feedbus_outbox ADD COLUMN project text NOT NULL{default}"
    elif found_version == 0:
        yield OUTBOX.format(serial=serial, default="")
        yield INBOX.format(default="")
    if found_version in {1, 2}:
        yield OPTIONS
    if found_version in {0, 1}:
        yield INBOX_AGE
        yield VERSION_TABLE
        yield f"INSERT INTO feedbus_version VALUES ({VERSION})"  # noqa: S608 -- a number
    else:
        yield f"UPDATE feedbus_version SET version = {VERSION}"  # noqa: S608 -- a number


def _never_reuse_ids(default: str) -> Iterator[str]:
    """Yield the statements that copy SQLite's outbox to a table that never uses an id again."""
    yield "ALTER TABLE feedbus_outbox RENAME TO feedbus_outbox_3"
    yield OUTBOX.format(serial=SERIAL["sqlite"], default=default)
    yield f"INSERT INTO feedbus_outbox ({COLUMNS}) SELECT {COLUMNS} FROM feedbus_outbox_3"  # noqa: S608 -- constants
    yield "DROP TABLE feedbus_outbox_3"


def _default_project(database: Database) -> str:
    """Return the SQL of the default value of `project`, a column of the outbox; "" if it has none.

    The database is on SQLite. A host with feedbus 0.1 adds rows without a project; these rows get
    the default value.
    """
    question = "SELECT dflt_value FROM pragma_table_info('feedbus_outbox') WHERE name = 'project'"
    ((default,),) = database.execute(question, {}).fetchall()
    return f" DEFAULT {default}" if default else ""


def _tables(database: Database) -> set[str]:
    """Return which of the tables feedbus_version and feedbus_outbox exist.

    On SQLite, the result also contains the names of all other tables.
    """
    if database.dialect == "sqlite":
        question = "SELECT name FROM sqlite_master WHERE type = 'table'"
    else:
        # The query does not use to_regclass(): that function may return a cached result for a
        # missing table.
        question = (
            "SELECT relname FROM pg_catalog.pg_class"
            " WHERE relname IN ('feedbus_version', 'feedbus_outbox') AND pg_table_is_visible(oid)"
        )
    return {row[0] for row in database.execute(question, {}).fetchall()}
