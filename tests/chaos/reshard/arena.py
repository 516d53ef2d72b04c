"""A small sharded system under load: real consumers that are killed, a switch that is killed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from feedbus import broker, config
from feedbus.broker_names import Names
from feedbus.generations import ledger
from feedbus.generations.ledger import State
from feedbus.generations.switch import EXIT_AT, EXIT_CODE
from feedbus.process.slot_status import ready_since
from feedbus.process.slots import slot_path
from feedbus.topology import Topology

ROOT = Path(__file__).parents[3]
KEYS = 2_000
FOREIGN_KEYS = 200  # the last of them, published as plain JSON by a client of its own
STEPS = ("declared", "written", "disconnected", "connected", "appended", "fenced", "settled")
RESTART_SECONDS = 0.3
SPARED_SECONDS = 2.0

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
class Seen:
    """One effect: what was handled, by whom, in the database's order."""

    sequence: int
    key: str
    number: int
    shard: str
    generation: str


@dataclass
class Arena:
    """A project in a folder, its consumers and its publishers; everything ends with it."""

    folder: Path
    url: str
    management_url: str = ""
    kind: str = "classic"
    name: str = "arena"
    seed: int = 0
    pause_seconds: tuple[float, float] = (0.3, 1.0)  # between two kills of consumers
    wanted: set[str] = field(default_factory=set)
    kills: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._consumers: dict[str, subprocess.Popen[bytes]] = {}
        self._publishers: list[tuple[subprocess.Popen[bytes], Path]] = []
        self._ended: dict[str, float] = {}
        self._over = threading.Event()
        self._killing = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep)
        (self.folder / "var").mkdir()
        (self.folder / "logs").mkdir()
        (self.folder / "arena_handlers.py").write_text(HANDLERS)
        with closing(self._store()) as store:
            store.execute("PRAGMA journal_mode = WAL")
            store.execute(
                "CREATE TABLE seen (sequence INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT,"
                " number INTEGER, shard TEXT, generation TEXT, UNIQUE (key, number))"
            )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for process in [*self._consumers.values(), *(each for each, _ in self._publishers)]:
            process.kill()
            process.wait()

    @property
    def path(self) -> Path:
        """The topology file."""
        return self.folder / "topology.toml"

    @property
    def topology(self) -> Topology:
        """What the file says now."""
        return config.load(self.path)

    def edit(self, shards: int, weights: str = "{}") -> None:
        """Write the file anew."""
        text = TOPOLOGY.format(
            name=self.name,
            url=self.url,
            management=f'management = "{self.management_url}"' if self.management_url else "",
            shards=shards,
            weights=weights,
            kind=self.kind,
        )
        beside = self.folder / "topology.new"
        beside.write_text(text)
        beside.replace(self.path)

    def switch(self, kills: Sequence[str] = ()) -> None:
        """Make the file's ring the current one, by a process that is killed at these steps first.

        Then run the consumers that the file names.
        """
        for step in kills:
            code = self._switch(step)
            reported = f"apply was to end at {step!r}, but ended with {code}"
            assert code == EXIT_CODE, reported + self.logs()
        assert self._switch("") == 0, self.logs()
        with self._lock:
            self.wanted = set(self.topology.consumers)

    def _switch(self, step: str) -> int:
        with self._log("apply") as log:
            return subprocess.run(
                self._feedbus("apply", "--yes", "--no-wait"),
                cwd=ROOT,
                env={**os.environ, EXIT_AT: step},
                stdout=log,
                stderr=log,
                check=False,
                timeout=600,
            ).returncode

    def _feedbus(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "feedbus", "--topology", str(self.path), *words]

    def publish(self, records: int, rate: int) -> None:
        """Start publishers: they go on until there are so many records and stop() was called."""
        third = (KEYS - FOREIGN_KEYS) // 2
        spans = [
            ("bus", 0, third),
            ("bus", third, KEYS - FOREIGN_KEYS),
            ("foreign", KEYS - FOREIGN_KEYS, KEYS),
        ]
        for kind, first, last in spans:
            reported = self.folder / f"published.{first}"
            words = [
                kind,
                self.path,
                first,
                last,
                records // KEYS,
                rate / KEYS,
                reported,
                self._stop,
            ]
            with self._log(f"publisher.{first}") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.chaos.reshard.publishing", *map(str, words)],
                    cwd=ROOT,
                    stderr=log,
                )
            self._publishers.append((process, reported))

    @property
    def _stop(self) -> Path:
        return self.folder / "stop"

    def stop(self) -> None:
        """Let the publishers end with the round that they are in."""
        self._stop.touch()
        for process, _ in self._publishers:
            assert process.wait(600) == 0, self.logs()

    def rounds(self) -> dict[int, int]:
        """Return how many numbers the keys have, by the first key of each publisher."""
        return {
            int(reported.suffix[1:]): int(reported.read_text() or 0) if reported.exists() else 0
            for _, reported in self._publishers
        }

    def await_round(self, number: int) -> None:
        """Wait until every publisher has come so far."""
        while min(self.rounds().values()) < number:
            for process, _ in self._publishers:
                assert process.poll() is None, self.logs()
            time.sleep(0.05)

    def kill_consumers(self, on: bool) -> None:
        """Begin to kill consumers at random, or end it."""
        (self._killing.set if on else self._killing.clear)()

    def _keep(self) -> None:
        due = 0.0
        while not self._over.wait(0.1):
            with self._lock:
                wanted = set(self.wanted)
            now = time.monotonic()
            for name in sorted(wanted | set(self._consumers)):
                self._keep_one(name, wanted=name in wanted, now=now)
            if self._killing.is_set() and now > due and (ripe := self._ripe()):
                due = now + self._random.uniform(*self.pause_seconds)
                self._consumers[self._random.choice(ripe)].send_signal(signal.SIGKILL)
                self.kills += 1

    def _ripe(self) -> list[str]:
        """Return the consumers that may be killed: those that have been at work for a while.

        One that dies five times with the same message alone gives that message up, as it should.
        """
        folder, ripe = self.folder / "var" / "run", []
        for name, process in sorted(self._consumers.items()):
            since = ready_since(slot_path(folder, name, 1, "ready"), process.pid)
            if since is not None and time.time() - since > SPARED_SECONDS:
                ripe.append(name)
        return ripe

    def _keep_one(self, name: str, *, wanted: bool, now: float) -> None:
        process = self._consumers.get(name)
        if process is not None and process.poll() is not None:
            del self._consumers[name]
            self._ended[name] = now
            process = None
        if process is None and wanted and now - self._ended.get(name, 0.0) > RESTART_SECONDS:
            with self._log(name) as log:
                self._consumers[name] = subprocess.Popen(
                    self._feedbus("run", name),
                    cwd=ROOT,
                    stderr=log,
                )

    def _log(self, name: str) -> IO[bytes]:
        return (self.folder / "logs" / name).open("ab")

    def logs(self) -> str:
        """Return the last lines of every log."""
        reported = ["", f"state: {self.state()}", f"queues: {self.queues()}"]
        for path in sorted((self.folder / "logs").iterdir()):
            reported += [f"--- {path.name}", *path.read_text(errors="replace").splitlines()[-15:]]
        return "\n".join(reported)

    def _store(self) -> sqlite3.Connection:
        return sqlite3.connect(self.folder / "var" / "store.db", timeout=60)

    def count(self) -> int:
        """Return how many records have had their effect."""
        with closing(self._store()) as store:
            return int(store.execute("SELECT count(*) FROM seen").fetchone()[0])

    def count_of(self, number: int) -> int:
        """Return how many keys have had this number's effect."""
        with closing(self._store()) as store:
            count = store.execute("SELECT count(*) FROM seen WHERE number = ?", (number,))
            return int(count.fetchone()[0])

    def seen(self) -> list[Seen]:
        """Return every effect in the database's order."""
        with closing(self._store()) as store:
            rows = store.execute(
                "SELECT sequence, key, number, shard, generation FROM seen ORDER BY sequence"
            ).fetchall()
        return [Seen(*row) for row in rows]

    def state(self) -> State:
        """Return the state of the ring."""
        with broker.connect(self.topology) as connection:
            return ledger.states(connection, self.topology)["ring"]

    def queues(self) -> dict[str, int]:
        """Return the queues of rings that pass and how many messages are ready in each."""
        topology = self.topology
        names, found = Names(topology), {}
        with broker.connect(topology) as connection:
            for old in self.state().draining:
                for member, _ in old.members:
                    queue = names.member(old, member)
                    if broker.queue_exists(connection, queue):
                        reported = connection.default_channel.queue_declare(queue, passive=True)
                        found[queue] = reported.message_count
        return found

    def left_behind(self) -> dict[str, int]:
        """Return how many messages are held, dead, or in the current shards' queues."""
        topology = self.topology
        names, state = Names(topology), self.state()
        queues = {
            "held": names.held("ring"),
            "dead letters": names.dead(topology.queues["shard"]),
        } | {member: names.member(state.current, member) for member, _ in state.current.members}
        with broker.connect(topology) as connection:
            channel = connection.default_channel
            return {
                reported: int(channel.queue_declare(queue, passive=True).message_count)
                for reported, queue in queues.items()
            }
