"""Measure how long new records wait behind a switch: python -m tests.chaos.reshard.waiting BACKLOG…

Ten shards with a backlog become thirteen while their consumers work it off; then every key gets
one more record. The same is measured without a switch. Set FEEDBUS_BROKER_URL for RabbitMQ.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from feedbus.bus import LiveBus
from feedbus.generations import topology_setup
from tests.chaos.reshard.arena import KEYS, Arena
from tests.chaos.reshard.project import Project


def measure(backlog: int, folder: Path, *, shards: int) -> None:
    """Print how long the switch took and when the new records had their effect."""
    url = os.environ.get("FEEDBUS_BROKER_URL", "sqlite:///var/broker.db")
    keys = [f"key-{number}" for number in range(KEYS)]
    project = Project(folder, url, name=f"waiting{os.urandom(3).hex()}")
    with Arena(project) as arena:
        project.edit(10)
        topology_setup.set_up(project.topology)
        with LiveBus(project.topology) as bus:
            for number in range(backlog // KEYS):
                bus.publish_many("ring", [({"key": key, "number": number}, key) for key in keys])
            arena.consumers.run()
            first = LiveBus(project.topology)
            first.publish("ring", {"key": "first", "number": 0}, "first")
            first.close()
            while not arena.evidence.count():
                time.sleep(0.01)
            if not backlog:
                time.sleep(3)  # all are there, and have nothing to do
            project.edit(shards)
            started = time.monotonic()
            topology_setup.set_up(project.topology)
            switched = time.monotonic()
            arena.consumers.run()
            bus.publish_many("ring", [({"key": key, "number": 10**6}, key) for key in keys])
            published = time.monotonic()
            first_seconds = 0.0
            while (count := arena.evidence.count_of(10**6)) < KEYS:
                if count and not first_seconds:
                    first_seconds = time.monotonic() - published
                time.sleep(0.02)
            last_seconds = time.monotonic() - published
        sys.stdout.write(
            f"{url.partition(':')[0]:6} backlog {backlog:>9,} 10 -> {shards}: switch"
            f" {switched - started:.2f} s, first new {first_seconds or last_seconds:.2f} s, last"
            f" {last_seconds:.2f} s\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    for size in map(int, sys.argv[1:]):
        for wanted in (10, 13):
            with tempfile.TemporaryDirectory() as made:
                measure(size, Path(made), shards=wanted)
