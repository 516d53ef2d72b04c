"""Add tables with the ids of users and tweets that were deleted.

A message about a deleted user or tweet may arrive later. Without these tables, its id would look
like a wrong id.
"""

from __future__ import annotations

import peewee
from playhouse.migrate import SchemaMigrator

from feedbus.store.peewee import on_postgres

TABLES = {"users": "deleted_user", "tweet": "deleted_tweet"}
POSTGRES = (
    "CREATE TABLE {deleted} (id bigint PRIMARY KEY)",
    """
    CREATE FUNCTION {deleted}_note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO {deleted} SELECT id FROM gone ON CONFLICT DO NOTHING;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER {deleted} AFTER DELETE ON {table} REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION {deleted}_note()
    """,
)
POSTGRES_BACK = (
    "DROP TRIGGER {deleted} ON {table}",
    "DROP FUNCTION {deleted}_note()",
    "DROP TABLE {deleted}",
)
SQLITE = (
    "CREATE TABLE {deleted} (id integer NOT NULL PRIMARY KEY)",
    """
    CREATE TRIGGER {deleted}_note AFTER DELETE ON {table}
    BEGIN INSERT OR IGNORE INTO {deleted} VALUES (OLD.id); END
    """,
)
SQLITE_BACK = ("DROP TRIGGER {deleted}_note", "DROP TABLE {deleted}")


def up(migrator: SchemaMigrator, db: peewee.Database) -> None:  # noqa: ARG001 -- the runner's call
    """Create the tables of deleted users and tweets, and the triggers that add rows to them.

    The runner of migrations calls the function.

    Args:
        migrator: not used.
        db: the database.

    """
    _run(db, POSTGRES if on_postgres() else SQLITE)


def down(migrator: SchemaMigrator, db: peewee.Database) -> None:  # noqa: ARG001 -- the runner's call
    """Drop the tables of deleted users and tweets, and the triggers that add rows to them.

    The runner of migrations calls the function to revert the migration.

    Args:
        migrator: not used.
        db: the database.

    """
    _run(db, POSTGRES_BACK if on_postgres() else SQLITE_BACK)


def _run(db: peewee.Database, statements: tuple[str, ...]) -> None:
    for table, deleted in TABLES.items():
        for statement in statements:
            db.execute_sql(statement.format(table=table, deleted=deleted))
