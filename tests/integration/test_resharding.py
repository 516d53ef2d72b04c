"""A running system whose topology changes: real processes, and messages all the time."""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from feedbus import config
from feedbus.broker import inventory
from feedbus.bus import LiveBus
from feedbus.topology import Topology
from servers import versions
from tests.projects import (
    CLOCK,
    PATIENCE_SECONDS,
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


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path)
    yield system
    system.feedbus("down")


@pytest.fixture(params=["embedded", *versions.chosen()])
def on_each(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    """Make the system on the embedded broker, and on each version of RabbitMQ."""
    system = System(tmp_path)
    if request.param != "embedded":
        node = request.getfixturevalue("rabbitmq_nodes")(request.param)
        system.broker = f'url = "{node.url}"\nmanagement = "{node.management_url}"'
    yield system
    system.feedbus("down")


def test_shards_come_and_go_while_messages_come_and_untouched_watchers_keep_running(
    on_each: System,
) -> None:
    system = on_each
    topology = system.write(3)
    system.feedbus("up", "--detach")
    first = system.pids()
    with system.publishing(topology):
        system.write(5)
        assert "3 shards become 5" in system.feedbus("plan", "--check", code=1)
        reported = system.feedbus("apply")
        assert "\napplied\n" in reported  # progress of a slow machine may follow on stderr
        second = system.pids()
        assert set(second) - set(first) == {"feed_3", "feed_4"}
        system.write(2)
        system.feedbus("apply")
        third = system.pids()
        assert "nothing to change" in system.feedbus("plan", "--check")
    assert {name: second[name] for name in first} == first
    assert third == {name: first[name] for name in third}
    assert set(third) == {"feed_0", "feed_1", "mail", "clock"}
    system.check()


def test_a_queue_is_replaced_another_added_and_one_removed_while_messages_come(
    on_each: System,
) -> None:
    system = on_each
    extra = '[queues.extra]\nexchange = "mail"\nrouting_keys = ["x"]\nhandler = "handle:mail"\n'
    topology = system.write(2, extra)
    system.feedbus("up", "--detach")
    first = system.pids()
    with system.publishing(topology):
        more = extra.replace("extra", "other")
        changed = system.write(2, f"max_length = 100_000\n{more}")
        plan = system.feedbus("plan")
        assert re.search(
            rf"~ queue +{system.name}\.mail +x-max-length: not set -> 100000; replaced by a",
            plan,
        )
        assert re.search(
            rf"- queue +{system.name}\.extra +no longer in the topology; it is empty", plan
        )
        assert re.search(r"\+ consumer +other", plan)
        system.feedbus("apply")
        second = system.pids()
        found = inventory.read_inventory(changed)
    assert found.queues[f"{system.name}.mail"].arguments["x-max-length"] == 100_000
    assert f"{system.name}.extra" not in found.queues
    assert {name for name in first if second.get(name) != first[name]} == {"mail", "extra"}
    assert set(second) == {"feed_0", "feed_1", "mail", "other", "clock"}
    system.check()
    assert "nothing to change" in system.feedbus("plan", "--check")


def test_a_queue_that_is_renamed_with_a_backlog_hands_over_without_a_loss(on_each: System) -> None:
    system = on_each
    extra = '[queues.one]\nexchange = "mail"\nrouting_keys = ["x"]\nhandler = "handle:slow"\n'
    topology = system.write(1, f"{extra}processes = 2\n")
    system.feedbus("up", "--detach")
    with LiveBus(topology) as bus:
        bus.publish_many("mail", [({"key": "x", "n": n}, "x") for n in range(30)])
    renamed = system.write(1, extra.replace("one", "uno"))
    reported = system.feedbus("apply")
    assert f"{system.name}.one was deleted\n" in reported
    assert "\napplied\n" in reported
    assert sorted(system.seen()["x"]) == [*range(30)]
    with LiveBus(renamed) as bus:
        bus.publish("mail", {"key": "x", "n": 30}, "x")
    wait_until(lambda: sorted(system.seen()["x"]) == [*range(31)])
    assert "nothing to change" in system.feedbus("plan", "--check")
    assert "one" not in system.status()


def test_up_and_status_report_a_renamed_queue_that_nobody_reads_and_their_advice_empties_it(
    on_each: System,
) -> None:
    system = on_each
    old = '[queues.one]\nexchange = "mail"\nrouting_keys = ["x"]\nhandler = "handle:late"\n'
    new = old.replace("one", "uno")
    topology = system.write(1, old)
    system.feedbus("apply")
    with LiveBus(topology) as bus:
        bus.publish("mail", {"key": "x", "n": 0}, "x")
    system.write(1, new)
    reported = system.feedbus("up", "--detach")
    assert (
        f"queue {system.name}.one (1 message): no longer in the topology; no consumer" in reported
    )
    note = f"queue {system.name}.one (1 message) is not in the topology, and no consumer reads it:"
    assert note in system.feedbus("status")
    aside = old.replace('"mail"', '"aside"').replace('"x"', '""')
    system.write(1, f'{new}{aside}[exchanges.aside]\ntype = "direct"\n')
    system.feedbus("apply")
    system.write(1, new)
    assert f"{system.name}.one was deleted\n" in system.feedbus("apply")
    assert system.seen()["x"] == [0]
    assert f"{system.name}.one" not in system.feedbus("status")
    assert "nothing to change" in system.feedbus("plan", "--check")


def test_an_apply_that_is_killed_beside_a_running_system_is_ended_by_the_next(
    system: System,
) -> None:
    topology = system.write(2)
    system.feedbus("up", "--detach")
    with system.publishing(topology):
        for number, step in enumerate(("paused", "followed", "drained", "finished"), start=3):
            system.write(number, f"max_length = {number}000_000")
            system.feedbus("apply", "--yes", code=99, FEEDBUS_EXIT_AT=step)
            system.feedbus("apply", "--yes")
            assert "nothing to change" in system.feedbus("plan", "--check")
    assert {name for name in system.pids() if name.startswith("feed")} == {
        f"feed_{shard}" for shard in range(6)
    }
    system.check()


def test_a_topology_that_is_wrong_changes_nothing_not_even_for_processes_that_start_again(
    system: System,
) -> None:
    system.write(2)
    system.feedbus("up", "--detach")
    first = system.pids()
    path = system.root / "topology.toml"
    path.write_text(path.read_text().replace("handle:mail", "handle:male").replace("= 2", "= 5"))
    assert "male" in system.feedbus("apply", code=1)
    os.kill(first["mail"], 9)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        system.write(2)  # only so that status can be asked
        now = system.status()["mail"]
        path.write_text(path.read_text().replace("handle:mail", "handle:male"))
        if now["state"] == "running" and now["processes"][0]["pid"] != first["mail"]:
            break
        assert time.monotonic() < deadline, now
        time.sleep(0.1)
    assert now["restarts"] == 1
    system.write(2)
    assert "nothing to change" in system.feedbus("plan", "--check")


def test_without_a_supervisor_apply_switches_and_says_who_drains(system: System) -> None:
    topology = system.write(2)
    system.feedbus("apply")
    with system.publishing(topology):
        time.sleep(0.2)
    system.write(3)
    reported = system.feedbus("apply")
    switched = (
        "switched; the consumers drain the queues of the old generation when you start them with"
    )
    assert switched in reported
    system.feedbus("up", "--detach")
    system.check()


def test_a_removed_queue_that_nobody_reads_is_refused_and_named_is_gone(system: System) -> None:
    extra = '[queues.extra]\nexchange = "mail"\nrouting_keys = ["x"]\nhandler = "handle:mail"\n'
    system.write(2, extra)
    system.feedbus("apply")
    system.feedbus("publish", "mail", "--key", "x", "--json", '{"key": "x", "n": 1}')
    system.write(3)
    reported = system.feedbus("apply", code=1)
    assert f"{system.name}.extra: messages: 1" in reported
    assert "--delete-nonempty extra" in reported
    assert "2 shards become 3" in system.feedbus("plan")
    system.feedbus("apply", "--delete-nonempty", "extra")
    assert "nothing to change" in system.feedbus("plan", "--check")
    assert f"{system.name}.extra" not in inventory.read_inventory(system.write(3)).queues
