"""SQL for both databases: one statement, in which the words that differ are replaced."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from io import BytesIO
from typing import Any

from feedbus.store.peewee import database, on_postgres, transaction

# Where a parameter made by numbers() goes: $NUMBERS are rows with a column "value", and
# $ROWS(table) the table's rows that have these ids. $LIST(column) is what listed() reads.
TABLE = re.compile(r"\$ROWS\((\w+)\)")
POSTGRES_ROWS = r"(SELECT * FROM \1 WHERE id = ANY (CAST(? AS bigint[]))) AS \1"
SQLITE_ROWS = r"$NUMBERS CROSS JOIN \1 ON \1.id = given.value"
COPY_BYTES_AT_ONCE = 1 << 20
WORTH_COPYING = 100  # rows; below, what a savepoint costs is more
COPY_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
COPY_SPECIAL = re.compile(r"[\\\t\n\r]")
POSTGRES_NUMBERS = "unnest(CAST(? AS bigint[])) AS given (value)"
SQLITE_NUMBERS = "json_each(?) AS given"


@cache
def _words(sql: str, postgres: bool) -> str:  # noqa: FBT001 -- a key of the cache
    if postgres:
        found = TABLE.sub(POSTGRES_ROWS, sql).replace("$NUMBERS", POSTGRES_NUMBERS)
        return found.replace("$LIST", "array_agg").replace("?", "%s")
    found = TABLE.sub(SQLITE_ROWS, sql).replace("$NUMBERS", SQLITE_NUMBERS)
    return found.replace("$LIST", "json_group_array")


def run(sql: str, *values: Any) -> Any:
    """Execute a statement on SQLite or PostgreSQL; return the cursor.

    Args:
        sql: the statement, with question marks for parameters. It can contain three placeholders,
            which are replaced by SQL of the database. `$NUMBERS` stands for a table with the column
            given.value: the integers in a parameter that numbers() has made. `$ROWS(table)` stands
            for the rows of a table whose ids are in such a parameter. `$LIST(column)` stands for a
            list of all values of a column, which listed() reads.
        values: the parameters, in the order of the question marks, `$NUMBERS` and `$ROWS`.

    """
    return database.execute_sql(_words(sql, on_postgres()), values)


def run_each(sql: str, parameters: Sequence[Sequence[Any]]) -> None:
    """Execute a statement on SQLite once for each tuple of parameters, in one transaction.

    Args:
        sql: the statement, with question marks for parameters.
        parameters: the tuples.

    """
    with transaction():
        database.connection().executemany(sql, parameters)


def copy(into: str, text: str, otherwise: Callable[[], object]) -> None:
    """Add rows to a table of PostgreSQL that probably has none of these rows.

    A statement with ON CONFLICT checks each row, so it takes longer than COPY. If a row exists, the
    server undoes the whole COPY and logs it as an error; then the rows are added by `otherwise`.

    Args:
        into: the table and its columns, such as "feed (reader_id, tweet_id)".
        text: one line for each row; tabs separate the values. Texts in it were made by escaped().
        otherwise: adds the missing rows; it is called if a row exists or is given twice, or if
            there are few rows.

    """
    from psycopg2.errors import UniqueViolation

    lines = text.count("\n")
    if lines < WORTH_COPYING:
        if lines:
            otherwise()
        return
    try:
        with database.atomic(), database.connection().cursor() as cursor:
            cursor.copy_expert(
                f"COPY {into} FROM STDIN", BytesIO(text.encode()), COPY_BYTES_AT_ONCE
            )
    except UniqueViolation:
        otherwise()


def escaped(texts: Iterable[str]) -> list[str]:
    """Return texts in the form that copy() expects, with escapes for tabs and line ends."""
    given = list(texts)
    if not COPY_SPECIAL.search("".join(given)):
        return given  # as nearly always, and looking is cheap
    return [text.translate(COPY_ESCAPES) for text in given]


def rows(sql: str, *values: Any) -> Sequence[tuple[Any, ...]]:
    """Execute a statement, and return all rows of its result.

    Args:
        sql: the statement, in the notation of run().
        values: the parameters.

    """
    found: Sequence[tuple[Any, ...]] = run(sql, *values).fetchall()
    return found


def first(sql: str, *values: Any) -> tuple[Any, ...] | None:
    """Execute a statement, and return the first row of its result, or None if there is none.

    Args:
        sql: the statement, in the notation of run().
        values: the parameters.

    """
    found: tuple[Any, ...] | None = run(sql, *values).fetchone()
    return found


def numbers(values: Iterable[int | str]) -> str:
    """Return integers as one parameter for a statement with $NUMBERS or $ROWS.

    One parameter is faster than one for each integer.

    Args:
        values: the integers, also as texts.

    """
    text = ",".join(map(str, values))
    return f"{{{text}}}" if on_postgres() else f"[{text}]"


def listed(value: Any) -> list[int]:
    """Return the integers in a column of a result that $LIST has made.

    Args:
        value: the value of the column: a list, or JSON on SQLite.

    """
    found: list[int] = value if on_postgres() else json.loads(value)
    return found
