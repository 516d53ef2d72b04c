"""The application under load: each numbered record has one effect, and causes one notice.

An effect is a row without a unique key: a second effect of a record is a second row.
"""

from __future__ import annotations

import os
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import peewee

from feedbus import Records, handler
from feedbus.store.peewee import PeeweeStore, bind, database
from feedbus.topology import Topology

ROWS = 500


@dataclass
class Numbered:
    """The number of a key; poison names what its handler does instead of writing its effect."""

    key: str
    number: int
    poison: str = ""


class Effect(peewee.Model):
    """The effect of a record, in the order of the database's sequence."""

    sequence = peewee.BigAutoField()
    stage = peewee.TextField()
    key = peewee.TextField()
    number = peewee.BigIntegerField()
    attempt = peewee.IntegerField()

    class Meta:
        """The name of the table."""

        database = database
        table_name = "effects"


class Request(peewee.Model):
    """A request to the web process that was answered; a repetition of it publishes nothing."""

    name = peewee.TextField(primary_key=True)

    class Meta:
        """The name of the table."""

        database = database
        table_name = "requests"


def prepare(topology: Topology) -> None:
    """Create the tables."""
    store = bind(PeeweeStore(topology.store_url))
    store.ready()
    database.create_tables([Effect, Request])
    store.close()


def failures(key: str, number: int) -> int:
    """Return how often a record fails: one in 400 does, once or twice."""
    chance = zlib.crc32(f"{key} {number}".encode()) % 1200
    return 2 if chance < 1 else 1 if chance < 3 else 0


@handler(batch=True)
def update(records: Records[Numbered]) -> None:
    """Write the effects of records, and publish a notice for each; some fail at first."""
    singles = list(records.singles()) if any(map(fails, records)) else []
    for single in singles:
        row = single.first
        if row.poison:
            POISONS[row.poison]()
        if single.messages[0].attempt <= failures(row.key, row.number):
            single.retry("a record that fails at first")
    good = records.remaining()
    write("update", good)
    good.publish("notices", key_column="key", columns={"key": "key", "number": "number"})


@handler(batch=True)
def notice(records: Records[Numbered]) -> None:
    """Write the effects of notices."""
    write("notice", records)


def fails(row: Numbered) -> bool:
    """Whether a record fails at least once."""
    return bool(row.poison or failures(row.key, row.number))


def write(stage: str, records: Records[Numbered]) -> None:
    """Write a row for each record."""
    rows = [
        (stage, row.key, row.number, message.attempt)
        for row, message in zip(records, records.messages, strict=True)
    ]
    place = f"({database.param}, {database.param}, {database.param}, {database.param})"
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        database.execute_sql(
            "INSERT INTO effects (stage, key, number, attempt) VALUES "
            + ", ".join([place] * len(part)),
            [value for row in part for value in row],
        )


def raises() -> None:
    """Fail."""
    msg = "a record whose handler raises"
    raise RuntimeError(msg)


def eats_memory() -> None:
    """Allocate memory without end."""
    kept = []
    while True:
        kept.append(bytearray(50_000_000))


POISONS: dict[str, Callable[[], object]] = {
    "raises": raises,
    "exits": lambda: os._exit(7),
    "hangs": lambda: time.sleep(3600),
    "hangs in C": lambda: re.match(r"(a+)+$", "a" * 40 + "b"),
    "eats memory": eats_memory,
}
