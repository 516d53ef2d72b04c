"""Measure how long new records wait after a switch: python -m tests.chaos.reshard.waiting BACKLOG…

Ten shards become thirteen while one of the old shards has a backlog. During the drain, records of
all keys are published. Keys that do not come from the shard with the backlog are free: they do not
wait for it, also if they move to another shard. Set FEEDBUS_BROKER_URL for RabbitMQ, and
FEEDBUS_QUEUE_TYPE for quorum queues.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from feedbus.bus import LiveBus
from feedbus.generations import topology_setup
from feedbus.process.slots import slot_path
from feedbus.ring import Ring
from tests.chaos.reshard.arena import KEYS, Arena
from tests.chaos.reshard.project import Project

BEFORE, AFTER = 10, 13
BEHIND = "shard_3"  # the old shard with the backlog
RATE = 100  # new records a second
SLICES = 20  # a second
LEAST_SECONDS = 5.0  # of publishing
PATIENCE_SECONDS = 1_200.0

Published = dict[tuple[str, int], float]


def measure(backlog: int, folder: Path) -> None:
    """Print how long the switch took, and how long new records of free keys took."""
    url = os.environ.get("FEEDBUS_BROKER_URL", "sqlite:///var/broker.db")
    kind = os.environ.get("FEEDBUS_QUEUE_TYPE", "classic")
    project = Project(folder, url, kind=kind, name=f"waiting{os.urandom(3).hex()}")
    with Arena(project) as arena:
        project.edit(BEFORE)
        states = topology_setup.set_up(project.topology)
        old = Ring.of(states["ring"].current.members)
        keys = [f"key-{number}" for number in range(KEYS)]
        behind = {key for key in keys if old.route(key) == BEHIND}
        with LiveBus(project.topology) as bus:
            arena.consumers.run()
            await_ready(project, BEFORE)
            for number in range(-(-backlog // len(behind))):
                bus.publish_many(
                    "ring", [({"key": key, "number": number}, key) for key in sorted(behind)]
                )
            project.edit(AFTER)
            started = time.monotonic()
            states = topology_setup.set_up(project.topology)
            switch_seconds = time.monotonic() - started
            switched_at = time.time()
            arena.consumers.run()
            published = publish(arena, bus, keys)
        ready_at = await_ready(project, AFTER)
        drained_at = await_effects(arena, published)
        times = arena.evidence.times()
    new = Ring.of(states["ring"].current.members)
    took = {each: times[each] - at for each, at in published.items() if each[0] not in behind}
    moved = [each for each in took if old.route(each[0]) != new.route(each[0])]
    started_late = [each for each in took if published[each] >= ready_at]
    say(
        f"{url.partition(':')[0]} {kind}, {backlog:,} messages in {BEHIND}, {BEFORE} -> {AFTER}"
        f" shards: switch {switch_seconds:.2f} s, drained after {drained_at - switched_at:.1f} s,"
        f" new processes ready after {ready_at - switched_at:.2f} s",
        f"  free keys, all:              {shown(took.values())}",
        f"  … that move:                 {shown(took[each] for each in moved)}",
        f"  … since all processes ready: {shown(took[each] for each in started_late)}",
        f"  keys of {BEHIND}:             "
        f"{shown(times[each] - at for each, at in published.items() if each[0] in behind)}",
    )


def publish(arena: Arena, bus: LiveBus, keys: list[str]) -> Published:
    """Publish records of all keys at a rate, until the backlog is handled."""
    published: Published = {}
    numbers = itertools.count(10**6)
    upcoming = ((key, number) for number in numbers for key in keys)
    begun = time.monotonic()
    count = 0
    while True:
        count += 1
        some = list(itertools.islice(upcoming, RATE // SLICES))
        at = time.time()
        bus.publish_many("ring", [({"key": key, "number": number}, key) for key, number in some])
        published.update(dict.fromkeys(some, at))
        due = begun + count / SLICES
        if due - begun > LEAST_SECONDS and count % SLICES == 0 and not arena.evidence.queues():
            return published
        time.sleep(max(0.0, due - time.monotonic()))


def await_ready(project: Project, shards: int) -> float:
    """Wait until the processes of all shards are ready; return when the last one was."""
    folder, found = project.folder / "var" / "run", dict[str, float]()
    while len(found) < shards:
        for shard in range(shards):
            path = slot_path(folder, f"shard_{shard}", 1, "ready")
            if path.exists():
                found.setdefault(path.name, path.stat().st_mtime)
        time.sleep(0.02)
    return max(found.values())


def await_effects(arena: Arena, published: Published) -> float:
    """Wait until all records had their effect; return when the last one had it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        times = arena.evidence.times()
        if published.keys() <= times.keys():
            return max(times[each] for each in published)
        time.sleep(0.5)
    raise AssertionError(arena.evidence.logs())


def shown(seconds: Iterable[float]) -> str:
    """Return the median, the p95 and the longest of durations as text."""
    ordered = sorted(seconds)
    if not ordered:
        return "none"
    p95 = ordered[int(len(ordered) * 0.95)]
    return (
        f"median {statistics.median(ordered):.3f} s, p95 {p95:.3f} s, longest {ordered[-1]:.3f} s"
        f" of {len(ordered):,}"
    )


def say(*lines: str) -> None:
    """Print lines immediately."""
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    for size in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as made:
            measure(size, Path(made))
