"""A store in memory: feedbus's own tables, and the effects of handlers beside them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from feedbus.errors import StoreOutage
from feedbus.store.sql import SqlStore
from tests.simulation.clock import SimulatedClock
from tests.simulation.scheduler import Process, Scheduler

EFFECTS = "CREATE TABLE effects (id INTEGER PRIMARY KEY, queue TEXT, key TEXT, n INTEGER)"
PUBLISHED = "CREATE TABLE published (key TEXT, n INTEGER)"


@dataclass(frozen=True, slots=True)
class Done:
    """What a statement gave, read within its transaction."""

    rowcount: int
    rows: Sequence[Any]

    def fetchall(self) -> Sequence[Any]:
        """Return its rows."""
        return self.rows


class Database:
    """The database of all simulated processes; it outlives each of them."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Make an empty one."""
        self.scheduler = scheduler
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute(EFFECTS)
        self.connection.execute(PUBLISHED)
        self.holder: object | None = None
        self.locks: set[str] = set()
        self.away_until = 0
        self.lose_answer = False

    def effects(self) -> list[tuple[str, str, int]]:
        """Return the committed effects in order: queue, key and number."""
        return self.connection.execute("SELECT queue, key, n FROM effects ORDER BY id").fetchall()


class SimulatedStore(SqlStore):
    """One process's access to the database."""

    def __init__(self, database: Database, project: str) -> None:
        """Use the database."""
        self._database = database
        self._scheduler = database.scheduler
        self._within: set[Process | None] = set()
        clock = SimulatedClock(database.scheduler)
        super().__init__(project, "simulated store", "sqlite", None, clock=clock)

    @property
    def in_transaction(self) -> bool:
        """Whether the current thread has begun a transaction."""
        return self._scheduler.current in self._within

    @contextmanager
    def transaction(self) -> Iterator[SimulatedStore]:
        """Commit what the block does, or nothing of it; the answer to the commit may be lost."""
        database, thread = self._database, self._scheduler.current
        if self.in_transaction:
            yield self
            return
        self._scheduler.wait(
            "begins a transaction", until=None, ready=lambda: database.holder is None
        )
        self._check()
        database.holder = self
        self._within.add(thread)
        database.connection.execute("BEGIN")
        try:
            yield self
            self._scheduler.step("commits")
            self._check()
        except BaseException:
            database.connection.execute("ROLLBACK")
            raise
        else:
            database.connection.execute("COMMIT")
        finally:
            database.holder = None
            self._within.discard(thread)
        if database.lose_answer:
            database.lose_answer = False
            msg = "simulated store: went away during the commit"
            raise StoreOutage(msg)
        self._scheduler.step("has committed")

    def _check(self) -> None:
        if self._scheduler.now < self._database.away_until:
            msg = "simulated store: away"
            raise StoreOutage(msg)

    @contextmanager
    def exclusive(self, name: str, *, wait_seconds: float = 0.0) -> Iterator[bool]:
        """Hold a lock of the database."""
        del wait_seconds
        if name in self._database.locks:
            yield False
            return
        self._database.locks.add(name)
        try:
            yield True
        finally:
            self._database.locks.discard(name)

    def execute(self, sql: str, parameters: Mapping[str, Any]) -> Done:
        """Execute a statement in the caller's transaction, or in one of its own."""
        with self.transaction():
            cursor = self._database.connection.execute(sql, dict(parameters))
            return Done(cursor.rowcount, cursor.fetchall())

    def effect(self, queue: str, key: str, number: int) -> None:
        """Note an effect, in the caller's transaction."""
        self._scheduler.note(f"effect {key}{number} of {queue}, not committed")
        row = {"queue": queue, "key": key, "n": number}
        self.execute("INSERT INTO effects (queue, key, n) VALUES (:queue, :key, :n)", row)

    def note_published(self, key: str, number: int) -> None:
        """Note that a record is published, in the caller's transaction."""
        row = {"key": key, "n": number}
        self.execute("INSERT INTO published (key, n) VALUES (:key, :n)", row)

    def next_number(self, key: str) -> int:
        """Return the number of the next record of a key, in the caller's transaction."""
        sql = "SELECT coalesce(max(n), 0) + 1 FROM published WHERE key = :key"
        ((number,),) = self.execute(sql, {"key": key}).fetchall()
        return int(number)

    def published(self) -> set[tuple[str, int]]:
        """Return the key and the number of each record whose transaction was committed."""
        return set(self.execute("SELECT key, n FROM published", {}).fetchall())

    def close(self) -> None:
        """Close nothing: the database outlives this process."""
