"""The application of this folder under `feedbus up`, its publishers, and its end."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from feedbus import broker, config
from feedbus.dead_letters import letters
from feedbus.generations.queue_depths import depths_of
from feedbus.topology import Topology
from servers.ports import free_port
from tests.chaos.faults import reader
from tests.chaos.faults.columns import Servers
from tests.projects import ROOT, environment_without_options
from tests.simulation.history import Record
from web.demo.running import Running

APPLICATION = Path(__file__).parent / "application"
KINDS = ("identified", "web")
MOST_KEYS = 2_000
LEAST_ROUNDS = 50
ROUND_SECONDS = 1.0  # at most; a recovery is seen by the records of a later round
CHECK_SECONDS = 0.1
STALLED_SECONDS = 240.0
MOST_STARTS = 100_000


class Injector(Protocol):
    """Injects faults into a loaded system, and counts them by name."""

    done: Counter[str]

    def strike(self, system: LoadedSystem, progress: float) -> None:
        """Inject a fault if one is due; progress is the published part of the load."""

    def omitted(self) -> list[str]:
        """Return the faults that the load was too short for."""


class Supervision(Protocol):
    """Keeps the processes of a system running."""

    def keep_up(self) -> None:
        """Start ended processes again."""


@dataclass(slots=True)
class Publisher:
    """A publisher's process, and how many rounds of its keys were accepted."""

    words: list[str]
    first: int
    last: int
    reported: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def rounds(self) -> int:
        """The number of records that each of its keys has."""
        try:
            return int(self.reported.read_text())
        except FileNotFoundError:
            return 0

    def accepted(self) -> Iterator[Record]:
        """Yield every record that was accepted."""
        for key in range(self.first, self.last):
            for number in range(self.rounds):
                yield Record(f"key-{key}", number)


@dataclass(slots=True)
class LoadedSystem:
    """A system at work; use `loaded` to start and end it.

    Attributes:
        servers: the servers of its column.
        topology: the topology of the application.
        environment: the environment of its processes and publishers.
        running: the process of `feedbus up`.
        kinds: the kinds of the publishers; each publishes an equal part of the keys.
        publishers: the publishers of the load.
        expected_dead: how many messages must become dead letters.
        uncertain: records that were published beside the load, and may have an effect or none.

    """

    servers: Servers
    topology: Topology
    environment: dict[str, str]
    running: Supervision
    kinds: tuple[str, ...] = KINDS
    publishers: list[Publisher] = field(default_factory=list)
    expected_dead: int = 0
    uncertain: list[Record] = field(default_factory=list)

    @property
    def store_url(self) -> str:
        """The URL of the store for an independent reader, not through any proxy."""
        return self.servers.store_url

    @property
    def process_names(self) -> set[str]:
        """The names of all processes but the supervisor's helpers."""
        return {*self.topology.consumers, *self.topology.processes, "operations", "supervisor"}

    def publish(self, records: int, rate: int) -> int:
        """Start the publishers; return how many records they publish.

        Args:
            records: the approximate number of records.
            rate: the records per second of all publishers.

        """
        folder = self.servers.folder
        (folder / "stop").touch()
        keys = max(2, min(MOST_KEYS, records // LEAST_ROUNDS, int(rate * ROUND_SECONDS)))
        rounds = math.ceil(records / keys)
        for place, kind in enumerate(self.kinds):
            first, last = (keys * (place + each) // len(self.kinds) for each in (0, 1))
            reported = folder / f"published.{kind}"
            words = [kind, self.topology.path, first, last, rounds, rate / keys, reported]
            publisher = Publisher([*map(str, words), str(folder / "stop")], first, last, reported)
            self.publishers.append(publisher)
            self.start(publisher)
        return keys * rounds

    def start(self, publisher: Publisher) -> None:
        """Start a publisher; a killed publisher continues at its last round."""
        with (self.servers.folder / "publishers.log").open("ab") as log:
            publisher.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.reshard.publishing", *publisher.words],
                cwd=ROOT,
                env={**self.environment, "PYTHONPATH": str(ROOT)},
                stderr=log,
            )

    def end_publishers(self) -> None:
        """Kill the publishers that still run."""
        for each in self.publishers:
            if each.process is not None:
                each.process.kill()
                each.process.wait()

    def run(self, records: int, injector: Injector) -> list[str]:
        """Inject faults until everything is published, then wait until it is handled.

        Returns the objects that should not be left.
        """
        while any(each.process and each.process.poll() is None for each in self.publishers):
            rounds = sum(each.rounds * (each.last - each.first) for each in self.publishers)
            injector.strike(self, rounds / records)
            self.running.keep_up()
            time.sleep(CHECK_SECONDS)
        ended = [each.process.returncode for each in self.publishers if each.process]
        assert not any(ended), (self.servers.folder / "publishers.log").read_text()[-3000:]
        return self.settle(records)

    def settle(self, records: int) -> list[str]:
        """Wait until every record has had its effects and nothing is left; return the rest."""
        latest, moved = {}, time.monotonic()
        while time.monotonic() - moved < STALLED_SECONDS:
            self.running.keep_up()
            counts = reader.counts(self.store_url)
            if min(counts.values()) >= records and not (left := self.left_behind()):
                return left
            if counts != latest:
                latest, moved = counts, time.monotonic()
            time.sleep(5 * CHECK_SECONDS)
        return [f"no effect for {STALLED_SECONDS:.0f} s: {latest}", *self.left_behind()]

    def left_behind(self) -> list[str]:
        """Return what still waits in queues and in the outbox, and dead letters not expected."""
        with broker.connect(self.topology) as connection:
            found = depths_of(connection, self.topology)
        left = [
            f"{name}: {depths}"
            for name, depths in found.items()
            if depths.ready or depths.retrying or depths.waiting
        ]
        dead = sum(
            next(depths.dead for name, depths in found.items() if name.startswith(queue))
            for queue in self.topology.queues
        )
        if dead != self.expected_dead:
            left.append(f"{dead} dead letters instead of {self.expected_dead}")
        rows = reader.outbox_publishing(self.store_url)
        return left + ([f"{rows} rows in the outbox"] if rows else [])

    def dead_letters(self) -> list[letters.DeadLetter]:
        """Return the dead letters of every queue."""
        with letters.open_channel(self.topology) as channel:
            return [
                letter
                for queue in self.topology.queues.values()
                for _, letter in letters.letters(channel, self.topology, queue)
            ]

    def accepted(self) -> list[Record]:
        """Return every record that was accepted."""
        return [record for each in self.publishers for record in each.accepted()]


@contextmanager
def loaded(
    servers: Servers, *, broker_url: str = "", store_url: str = "", **variables: str
) -> Iterator[LoadedSystem]:
    """Start the application on servers, and end it with its publishers.

    Args:
        servers: the servers that the independent reader uses.
        broker_url: the URL that is used instead of the broker's, for example of a proxy.
        store_url: the same for the store.
        variables: more environment variables of the system and of its publishers.

    """
    folder = servers.folder
    environment = environment_without_options() | {
        "FEEDBUS_BROKER_URL": broker_url or servers.broker_url,
        "FEEDBUS_DATABASE_URL": store_url or servers.store_url,
        "FEEDBUS_VAR": str(folder / "var"),
        "FEEDBUS_OPERATIONS_PORT": "0",
        "CHAOS_QUEUE_TYPE": servers.column.queue_type,
        "CHAOS_WEB_PORT": str(free_port()),
        **variables,
    }
    topology = config.load(APPLICATION / "topology.toml", environ=environment)
    running = Running(topology, environment, folder / "up.log", most_starts=MOST_STARTS)
    with running:
        running.wait_until_ready()
        system = LoadedSystem(servers, topology, environment, running)
        try:
            yield system
        finally:
            system.end_publishers()
