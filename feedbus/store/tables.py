"""What the tables of the outbox and the inbox have in common, on SQLite or PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from feedbus.clock import Clock

Dialect = Literal["sqlite", "postgresql"]

ROWS_AT_ONCE = 1_000  # rows in one statement


class Cursor(Protocol):
    """The result of a statement on feedbus's own tables, from any database library."""

    @property
    def rowcount(self) -> int:
        """The number of rows that the statement has changed."""

    def fetchall(self) -> Sequence[Any]:
        """Return the rows of the result."""


class Database(Protocol):
    """The methods of a store that the tables of the outbox and the inbox use.

    Attributes:
        dialect: "sqlite" or "postgresql".
        clock: gives the times of the rows.
    """

    dialect: Dialect
    clock: Clock

    def execute(self, sql: str, parameters: Mapping[str, Any]) -> Cursor:
        """Execute a statement in the caller's transaction, and return its result.

        Args:
            sql: the statement, with parameters of the form :name.
            parameters: maps the names of the parameters to their values.

        """


class Table:
    """The base class of SqlOutbox and SqlInbox: statements for the rows of one project."""

    def __init__(self, database: Database, project: str) -> None:
        """Create the object.

        Args:
            database: the database that has the table.
            project: the name of the project; other projects can have rows in the same table.
        """
        self._project = project
        self._execute = database.execute
        self._clock = database.clock
        self._sqlite = database.dialect == "sqlite"

    def _values(self, name: str, kind: str) -> str:
        """Return an SQL table expression for FROM: its column `value` has the values of a list.

        Args:
            name: the name of the SQL parameter whose value is the list.
            kind: the SQL type of the values.
        """
        if self._sqlite:
            return f"json_each(:{name})"
        return f"unnest(CAST(:{name} AS {kind}[])) AS given(value)"

    def _list(self, values: Sequence[Any]) -> Any:
        """Return the value of the SQL parameter that _values() names."""
        return json.dumps(values, ensure_ascii=False) if self._sqlite else list(values)


def now(clock: Clock) -> int:
    """Return the current time as the tables store it: microseconds since 1970, UTC."""
    return clock.wall_nanoseconds() // 1_000
