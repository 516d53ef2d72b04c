"""The order test: a ring is switched under load, and everything that can be killed is killed."""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from pathlib import Path

import pytest

from servers.rabbitmq import RabbitMQ
from tests.chaos.reshard.arena import FOREIGN_KEYS, KEYS, STEPS, Arena
from tests.chaos.reshard.evidence import Evidence, Seen
from tests.chaos.reshard.project import Project

# Every message of a quorum queue is written to disk before it is confirmed.
RECORDS = {"embedded": 8_000, "classic": 5_000, "quorum": 1_500}
SEED = int(os.environ.get("FEEDBUS_CHAOS_SEED", "20"))
PATIENCE_SECONDS = 180.0  # without any progress
REPORT_SECONDS = 30.0

LONG = bool(os.environ.get("FEEDBUS_CHAOS_RECORDS"))

# The shards of each shape, their weights, and the steps at which the switch to it is killed before
# it is let through; tests/test_generations.py kills a switch at each of its steps. The start of a
# consumer takes most of the processor time, so `make test` has few of them.
LONG_SHAPES = (
    (10, "{}", ()),
    (13, "{}", STEPS[:3]),
    (7, "{}", STEPS[3:5]),
    (7, "{ 0 = 3, 4 = 2, 6 = 5 }", STEPS[5:]),
    (10, "{}", STEPS[3:4]),
)
SHORT_SHAPES = (
    (3, "{}", ()),
    (4, "{}", ("written",)),
    (2, "{ 0 = 3, 1 = 2 }", ("appended",)),
)
if LONG:
    RATE = {"embedded": 4_000, "classic": 4_000, "quorum": 1_000}  # records a second
    PAUSE_SECONDS = 1.0, 2.0  # between two kills; with less, restarts take all processor time
    MOST_KILLS = dict.fromkeys(RATE, math.inf)
    WAITING_LIMIT = 2_000
else:  # publishing goes on until all is switched, which takes longer on a busy machine
    RATE = {"embedded": 700, "classic": 350, "quorum": 200}
    PAUSE_SECONDS = 2.0, 4.0
    # The start of a consumer takes more than half a second of processor time, that of RabbitMQ five
    # seconds: so only the long form restarts the broker.
    MOST_KILLS = {"embedded": 5, "classic": 5, "quorum": 2}
    WAITING_LIMIT = 100  # so that the limit is reached
FIRST_SHAPE, *LATER_SHAPES = LONG_SHAPES if LONG else SHORT_SHAPES


def violations(seen: list[Seen]) -> list[str]:
    """Return each record that had its effect before one with a smaller number of its key."""
    latest: dict[str, Seen] = {}
    found = []
    for each in seen:
        before = latest.get(each.key)
        if before is not None and before.number > each.number:
            found.append(f"{each} came after {before}")
        else:
            latest[each.key] = each
    return found


def missing(seen: list[Seen], rounds: dict[int, int]) -> list[str]:
    """Return the records that the broker confirmed and that had no effect."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for each in seen:
        numbers[each.key].add(each.number)
    firsts = sorted(rounds)
    lasts = [*firsts[1:], KEYS]
    return [
        f"key-{key}: numbers {lost[:10]}, which is {len(lost)} of {rounds[first]}"
        for first, last in zip(firsts, lasts, strict=True)
        for key in range(first, last)
        if (lost := sorted(set(range(rounds[first])) - numbers[f"key-{key}"]))
    ]


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("on", ["embedded", "classic", "quorum"])
def test_resharding_under_load_keeps_every_record_once_and_every_key_in_order(
    on: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    node: RabbitMQ | None = None if on == "embedded" else request.getfixturevalue("rabbitmq")
    kind = "quorum" if on == "quorum" else "classic"
    records = int(os.environ.get("FEEDBUS_CHAOS_RECORDS") or RECORDS[on])
    rate = int(os.environ.get("FEEDBUS_CHAOS_RATE") or RATE[on])
    url = "sqlite:///var/broker.db" if node is None else node.url
    management = "" if node is None else node.management_url
    project = Project(tmp_path, url, management, kind, waiting_limit=WAITING_LIMIT)
    with Arena(project, seed=SEED, pause_seconds=PAUSE_SECONDS, most_kills=MOST_KILLS[on]) as arena:
        shards, weights, kills = FIRST_SHAPE
        project.edit(shards, weights)
        arena.switch(kills)
        arena.publish(records, rate)
        arena.await_round(1)
        arena.consumers.kill(True)
        each_shape = records // KEYS // (len(LATER_SHAPES) + 1)
        for place, (shards, weights, kills) in enumerate(LATER_SHAPES):
            arena.await_round(each_shape * (place + 1))
            project.edit(shards, weights)
            arena.switch(kills)
            if LONG and place == 1 and node is not None:
                node.restart()
        arena.await_round(records // KEYS)
        arena.stop()
        rounds = arena.rounds()
        expected = sum(
            count * (FOREIGN_KEYS if first == KEYS - FOREIGN_KEYS else (KEYS - FOREIGN_KEYS) // 2)
            for first, count in rounds.items()
        )
        arena.consumers.kill(False)
        settle(arena.evidence, expected)
        evidence, killed = arena.evidence, arena.consumers.kills
        seen = evidence.seen()
        reported = f"seed {SEED}, {killed} kills, published {rounds}, {evidence.left_behind()}\n"
        assert not (wrong := violations(seen)), reported + "\n".join(wrong[:20]) + evidence.logs()
        assert not (lost := missing(seen, rounds)), (
            reported + "\n".join(lost[:20]) + evidence.logs()
        )
        assert len(seen) == expected
        assert evidence.state().draining == ()
        assert evidence.state().current.members == project.topology.generation("ring").members
        assert set(evidence.left_behind().values()) == {0}, evidence.left_behind()
        print(f"{len(seen)} records, {killed} kills")  # noqa: T201 -- figures of a run


def settle(evidence: Evidence, expected: int) -> None:
    """Wait until everything has had its effect and only the current ring is left.

    It ends early when nothing has changed for some minutes.
    """
    latest, changed, reported = None, time.monotonic(), time.monotonic()
    while time.monotonic() - changed < PATIENCE_SECONDS:
        found = evidence.count(), evidence.state().draining, evidence.left_behind()
        done, draining, left = found
        if done >= expected and not draining and not any(left.values()):
            return
        if found != latest:
            latest, changed = found, time.monotonic()
        if time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            print(f"{done} of {expected} records")  # noqa: T201 -- the progress of a long run
        time.sleep(0.5)
