"""An independent reader: it reads the effects from the store by a separate connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

STAGES = ("update", "notice")


@dataclass(frozen=True, slots=True)
class Effect:
    """A row of the store; attempt is None if the application does not know it."""

    key: str
    number: int
    attempt: int | None


@contextmanager
def _connected(url: str) -> Iterator[Any]:
    if url.startswith("sqlite:"):
        connection: Any = sqlite3.connect(url.removeprefix("sqlite://"), timeout=60)
    else:
        connection = psycopg.connect(url, connect_timeout=10)
    try:
        yield connection
    finally:
        connection.close()


def effects(url: str, stage: str) -> list[Effect]:
    """Return every effect of a stage in the order of the database's sequence."""
    with _connected(url) as connection:
        rows = connection.execute(
            f"SELECT key, number, attempt FROM effects WHERE stage = '{stage}' ORDER BY sequence"
        )
        return [Effect(*row) for row in rows]


def counts(url: str) -> dict[str, int]:
    """Return how many effects each stage has."""
    with _connected(url) as connection:
        rows = connection.execute("SELECT stage, count(*) FROM effects GROUP BY stage")
        return dict.fromkeys(STAGES, 0) | dict(rows.fetchall())


def latest(url: str, stage: str) -> dict[str, int]:
    """Return the highest number of each key in a stage."""
    with _connected(url) as connection:
        rows = connection.execute(
            f"SELECT key, max(number) FROM effects WHERE stage = '{stage}' GROUP BY key"
        )
        return dict(rows.fetchall())


def outbox_publishing(url: str) -> int:
    """Return how many messages are committed and not published."""
    with _connected(url) as connection:
        return int(connection.execute("SELECT count(*) FROM feedbus_outbox").fetchone()[0])
