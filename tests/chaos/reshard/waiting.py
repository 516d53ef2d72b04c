"""`python -m tests.chaos.reshard.waiting BACKLOG…`: how long new records wait after a switch.

Ten shards become thirteen while one of the old shards has a backlog. During the drain, records of
all keys are published. Keys that do not come from the shard with the backlog are free: they do not
wait for it, also if they move to another shard.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import click

from feedbus.bus import LiveBus
from feedbus.generations import topology_setup
from feedbus.process.slots import slot_path
from feedbus.ring import Ring
from servers import versions
from servers.rabbitmq import RabbitMQ
from tests.chaos.faults.columns import COLUMNS, Column
from tests.chaos.reshard.arena import KEYS, Arena
from tests.chaos.reshard.project import Project

BEFORE, AFTER = 10, 13
BEHIND = "shard_3"  # the old shard with the backlog
RATE = 100  # new records a second
SLICES = 20  # a second
LEAST_SECONDS = 5.0  # of publishing
PATIENCE_SECONDS = 1_200.0

Published = dict[tuple[str, int], float]


def measure(backlog: int, column: Column, folder: Path) -> None:
    """Print how long the switch took, and how long new records of free keys took."""
    with ExitStack() as stack:
        url = "sqlite:///var/broker.db"
        if column.rabbitmq:
            (folder / "rabbitmq").mkdir()
            version = versions.find(column.rabbitmq)
            url = stack.enter_context(RabbitMQ(folder / "rabbitmq", version=version)).url
        project = Project(folder, url, kind=column.queue_type, name=f"waiting{os.urandom(3).hex()}")
        arena = stack.enter_context(Arena(project))
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
    waited = [times[each] - at for each, at in published.items() if each[0] in behind]
    moved = [each for each in took if old.route(each[0]) != new.route(each[0])]
    started_late = [each for each in took if published[each] >= ready_at]
    lines = (
        f"{column.title}, {backlog:,} messages in {BEHIND}, {BEFORE} -> {AFTER} shards",
        f"  switch {switch_seconds:.2f} s, drained after {drained_at - switched_at:.1f} s",
        f"  new processes ready after {ready_at - switched_at:.2f} s",
        f"  free keys, all:              {shown(took.values())}",
        f"  … that move:                 {shown(took[each] for each in moved)}",
        f"  … since all processes ready: {shown(took[each] for each in started_late)}",
        f"  keys of {BEHIND}:             {shown(waited)}",
    )
    click.echo("\n".join(lines))


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


@click.command(context_settings={"show_default": True})
@click.argument("backlogs", nargs=-1, required=True, type=int, metavar="BACKLOG...")
@click.option("--column", type=click.Choice([*COLUMNS]), default="embedded", help="The broker.")
def main(backlogs: tuple[int, ...], column: str) -> None:
    """Measure a switch with each BACKLOG, a number of messages."""
    for backlog in backlogs:
        with tempfile.TemporaryDirectory() as made:
            measure(backlog, COLUMNS[column], Path(made))


if __name__ == "__main__":
    main()
