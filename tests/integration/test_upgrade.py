"""A system of feedbus 0.1 that this version takes over in place."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from feedbus.process.file_locks import lock_holder
from tests.old_version import unpack
from tests.projects import PATIENCE_SECONDS, wait_until

DELAYS = ", ".join(['"3s"'] * 100)  # longer than 0.1 runs here, also on a busy machine

TOPOLOGY = """
name = "{name}"
var = "var"
[broker]
url = "{broker}"
{management}
[store]
url = "{store}"
prepare = "shop:prepare"
[exchanges]
orders = {{ type = "direct" }}
stock = {{ type = "x-consistent-hash", pack = 5 }}
audit = {{ type = "x-consistent-hash" }}
[queues.orders]
exchange = "orders"
routing_keys = ["order"]
handler = "shop:order"
once = true
retry = {{ delays = [{delays}], then = "dead-letter" }}
[queues.bad]
exchange = "orders"
routing_keys = ["bad"]
handler = "shop:bad"
{quorum}
[queues.stock]
exchange = "stock"
shards = {shards}
handler = "shop:stock"
[queues.audit]
exchange = "audit"
shards = {shards}
handler = "shop:audit"
{quorum}
"""
# For both versions: closed shards hold, an order is retried and a bad message is rejected.
HANDLERS = """
from pathlib import Path
from marshmallow import Schema, fields
from feedbus import Bus, Outage, Reject, Retry, handler

OLD = Path(__file__).with_name("old")
SEEN = Path(__file__).with_name("seen.log")

class Numbered(Schema):
    n = fields.Integer(required=True)
    k = fields.String(required=True)

def note(queue, message):
    with SEEN.open("a") as seen:
        seen.write(f"{queue} {message['k']} {message['n']}\\n")

def prepare(topology):
    if OLD.exists():  # 0.1 leaves its own tables to the project
        from feedbus import outbox
        outbox.open_store(topology.store_url)
        outbox.create_tables()
        outbox.close_store()

@handler(Numbered)
def order(message, bus: Bus):
    if OLD.exists():
        raise Retry("later")
    bus.publish("stock", {"n": message["n"], "k": "ordered"}, "ordered")
    note("order", message)

@handler(Numbered)
def bad(message, bus: Bus):
    if OLD.exists():
        raise Reject("a bad one")
    note("bad", message)

@handler(Numbered)
def stock(message, bus: Bus):
    if OLD.exists():
        raise Outage("closed")
    note("stock", message)

@handler(Numbered)
def audit(message, bus: Bus):
    if OLD.exists():
        raise Outage("closed")
    note("audit", message)
"""
# For 0.1.
PUBLISH = """
import json, sys
from pathlib import Path
from feedbus import config
from feedbus.bus import Bus

with Bus.connect(config.load(Path("topology.toml"))) as bus:
    for exchange, pairs in json.load(sys.stdin):
        bus.publish_many(exchange, pairs)
"""
OUTBOX_ROW = (
    "INSERT INTO feedbus_outbox (exchange, routing_key, payload, message_id, created_at)"
    """ VALUES ('orders', 'order', '{"n": 9, "k": "order"}', 'kept', 1)"""
)
CHANGES = ("~ queue     {name}.bad", "~ ring      audit")


@dataclass(frozen=True, slots=True)
class Shop:
    """A project whose folder both versions use."""

    folder: Path
    old: Path
    fields: dict[str, str]

    def write(self, shards: int) -> None:
        """Write the topology with so many shards, and the handlers."""
        self.folder.mkdir(exist_ok=True)
        text = TOPOLOGY.format(**self.fields, shards=shards, delays=DELAYS)
        (self.folder / "topology.toml").write_text(text)
        (self.folder / "shop.py").write_text(HANDLERS)

    def start(self, *words: str, old: bool = False) -> subprocess.Popen[str]:
        """Start a command of this version, or of 0.1."""
        environment = {**os.environ, "FEEDBUS_OPERATIONS_PORT": "0"}
        if old:
            environment["PYTHONPATH"] = str(self.old)
        return subprocess.Popen(
            [sys.executable, "-m", "feedbus", *words],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str, old: bool = False, code: int = 0) -> str:
        """Run a command to its end and return its output."""
        running = self.start(*words, old=old)
        try:
            printed, _ = running.communicate(timeout=PATIENCE_SECONDS)
        finally:
            running.terminate()
        assert running.returncode == code, printed
        return printed

    @contextmanager
    def up(self, *, old: bool = False) -> Iterator[subprocess.Popen[str]]:
        """Keep everything running until the block ends."""
        with self.start("up", old=old) as running:
            try:
                read_until(running, "ready in " if old else "processes are ready")
                yield running
            finally:
                if running.poll() is None:
                    running.terminate()
                running.communicate(timeout=PATIENCE_SECONDS)

    def publish(self, *batches: tuple[str, range, str]) -> None:
        """Publish numbered messages by 0.1: to an exchange, with a key or with that of the number.

        One process publishes all of them, because its start takes most of the processor time.
        """
        pairs = [
            (exchange, [(key := fixed or f"k{n % 5}", {"n": n, "k": key}) for n in numbers])
            for exchange, numbers, fixed in batches
        ]
        subprocess.run(
            [sys.executable, "-c", PUBLISH],
            input=json.dumps(pairs),
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.old)},
            text=True,
            check=True,
            timeout=PATIENCE_SECONDS,
        )

    def seen(self) -> list[tuple[str, str, int]]:
        """Return (queue, key, number) of all handled messages, in order."""
        log = self.folder / "seen.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [(queue, key, int(number)) for queue, key, number in map(str.split, lines)]


def read_until(running: subprocess.Popen[str], text: str) -> None:
    """Read what a command prints until a line has the text."""
    assert running.stdout is not None
    printed = []
    for line in running.stdout:
        printed.append(line)
        if text in line:
            return
    pytest.fail("".join(printed))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Unpack feedbus 0.1."""
    return unpack(tmp_path)


def leave_behind(shop: Shop) -> None:
    """Have 0.1 leave messages, retries, dead letters and a begun switch, and kill it."""
    (shop.folder / "old").touch()
    with shop.up(old=True) as supervisor:
        shop.publish(
            ("orders", range(3), "order"),
            ("orders", range(2), "bad"),
            ("stock", range(40), ""),
            ("audit", range(40), ""),
        )
        shop.write(2)
        with shop.start("apply", old=True) as applying:
            read_until(applying, "draining")
            applying.kill()
        shop.publish(("stock", range(40, 60), ""), ("audit", range(40, 60), ""))
        refused = shop.run("plan", code=1)
        assert "another version of feedbus: run `feedbus down`, then `feedbus up`" in refused
        if shop.fields["quorum"]:
            other = Shop(shop.folder.parent / "another_host", shop.old, shop.fields)
            other.write(2)
            assert "That host has feedbus 0.1, or another topology" in other.run("up", code=1)
        supervisor.send_signal(signal.SIGKILL)
    locks = list((shop.folder / "var" / "run").glob("*.lock"))
    wait_until(lambda: not any(map(lock_holder, locks)))
    (shop.folder / "old").unlink()


def take_over(shop: Shop) -> None:
    """Start this version instead of 0.1, and check that all is handled once and in order."""
    plan = shop.run("plan")
    changes = [line for line in plan.splitlines() if line[:1] in {"~", "+", "-"}]
    wanted = [each.format(**shop.fields) for each in CHANGES if shop.fields["quorum"]]
    assert [one.startswith(each) for one, each in zip(changes, wanted, strict=True)] == [
        True for _ in wanted
    ], plan
    with shop.up():
        assert shop.run("dead", "list").count("a bad one") == 2
        shop.run("dead", "requeue", "bad", "--all")
        wait_until(
            lambda: len(shop.seen()) >= 130,
            lambda: (Counter(queue for queue, _, _ in shop.seen()), shop.run("status")),
        )
        if shop.fields["quorum"]:
            shop.run("apply")
        assert "nothing to change" in shop.run("plan")
        assert "no dead letters" in shop.run("dead", "list")
    counts = Counter(shop.seen())
    assert set(counts.values()) == {1}
    by_key: dict[tuple[str, str], list[int]] = defaultdict(list)
    for queue, key, number in shop.seen():
        by_key[queue, key].append(number)
    for queue in ("stock", "audit"):
        for key in range(5):
            assert by_key[queue, f"k{key}"] == list(range(key, 60, 5))
    assert sorted(by_key["order", "order"]) == sorted(by_key["stock", "ordered"]) == [0, 1, 2, 9]
    assert sorted(by_key["bad", "bad"]) == [0, 1]


def test_the_embedded_broker_and_store_of_0_1_are_taken_over_in_place(tmp_path, old):
    urls = {"broker": "sqlite:///var/broker.db", "store": "sqlite:///var/store.db"}
    fields = {"name": "shop", "management": "", "quorum": "", **urls}
    shop = Shop(tmp_path / "shop", old, fields)
    shop.write(1)
    leave_behind(shop)
    with sqlite3.connect(shop.folder / "var" / "store.db") as store:
        store.execute(OUTBOX_ROW)
    store.close()
    take_over(shop)


def test_rabbitmq_and_postgresql_of_0_1_are_taken_over_and_used_by_one_version_at_a_time(
    tmp_path, old, rabbitmq, postgres
):
    url = postgres.new_database()
    fields = {
        "name": f"shop-{uuid.uuid4().hex[:8]}",
        "broker": rabbitmq.url,
        "management": f'management = "{rabbitmq.management_url}"',
        "store": url,
        "quorum": 'type = "quorum"',
    }
    shop = Shop(tmp_path / "shop", old, fields)
    shop.write(1)
    leave_behind(shop)
    with psycopg.connect(url) as store:
        store.execute(OUTBOX_ROW)
    take_over(shop)
    postgres.drop_database(url)
