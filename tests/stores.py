"""A store of each kind, for tests that every store must pass."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peewee
import psycopg
import sqlalchemy
from sqlalchemy import text

from feedbus.store import Store
from feedbus.store.peewee import PeeweeStore
from feedbus.store.sqlalchemy import SqlAlchemyStore
from servers.postgres import chosen

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from psycopg_store import PsycopgStore

PLAIN = {"n": 1}
ON_POSTGRES = [
    f"{kind} {version}" for kind in ("peewee", "sqlalchemy", "psycopg") for version in chosen()
]


@dataclass(frozen=True, slots=True)
class Made:
    """A store, how another process would open it, and how a handler writes with its session."""

    store: Store
    again: Callable[[str], Store]
    execute: Callable[[Any, str], Any]
    close: Callable[[Any], None]
    savepoint: Callable[[Any], AbstractContextManager[Any]]

    def effect(self, session: Any, number: int) -> None:
        self.execute(session, f"INSERT INTO effects VALUES ({number})")

    def effects(self) -> list[int]:
        with self.store.transaction() as session:
            found = self.execute(session, "SELECT n FROM effects ORDER BY n")
            return [row[0] for row in found.fetchall()]


def engine(url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))


CLOSERS: dict[str, Callable[[Any], None]] = {
    "peewee": lambda database: database.connection().close(),
    "sqlalchemy": lambda session: session.connection().connection.dbapi_connection.close(),
    "psycopg": lambda connection: connection.close(),
}
SAVEPOINTS: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "peewee": lambda database: database.atomic(),
    "sqlalchemy": lambda session: session.begin_nested(),
    "psycopg": lambda connection: connection.transaction(),
}
# The errors of a statement that a handler may catch.
ERRORS = (peewee.DatabaseError, sqlalchemy.exc.DBAPIError, psycopg.Error)
MAKERS: dict[str, tuple[Callable[[str, str], Store], Callable[[Any, str], Any]]] = {
    "peewee": (PeeweeStore, lambda database, sql: database.execute_sql(sql)),
    "sqlalchemy": (
        lambda url, project: SqlAlchemyStore(engine(url), project),
        lambda session, sql: session.execute(text(sql)),
    ),
    "psycopg": (
        lambda url, project: PsycopgStore(url, project, "there"),
        lambda connection, sql: connection.execute(sql),
    ),
}
