"""The order test's project in a folder: its topology, its handler, its database and its logs."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from feedbus import config
from feedbus.topology import Topology

ROOT = Path(__file__).parents[3]

TOPOLOGY = """
name = "{name}"
var = "var"
[broker]
url = "{url}"
{management}
[store]
url = "sqlite:///var/store.db"
[exchanges]
ring = {{ type = "x-consistent-hash", pack = 100 }}
[queues.shard]
exchange = "ring"
shards = {shards}
weights = {weights}
type = "{kind}"
handler = "arena_handlers:note"
batch = {{ size = 500, wait = "5ms" }}
retry = {{ delays = ["50ms", "50ms", "50ms"], then = "dead-letter" }}
waiting_limit = {waiting_limit}
"""

HANDLERS = '''
"""Write what arrives, in the order of the database's own sequence; a repeat has no effect."""
import sys
import zlib

from marshmallow import Schema, fields

from feedbus import handler
from feedbus.store.peewee import database

SHARD = sys.argv[sys.argv.index("run") + 1] if "run" in sys.argv else "?"


class Numbered(Schema):
    key = fields.String(required=True)
    number = fields.Integer(required=True)


def generation():
    """Return the ring of the queue that the runner took these from: evidence for a failure."""
    frame = sys._getframe(1)
    while frame is not None and "deliveries" not in frame.f_locals:
        frame = frame.f_back
    tags = {each.consumer_tag for each in frame.f_locals["deliveries"]} if frame else {"?"}
    return "/".join(sorted(tag.rpartition(".")[2] for tag in tags))


def failures(key, number):
    """Return how often a record fails: one in a hundred does, once or thrice."""
    chance = zlib.crc32(f"{key} {number}".encode()) % 400
    return 3 if chance < 1 else 1 if chance < 4 else 0


@handler(Numbered, batch=True)
def note(records, bus):
    ring = generation()
    rows = list(zip(records.column("key"), records.column("number")))
    failing = {place: failures(*row) for place, row in enumerate(rows) if failures(*row)}
    if failing:
        singles = list(records.singles())
        for place, times in failing.items():
            (message,) = singles[place].messages
            if message.attempt <= times:
                singles[place].retry("a record that fails")
                rows[place] = None
    rows = [row for row in rows if row is not None]
    for start in range(0, len(rows), 200):
        part = rows[start : start + 200]
        values = [each for key, number in part for each in (key, number, SHARD, ring)]
        places = ", ".join(["(?, ?, ?, ?)"] * len(part))
        database.execute_sql(
            "INSERT OR IGNORE INTO seen (key, number, shard, generation) VALUES " + places, values
        )
'''


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with a sharded queue, whose handler notes every effect in a SQLite database."""

    folder: Path
    url: str
    management_url: str = ""
    kind: str = "classic"
    name: str = "arena"
    waiting_limit: int = 10_000

    def write(self) -> None:
        """Write the handler, and create the database and the folders."""
        (self.folder / "var").mkdir()
        (self.folder / "logs").mkdir()
        (self.folder / "arena_handlers.py").write_text(HANDLERS)
        with closing(self.store()) as store:
            store.execute("PRAGMA journal_mode = WAL")
            store.execute(
                "CREATE TABLE seen (sequence INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT,"
                " number INTEGER, shard TEXT, generation TEXT,"
                # Seconds since 1970, to the millisecond.
                " at REAL DEFAULT ((julianday('now') - 2440587.5) * 86400), UNIQUE (key, number))"
            )

    @property
    def path(self) -> Path:
        """The topology file."""
        return self.folder / "topology.toml"

    @property
    def topology(self) -> Topology:
        """The current content of the file."""
        return config.load(self.path)

    def edit(self, shards: int, weights: str = "{}") -> None:
        """Write the file again."""
        text = TOPOLOGY.format(
            name=self.name,
            url=self.url,
            management=f'management = "{self.management_url}"' if self.management_url else "",
            shards=shards,
            weights=weights,
            kind=self.kind,
            waiting_limit=self.waiting_limit,
        )
        beside = self.folder / "topology.new"
        beside.write_text(text)
        beside.replace(self.path)

    def feedbus(self, *words: str) -> list[str]:
        """Return a command line of feedbus with the project's file."""
        return [sys.executable, "-m", "feedbus", "--topology", str(self.path), *words]

    def log(self, name: str) -> IO[bytes]:
        """Open the log of a process, to append to it."""
        return (self.folder / "logs" / name).open("ab")

    def store(self) -> sqlite3.Connection:
        """Open the database with a separate connection."""
        return sqlite3.connect(self.folder / "var" / "store.db", timeout=60)
