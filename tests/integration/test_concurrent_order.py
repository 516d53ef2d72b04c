"""Order by key while several records run at once, with kills and a reshard, seen from outside.

The handlers note when each record begins and ends in one file, which all processes append to. A
record may begin only when all earlier ones of its key have ended, also after kills and moves.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from feedbus import config
from feedbus.bus import LiveBus
from servers import versions
from tests.projects import Project, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]
KEYS = [f"key-{number}" for number in range(int(os.environ.get("FEEDBUS_ORDER_KEYS", "30")))]
NUMBERS = int(os.environ.get("FEEDBUS_ORDER_NUMBERS", "40"))
KILLS = int(os.environ.get("FEEDBUS_ORDER_KILLS", "3"))
TOPOLOGY = """
name = "{name}"
[broker]
{broker}
[exchanges]
work = {{ type = "x-consistent-hash" }}
[queues.work]
exchange = "work"
shards = {shards}
type = "{kind}"
handler = "ordered:{handler}"
concurrency = 8
prefetch = 40
"""
HANDLERS = """
import asyncio, os, time
from feedbus import Message, handler

log = os.open(os.path.dirname(__file__) + "/seen.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(what, record, message):
    line = f"{what} {message.routing_key} {record['n']} {os.getpid()}\\n"
    os.write(log, line.encode())

@handler
async def in_tasks(record: dict, message: Message) -> None:
    note("begin", record, message)
    await asyncio.sleep(0.003 * (1 + record["n"] % 4))
    note("end", record, message)

@handler
def in_threads(record: dict, message: Message) -> None:
    note("begin", record, message)
    time.sleep(0.003 * (1 + record["n"] % 4))
    note("end", record, message)
"""


class Ordered(Project):
    """A project whose records are numbered by key."""

    def write(self, broker: str, name: str, shards: int, kind: str, handler: str) -> None:
        """Write its files."""
        (self.folder / "ordered.py").write_text(HANDLERS)
        values = {"broker": broker, "name": name, "shards": shards}
        self.topology.write_text(TOPOLOGY.format(**values, kind=kind, handler=handler))

    def lines(self) -> list[list[str]]:
        """Return the lines that the handlers have written."""
        return (
            [line.split() for line in self.log.read_text().splitlines()]
            if self.log.exists()
            else []
        )

    def ended(self) -> set[tuple[str, int]]:
        """Return the key and the number of each record whose handler has ended."""
        return {(key, int(n)) for what, key, n, _ in self.lines() if what == "end"}

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Publish all records meanwhile, each number of every key before the next number."""

        def publish() -> None:
            with LiveBus(config.load(self.topology)) as bus:
                for n in range(NUMBERS):
                    bus.publish_many("work", [({"n": n}, key) for key in KEYS])
                    time.sleep(0.05)

        thread = threading.Thread(target=publish)
        thread.start()
        yield
        thread.join()

    def kill_one(self, chance: random.Random) -> None:
        """Kill one of the processes that have written a line recently."""
        pid = int(chance.choice(self.lines()[-20:])[3])
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def disorder(self) -> list[str]:
        """Return which records have begun before an earlier one of their key had ended."""
        next_number: dict[str, int] = defaultdict(int)
        faults: list[str] = []
        running: dict[str, tuple[int, str]] = {}
        for what, key, text, pid in self.lines():
            n = int(text)
            if what == "begin":
                if n > next_number[key]:
                    faults.append(f"{key} {n} began, and {next_number[key]} had not ended")
                other = running.get(key)
                if other is not None and other[1] == pid:
                    faults.append(f"{key} {n} began beside {other[0]} in one process")
                running[key] = n, pid
            else:
                running.pop(key, None)
                next_number[key] = max(next_number[key], n + 1)
        return faults


PLACES = [("embedded", "classic", "in_threads"), (versions.chosen()[-1], "quorum", "in_tasks")]
if "FEEDBUS_ORDER_KILLS" in os.environ:
    PLACES += [(version, "classic", "in_tasks") for version in versions.chosen()]
    PLACES += [(versions.chosen()[0], "quorum", "in_threads"), ("embedded", "classic", "in_tasks")]


@pytest.mark.parametrize(("place", "kind", "handler"), PLACES)
def test_records_of_a_key_run_one_after_the_other_through_kills_and_a_reshard(
    request, tmp_path: Path, place: str, kind: str, handler: str
) -> None:
    broker = 'url = "sqlite:///var/broker.db"'
    if place != "embedded":
        node = request.getfixturevalue("rabbitmq_nodes")(place)
        broker = f'url = "{node.url}"\nmanagement = "{node.management_url}"'
    name, chance = f"ordered-{uuid.uuid4().hex[:8]}", random.Random(7)
    project = Ordered(tmp_path)
    project.write(broker, name, 4, kind, handler)
    project.feedbus("up", "--detach")
    try:
        with project.publishing():
            for kill in range(KILLS):
                done = (kill + 1) * len(KEYS) * NUMBERS // (KILLS + 2)
                wait_until(lambda done=done: len(project.lines()) // 2 > done)
                project.kill_one(chance)
                if kill == KILLS // 2:
                    project.write(broker, name, 6, kind, handler)
                    project.feedbus("apply")
        expected = {(key, n) for key in KEYS for n in range(NUMBERS)}
        wait_until(lambda: project.ended() == expected)
        assert project.disorder() == []
        assert project.dead() == []
    finally:
        project.feedbus("down")
