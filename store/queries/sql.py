"""SQL for both databases: one statement, with the words in which they differ filled in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from feedbus.outbox import database, on_postgres, transaction

# Parameters made by numbers(): $NUMBERS are rows with a column "value"; x $AMONG is a condition.
# ANY reads the index; with IN and a subquery PostgreSQL may read the whole table to hash it.
POSTGRES = {
    "$NUMBERS": "unnest(CAST(? AS bigint[])) AS given (value)",
    "$AMONG": "= ANY (CAST(? AS bigint[]))",
    "?": "%s",
}
SQLITE = {
    "$NUMBERS": "json_each(?) AS given",
    "$AMONG": "IN (SELECT value FROM json_each(?))",
}


@cache
def _words(sql: str, postgres: bool) -> str:  # noqa: FBT001 -- a key of the cache
    for word, meaning in (POSTGRES if postgres else SQLITE).items():
        sql = sql.replace(word, meaning)
    return sql


def run(sql: str, *values: Any) -> Any:
    """Execute a statement whose parameters are question marks; returns the cursor."""
    return database.execute_sql(_words(sql, on_postgres()), values)


def run_each(sql: str, parameters: Sequence[Sequence[Any]]) -> int:
    """Execute a statement on SQLite once for each of parameters; returns how many rows it wrote."""
    with transaction():
        return int(database.connection().executemany(sql, parameters).rowcount)


def rows(sql: str, *values: Any) -> Sequence[tuple[Any, ...]]:
    """Return all rows that a statement yields."""
    found: Sequence[tuple[Any, ...]] = run(sql, *values).fetchall()
    return found


def first(sql: str, *values: Any) -> tuple[Any, ...] | None:
    """Return the first row that a statement yields, or None."""
    found: tuple[Any, ...] | None = run(sql, *values).fetchone()
    return found


def numbers(values: Iterable[int]) -> str:
    """Return integers as one parameter, of $NUMBERS or $AMONG: read faster than many."""
    text = ",".join(map(str, values))
    return f"{{{text}}}" if on_postgres() else f"[{text}]"
