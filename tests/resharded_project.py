"""A project whose topology changes while it runs, and a publisher that does not know about this."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from feedbus import config
from feedbus.bus import LiveBus
from feedbus.topology import Topology
from servers import versions
from tests.projects import (
    CLOCK,
    ROOT,
    environment_without_options,
    meanwhile,
    run_feedbus,
    status,
    wait_until,
)

KEYS = [str(key) for key in range(50)]

TOPOLOGY = """
name = "{name}"
[broker]
{broker}
[store]
url = "sqlite:///var/store.db"
[exchanges]
feed = {{ type = "x-consistent-hash", pack = 20 }}
mail = {{ type = "direct" }}
[queues.feed]
exchange = "feed"
shards = {shards}
handler = "handle:feed"
batch = {{ size = 100, wait = "5ms" }}
[queues.mail]
exchange = "mail"
routing_keys = ["mail"]
handler = "handle:mail"
{more}
[processes.clock]
command = "python clock.py"
"""

HANDLE = """
import os, time
from marshmallow import Schema, fields
from feedbus import handler, resource

class Note(Schema):
    key = fields.Str(required=True)
    n = fields.Int(strict=True, required=True)

log = os.open("seen.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@handler(Note, batch=True)
def feed(records, bus):
    rows = zip(records.column("key"), records.column("n"))
    os.write(log, "".join(f"{key} {n}\\n" for key, n in rows).encode())

@handler(Note)
def mail(message, bus):
    os.write(log, f"{message['key']} {message['n']}\\n".encode())

class Token:
    pass

@resource
def token() -> Token:
    time.sleep(1.0)
    return Token()

@handler(Note)
def late(message, token: Token):
    os.write(log, f"{message['key']} {message['n']}\\n".encode())

@handler(Note)
def slow(message, bus):
    time.sleep(0.2)
    os.write(log, f"{message['key']} {message['n']}\\n".encode())
"""


class System:
    """A project in a folder, its commands, and a publisher that does not know about changes."""

    def __init__(self, root: Path, broker: str = 'url = "sqlite:///var/broker.db"') -> None:
        self.root = root
        self.broker = broker
        self.name = f"small-{uuid.uuid4().hex[:6]}"
        self.environment = environment_without_options() | {"PYTHONPATH": str(ROOT)}
        (root / "handle.py").write_text(HANDLE)
        (root / "clock.py").write_text(CLOCK)
        self.sent: dict[str, int] = defaultdict(int)

    def write(self, shards: int, more: str = "") -> Topology:
        (self.root / "topology.toml").write_text(
            TOPOLOGY.format(name=self.name, broker=self.broker, shards=shards, more=more)
        )
        return config.load(self.root / "topology.toml", environ={})

    def feedbus(self, *words: str, code: int = 0, **environment: str) -> str:
        done = run_feedbus(self.root, self.environment | environment, *words, code=code)
        return done.stdout + done.stderr

    def status(self) -> dict[str, dict]:
        reported = status(self.root / "topology.toml", self.environment)
        return reported["consumers"] | reported["processes"]

    def pids(self) -> dict[str, int]:
        """Return the running processes except operations, which each change of queues restarts."""
        found = self.status()
        found.pop("operations", None)
        return {name: one["processes"][0]["pid"] for name, one in found.items()}

    def seen(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for line in (self.root / "seen.log").read_text().splitlines():
            key, number = line.split()
            found[key].append(int(number))
        return found

    @contextmanager
    def publishing(self, topology: Topology) -> Iterator[None]:
        """Publish numbered records of every key until the block ends."""

        def publish(over: threading.Event) -> None:
            with LiveBus(topology) as bus:
                for number in itertools.count(self.sent["0"]):
                    bus.publish_many("feed", [({"key": key, "n": number}, key) for key in KEYS])
                    bus.publish("mail", {"key": "mail", "n": number}, "mail")
                    for key in (*KEYS, "mail"):
                        self.sent[key] = number + 1
                    if over.wait(0.05):
                        return

        with meanwhile(publish):
            yield

    def wait_for_all(self) -> None:
        """Wait until as many records were handled as were published."""
        wait_until(
            lambda: sum(map(len, self.seen().values())) >= sum(self.sent.values()),
            lambda: self.feedbus("status"),
        )

    def check(self) -> None:
        """Check that every record was handled once, and in the order of its key."""
        self.wait_for_all()
        assert self.seen() == {key: list(range(count)) for key, count in self.sent.items()}


@pytest.fixture(name="system")
def embedded_system(tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path)
    yield system
    system.feedbus("down")


@pytest.fixture(params=["embedded", *versions.chosen()], name="on_each")
def system_on_each_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    """Make the system on the embedded broker, and on each version of RabbitMQ."""
    system = System(tmp_path)
    if request.param != "embedded":
        node = request.getfixturevalue("rabbitmq_nodes")(request.param)
        system.broker = f'url = "{node.url}"\nmanagement = "{node.management_url}"'
    yield system
    system.feedbus("down")
