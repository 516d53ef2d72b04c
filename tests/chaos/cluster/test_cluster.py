"""A cluster of three nodes and consumers on two hosts: no killed node or host loses a message.

The hosts are two supervisors with separate folders, each connected to a different node first.
`make cluster` goes round three times and also starts again what it stopped; `make test` once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from feedbus import broker, config
from feedbus.broker_names import Names
from feedbus.bus import LiveBus
from feedbus.generations import topology_setup
from feedbus.generations.queue_depths import depths_of
from feedbus.topology import Topology
from servers.cluster import Cluster
from tests import required_servers

pytestmark = [pytest.mark.chaos, pytest.mark.integration, pytest.mark.timeout(900)]
ROUNDS = int(os.environ.get("FEEDBUS_CLUSTER_ROUNDS", "1"))
PROJECT = Path(__file__).parents[3]
KEYS = [f"key-{number}" for number in range(24)]
PATIENCE_SECONDS = 300.0

TOPOLOGY = """
name = "cluster"
[broker]
url = "{url}"
[store]
url = "sqlite:///var/store.db"
[exchanges]
ring = {{ type = "x-consistent-hash", pack = 4 }}
[defaults.queue]
type = "quorum"
[queues.shard]
exchange = "ring"
shards = 3
handler = "noting:note"
"""

NOTING = """
import os
from marshmallow import Schema, fields
from feedbus import handler

class Numbered(Schema):
    n = fields.Integer(strict=True, required=True)
    key = fields.String(required=True)

@handler(Numbered)
def note(message, bus):
    descriptor = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{{message['key']}} {{message['n']}} {host}\\n".encode())
    os.close(descriptor)
"""


@dataclass(slots=True)
class Host:
    """A supervisor and its consumers, which can all be killed at once."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def at(cls, folder: Path, url: str, log: Path) -> Host:
        folder.mkdir()
        (folder / "topology.toml").write_text(TOPOLOGY.format(url=url))
        (folder / "noting.py").write_text(NOTING.format(log=str(log), host=folder.name))
        return cls(folder)

    @property
    def topology(self) -> Topology:
        return config.load(self.folder / "topology.toml", environ={})

    def start(self) -> None:
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "feedbus", "up"],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(PROJECT)},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def output(self) -> str:
        """Return the output of the supervisor, and check that it runs."""
        text = (self.folder / "output").read_text()
        assert self.process is not None
        assert self.process.poll() is None, text
        return text

    def lose(self) -> None:
        """Kill the supervisor and all its consumers at once."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@dataclass(slots=True)
class Publishing:
    """Publishes numbered rounds over all keys until it is ended."""

    topology: Topology
    confirmed: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    errors: list[Exception] = field(default_factory=list)

    def run(self) -> None:
        try:
            with LiveBus(self.topology, timeout_seconds=PATIENCE_SECONDS) as bus:
                while not self.over.is_set():
                    records = [({"n": self.confirmed, "key": key}, key) for key in KEYS]
                    bus.publish_many("ring", records)
                    self.confirmed += 1
                    self.over.wait(0.05)
        except Exception as error:  # noqa: BLE001 -- reported by the test's own thread
            self.errors.append(error)


@dataclass(frozen=True, slots=True)
class Notes:
    """The records of the handlers."""

    log: Path

    def lines(self) -> list[list[str]]:
        text = self.log.read_text() if self.log.exists() else ""
        return [line.split() for line in text.splitlines()]

    def last(self, host: str) -> int:
        """Return the highest number that a host has handled."""
        return max((int(n) for _, n, name in self.lines() if name == host), default=-1)

    def first_times(self) -> dict[str, list[int]]:
        """Return each key's numbers in the order in which they were first handled."""
        found: dict[str, dict[int, None]] = {key: {} for key in KEYS}
        for key, number, _ in self.lines():
            found[key].setdefault(int(number))
        return {key: list(numbers) for key, numbers in found.items()}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, required_servers.rabbitmq()) as started:
        yield started


def soon(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_shards_move_from_dead_nodes_and_hosts_and_nothing_is_lost(
    cluster: Cluster, tmp_path: Path
) -> None:
    notes = Notes(tmp_path / "noted")
    hosts = [
        Host.at(tmp_path / f"host{number}", cluster.url(number), notes.log) for number in (0, 1)
    ]
    topology = hosts[0].topology
    current = topology_setup.set_up(topology)["ring"].current
    queues = [Names(topology).member(current, name) for name, _ in current.members]
    publishing = Publishing(topology)
    publisher = threading.Thread(target=publishing.run)
    try:
        for host in hosts:
            host.start()
        soon(
            lambda: all("all 4 processes are ready" in host.output() for host in hosts),
            "the hosts are ready",
        )
        publisher.start()
        soon(lambda: len(notes.lines()) > 5 * len(KEYS), "the first messages are handled")
        for number in range(ROUNDS):
            kill_the_node_that_leads(cluster, queues[number % len(queues)], publishing, notes)
            lose_one_host(hosts, number % 2, publishing, notes)
        publishing.over.set()
        publisher.join()
        assert publishing.errors == []
        total = publishing.confirmed
        soon(lambda: all(len(seen) >= total for seen in notes.first_times().values()), "lost")
    finally:
        publishing.over.set()
        for host in hosts:
            host.lose()
    assert notes.first_times() == {key: list(range(total)) for key in KEYS}
    with broker.connect(topology) as connection:
        depths = depths_of(connection, topology)
    assert {name: found.dead for name, found in depths.items()} == dict.fromkeys(depths, 0)


def kill_the_node_that_leads(
    cluster: Cluster, queue: str, publishing: Publishing, notes: Notes
) -> None:
    leading = cluster.leader(queue, cluster.nodes[0])
    assert leading is not None
    leading.kill()
    other = next(node for node in cluster.nodes if node is not leading)
    soon(lambda: cluster.leader(queue, other) not in {None, leading}, "another node leads")
    sent = publishing.confirmed
    soon(lambda: publishing.confirmed > sent + 5, "publishing goes on")
    soon(lambda: any(notes.last(f"host{n}") > sent for n in (0, 1)), "handling goes on")
    if ROUNDS > 1:
        leading.start()


def lose_one_host(hosts: list[Host], lost: int, publishing: Publishing, notes: Notes) -> None:
    hosts[lost].lose()
    sent = publishing.confirmed
    left = hosts[1 - lost].folder.name
    handled_by_left = lambda: {  # noqa: E731 -- read anew each time
        key for key, number, host in notes.lines() if host == left and int(number) > sent
    }
    soon(lambda: handled_by_left() == set(KEYS), f"{left} has every shard")
    if ROUNDS > 1:
        hosts[lost].start()
