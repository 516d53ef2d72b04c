"""Create the application's tables; feedbus creates its own."""

from __future__ import annotations

import peewee
from playhouse.migrate import SchemaMigrator

from feedbus.store.peewee import on_postgres

# $ID is a primary key that the database numbers, $CLUSTERED keeps rows in the order of their key,
# $BYTES compares text byte by byte, whatever the database's language is.
POSTGRES = {"ID": "bigserial PRIMARY KEY", "CLUSTERED": "", "BYTES": 'COLLATE "C"'}
SQLITE = {"ID": "integer PRIMARY KEY", "CLUSTERED": "WITHOUT ROWID", "BYTES": ""}

STATEMENTS = (
    """
    CREATE TABLE users (
        id $ID,
        login varchar(64) $BYTES NOT NULL,
        email varchar(128),
        phone varchar(11),
        created_at bigint NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX users_login ON users (login)",
    """
    CREATE TABLE follower (
        author_id bigint NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        follower_id bigint NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        PRIMARY KEY (author_id, follower_id)
    ) $CLUSTERED
    """,
    """
    CREATE TABLE tweet (
        id $ID,
        author_id bigint NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        text varchar(140) NOT NULL,
        created_at bigint NOT NULL,
        request_key text $BYTES
    )
    """,
    "CREATE UNIQUE INDEX tweet_author_id_request_key ON tweet (author_id, request_key)",
    """
    CREATE TABLE feed (
        reader_id bigint NOT NULL,
        tweet_id bigint NOT NULL,
        PRIMARY KEY (reader_id, tweet_id)
    ) $CLUSTERED
    """,
    """
    CREATE TABLE email_notification (
        source text $BYTES NOT NULL,
        user_id bigint NOT NULL,
        address varchar(128) NOT NULL,
        text varchar(512) NOT NULL,
        PRIMARY KEY (source, user_id)
    )
    """,
    """
    CREATE TABLE sms_notification (
        source text $BYTES NOT NULL,
        user_id bigint NOT NULL,
        phone varchar(11) NOT NULL,
        text varchar(60) NOT NULL,
        PRIMARY KEY (source, user_id)
    )
    """,
)
TABLES = ("sms_notification", "email_notification", "feed", "tweet", "follower", "users")


def up(migrator: SchemaMigrator, db: peewee.Database) -> None:  # noqa: ARG001 -- the runner's call
    """Create all tables; the runner of migrations calls the function.

    Args:
        migrator: not used.
        db: the database.

    """
    words = POSTGRES if on_postgres() else SQLITE
    for statement in STATEMENTS:
        for word, meaning in words.items():
            statement = statement.replace(f"${word}", meaning)  # noqa: PLW2901 -- word by word
        db.execute_sql(statement)


def down(migrator: SchemaMigrator, db: peewee.Database) -> None:  # noqa: ARG001 -- the runner's call
    """Drop all tables with their rows; the runner calls it to revert the migration.

    Args:
        migrator: not used.
        db: the database.

    """
    for table in TABLES:
        db.execute_sql(f"DROP TABLE {table}")
