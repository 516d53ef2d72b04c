"""Three hosts, each a project folder with its own supervisor, share a queue's shards."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from feedbus import config
from feedbus.broker import inventory
from feedbus.broker_names import Names
from feedbus.bus import LiveBus
from feedbus.hosts import assignment_file
from feedbus.hosts.announcement import Announcement
from feedbus.hosts.announcement_link import AnnouncementLink
from tests.projects import (
    ROOT,
    environment_without_options,
    meanwhile,
    run_feedbus,
    wait_until,
)

LONG = os.environ.get("FEEDBUS_HOSTS") == "long"  # `make hosts`
SHARDS = 12 if LONG else 3
KINDS = ("quorum", "classic") if LONG else ("quorum",)
KEYS = [str(key) for key in range(40)]

TOPOLOGY = """
name = "{name}"
[broker]
url = "{url}"
management = "{management}"
[exchanges]
feed = {{ type = "x-consistent-hash" }}
[queues.feed]
exchange = "feed"
shards = {shards}
type = "{kind}"
handler = "handle:feed"
"""

HANDLE = """
import os, time
from marshmallow import Schema, fields
from feedbus import handler

class Note(Schema):
    key = fields.Str(required=True)
    n = fields.Int(strict=True, required=True)

log = os.open("../seen.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@handler(Note)
def feed(message, bus):
    os.write(log, f"{message['key']} {message['n']} begins\\n".encode())
    time.sleep(0.001)
    os.write(log, f"{message['key']} {message['n']} ends\\n".encode())
"""


class Hosts:
    """Project folders with one broker."""

    def __init__(self, root: Path, url: str, management: str, kind: str) -> None:
        self.root = root
        self.name = f"hosts-{uuid.uuid4().hex[:6]}"
        self.text = TOPOLOGY.format(
            name=self.name, url=url, management=management, shards=SHARDS, kind=kind
        )
        self.environment = environment_without_options() | {"PYTHONPATH": str(ROOT)}
        self.sent: dict[str, int] = defaultdict(int)

    def feedbus(self, host: str, *words: str) -> str:
        return run_feedbus(self.root / host, self.environment, *words).stdout

    def start(self, host: str) -> None:
        folder = self.root / host
        folder.mkdir(exist_ok=True)
        (folder / "handle.py").write_text(HANDLE)
        (folder / "topology.toml").write_text(self.text)
        self.feedbus(host, "up", "--detach")

    def kill(self, host: str) -> None:
        """Kill the supervisor of a host; its processes end by themselves."""
        lock = self.root / host / "var" / "run" / "supervisor.lock"
        os.kill(int(lock.read_text()), signal.SIGKILL)

    def processes(self, host: str) -> list[int]:
        """Return the ids of all processes of a host."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "cwd").readlink() == self.root / host:
                    found.append(int(entry.name))
        return found

    def signal(self, host: str, number: int) -> None:
        """Send a signal to all processes of a host at once."""
        for pid in self.processes(host):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def assignment(self, host: str) -> Mapping[str, str]:
        sharing = assignment_file.read(self.root / host / "var" / "run" / "hosts.json")
        return sharing.assignment if sharing is not None else {}

    def await_sharing(self, *hosts: str) -> float:
        """Wait until these hosts work on all shards, each on as many; return the seconds."""
        began = time.monotonic()
        smallest, larger = divmod(SHARDS, len(hosts))
        wanted = sorted([smallest] * (len(hosts) - larger) + [smallest + 1] * larger)

        def shared() -> bool:
            known = [self.assignment(host) for host in hosts]
            counts = Counter(known[0].values())
            return (
                all(each == known[0] for each in known)
                and sorted(counts.values()) == wanted
                and all(self.reads(host) == counts[self.id(host)] for host in hosts)
            )

        wait_until(shared, lambda: [dict(self.assignment(host)) for host in hosts])
        return time.monotonic() - began

    def id(self, host: str) -> str:
        sharing = assignment_file.read(self.root / host / "var" / "run" / "hosts.json")
        return sharing.host if sharing is not None else ""

    def reads(self, host: str) -> int:
        """Count the consumers of a host that have not logged that they stand by."""
        logs = (self.root / host / "var" / "log").glob("feed_*.log")
        return sum(_reads(path.read_text()) for path in logs)

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Publish numbered records of every key until the block ends."""
        topology = config.load(self.root / "a" / "topology.toml", environ={})

        def publish(over: threading.Event) -> None:
            with LiveBus(topology) as bus:
                for number in itertools.count():
                    bus.publish_many("feed", [({"key": key, "n": number}, key) for key in KEYS])
                    for key in KEYS:
                        self.sent[key] = number + 1
                    if over.wait(0.2):
                        return

        with meanwhile(publish):
            yield

    def seen(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for line in (self.root / "seen.log").read_text().splitlines():
            key, _, rest = line.partition(" ")
            found[key].append(rest)
        return found

    def check(self) -> None:
        """Check that every record was handled once, and the records of each key in order."""
        wait_until(
            lambda: sum(map(len, self.seen().values())) >= 2 * sum(self.sent.values()),
            lambda: self.feedbus("a", "status"),
        )
        assert self.seen() == {
            key: [f"{n} {what}" for n in range(count) for what in ("begins", "ends")]
            for key, count in self.sent.items()
        }


def check_effects(hosts: Hosts) -> None:
    """Check that every record had its effect, in the order of its key except for repetitions."""

    def first_ends() -> dict[str, list[int]]:
        return {
            key: list(dict.fromkeys(int(one.split()[0]) for one in seen if one.endswith("ends")))
            for key, seen in hosts.seen().items()
        }

    wait_until(lambda: sum(map(len, first_ends().values())) >= sum(hosts.sent.values()))
    assert first_ends() == {key: list(range(count)) for key, count in hosts.sent.items()}


def report(what: str, seconds: float) -> None:
    sys.stdout.write(f"{what}: shared after {seconds:.1f} s\n")


def _reads(log: str) -> bool:
    return log.rfind("event=standing_by") <= max(
        log.rfind("event=started"), log.rfind("event=assigned")
    )


@pytest.fixture(params=KINDS)
def hosts(request: pytest.FixtureRequest, rabbitmq, tmp_path: Path) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path, rabbitmq.url, rabbitmq.management_url, request.param)
    yield hosts
    for host in "abc":
        if (tmp_path / host).exists():
            hosts.signal(host, signal.SIGCONT)  # a test that failed may have stopped them
            hosts.feedbus(host, "down")


def test_hosts_that_come_end_and_are_killed_share_the_shards_and_keep_the_order(
    hosts: Hosts,
) -> None:
    hosts.start("a")
    with hosts.publishing():
        for host in "bc":
            hosts.start(host)
            report(f"{host} joins", hosts.await_sharing(*"abc"[: "abc".index(host) + 1]))
        hosts.feedbus("a", "down")
        report("a ends", hosts.await_sharing("b", "c"))
        rest = ["c"]
        if LONG:
            hosts.start("a")
            report("a joins again", hosts.await_sharing("a", "b", "c"))
            rest = ["a", "c"]
        hosts.kill("b")
        report("b is killed", hosts.await_sharing(*rest))
    hosts.check()
    shown = json.loads(hosts.feedbus("c", "status", "--json"))["hosts"]
    working = [one for one in shown if one["works_on"]]
    assert [one["host"] for one in working] == [hosts.id(host) for host in rest]
    assert [one["host"] for one in shown if one["this_host"]] == [hosts.id("c")]
    assert all(one["same_file"] for one in shown)
    assert sum(len(one["works_on"]) for one in working) == SHARDS


def test_a_host_without_power_loses_its_shards_and_no_record_is_lost(hosts: Hosts) -> None:
    for host in "abc":
        hosts.start(host)
    hosts.await_sharing("a", "b", "c")
    with hosts.publishing():
        hosts.signal("c", signal.SIGSTOP)  # its connections stay open, and nothing answers
        report("c stands still", hosts.await_sharing("a", "b"))
        cut_at, sent = time.monotonic(), dict(hosts.sent)
        wait_until(
            lambda: all(f"{count - 1} ends" in hosts.seen()[key] for key, count in sent.items())
        )
        report("records of all shards are handled", time.monotonic() - cut_at)
        hosts.signal("c", signal.SIGKILL)
    check_effects(hosts)


def test_only_hosts_are_heard(rabbitmq, tmp_path: Path) -> None:
    text = TOPOLOGY.format(
        name=f"hosts-{uuid.uuid4().hex[:6]}",
        url=rabbitmq.url,
        management=rabbitmq.management_url,
        shards=2,
        kind="classic",
    )
    (tmp_path / "topology.toml").write_text(text)
    (tmp_path / "handle.py").write_text(HANDLE)
    topology = config.load(tmp_path / "topology.toml", environ={})
    one, other = AnnouncementLink(topology), AnnouncementLink(topology)
    try:
        for queue in ("", other.queue, one.queue, f"{Names(topology).hosts}.guessed"):
            other.announce(Announcement("b", 1.0, {}, None, "", queue).encode())
        other.announce(b"no announcement")
        other.announce(Announcement("c", 1.0, {}, None, "", other.queue).encode())
        heard: list[str] = []
        wait_until(lambda: heard.extend(each.host for each in one.receive(0.1)) or "c" in heard)
        assert heard == ["b", "c"]
        assert inventory.read_inventory(topology).exchanges == {}
    finally:
        one.close()
        other.close()
