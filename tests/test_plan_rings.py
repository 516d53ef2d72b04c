"""The plan for a ring that changes: shares, backlog, waits and hot keys."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker.rabbitmq import STATISTICS_AGE_SECONDS
from feedbus.broker_names import Names
from feedbus.cli.plan import show
from feedbus.generations import topology_setup
from feedbus.metrics import Metrics
from feedbus.plan import Wait
from feedbus.plan.key_waits import total_seconds
from feedbus.plan.planning import make_plan
from feedbus.ring import Ring
from servers import versions
from tests.ordered_queues import ORDERED
from tests.projects import Project
from tests.small_topologies import BATCH, sharded
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", *versions.chosen(), management=True)


# The shares of a ring are computed, for which the broker does not matter, and take long.
ON_EMBEDDED = pytest.mark.parametrize("make", ["embedded"], indirect=True)


@ON_EMBEDDED
def test_a_ring_that_changes_is_reported_with_its_shares_and_its_backlog(
    make: Callable[..., System],
) -> None:
    system = make(sharded(3, batch=BATCH))
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": n}, str(n)) for n in range(40)])
    wanted = system.changed(sharded(4, batch=BATCH))
    (ring,) = make_plan(wanted, None).rings
    assert ring.moved_share == pytest.approx(1 / 4, abs=0.003)
    assert (ring.action, ring.reason) == ("change", "3 shards become 4")
    assert (ring.before.shards, ring.after.shards) == (3, 4)
    assert 1.0 < ring.after.max_over_share < 1.2
    assert (ring.backlog_messages, ring.drain_seconds) == (40, None)


@ON_EMBEDDED
def test_a_plan_names_the_old_shards_that_keys_wait_for(
    make: Callable[..., System], capsys: pytest.CaptureFixture[str]
) -> None:
    system = make(sharded(3))
    ring = Ring.of(system.topology.generation("ring").members)
    keys = [key for key in map(str, range(200)) if ring.route(key) == "shard_1"]
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": 1}, key) for key in keys])
    plan = make_plan(system.changed(sharded(5)), None)
    (wait,) = plan.rings[0].waits
    assert (wait.shard, wait.messages, wait.seconds) == ("shard_1", len(keys), None)
    assert set(wait.moved_to) == {"shard_3", "shard_4"}
    show(plan, as_json=False)
    assert (
        f"keys that move from shard_1 to {', '.join(wait.moved_to)} wait for its {len(keys)}"
        " messages (no consumer reads them now)"
    ) in capsys.readouterr().out


@ON_EMBEDDED
def test_a_process_that_stands_still_while_it_reads_the_state_changes_no_plan(
    make: Callable[..., System],
) -> None:
    system = make(sharded(3))
    wanted = system.changed(sharded(4))
    expected = make_plan(wanted, None, predict=False)
    assert not [each for each in expected.changes if each.action == "delete"]
    with broker.connect(system.topology) as connection:
        kept = Names(system.topology).generations("ring")
        assert connection.channel().basic_get(kept) is not None
        found = make_plan(wanted, None, predict=False)
    assert (found.changes, found.rings) == (expected.changes, expected.rings)


@ON_EMBEDDED
@pytest.mark.parametrize(
    ("options", "reported"),
    [
        (ORDERED, "a new message waits only until the old shard of its key is empty"),
        ({}, "every new message waits until all old shards are empty"),
        (
            ORDERED | {"block_on_dead": True},
            "every new message waits until all old shards are empty",
        ),
    ],
)
def test_a_plan_says_whether_all_keys_wait_for_the_old_shards(
    make: Callable[..., System],
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    reported: str,
) -> None:
    system = make(sharded(2, **options))
    with system.bus() as bus:
        bus.publish("ring", {"n": 1}, "key")
    show(make_plan(system.changed(sharded(3, **options)), None), as_json=False)
    text = capsys.readouterr().out
    assert "    backlog    1 message in old shards\n" in text
    assert f"    order      {reported}\n" in text


@ON_EMBEDDED
def test_keys_wait_for_the_shards_of_every_generation_that_drains(
    make: Callable[..., System],
) -> None:
    system = make(sharded(2))
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": n}, str(n)) for n in range(40)])
    second = system.changed(sharded(3))
    topology_setup.set_up(second)
    with replace(system, topology=second).bus() as bus:
        bus.publish_many("ring", [({"n": n}, str(n)) for n in range(60)])
    (ring,) = make_plan(system.changed(sharded(4)), None).rings
    generations = {wait.generation for wait in ring.waits}
    assert len(generations) == 2
    assert sum(wait.messages for wait in ring.waits) == 100 + 2  # and a fence in each old queue
    moved_to = {wait.shard: wait.moved_to for wait in ring.waits if wait.generation != ring.old}
    assert moved_to.keys() == {"shard_0", "shard_1"}
    assert all(set(found) == {"shard_2", "shard_3"} for found in moved_to.values())


RING = """
[exchanges.ring]
type = "x-consistent-hash"
[queues.shard]
exchange = "ring"
shards = 4
handler = "small_handlers:work"
"""


def test_a_key_that_has_more_than_a_shard_is_named(tmp_path: Path) -> None:
    project = Project.at(tmp_path, "pass", options=RING)
    traffic = tmp_path / "traffic.tsv"
    traffic.write_text("hot\t60\ncold\t20\nother\t20\n")
    sample = ("--keys", str(traffic), "--traffic", "2")
    planned = project.feedbus("plan", *sample).stdout
    assert "hot key    'hot' has 60.0% of the records, and an average shard 25.0%" in planned
    (ring,) = json.loads(project.feedbus("plan", "--json", *sample).stdout)["rings"]
    assert ring["hot_key"] == {"key": "hot", "share": 0.6, "shard_share": 0.25}
    assert "hot key" not in project.feedbus("plan", "--keys", "1..100").stdout


@ON_EMBEDDED
def test_evenness_is_measured_against_the_weights_that_were_asked_for(
    make: Callable[..., System],
) -> None:
    system = make(sharded(4))
    weighted = sharded(4, weights=(1, 1, 1, 20))
    (ring,) = make_plan(system.changed(weighted), None).rings
    assert 1.0 < ring.after.max_over_share < 1.2


def test_the_duration_of_a_backlog_is_estimated_for_each_shard_that_is_read(
    make: Callable[..., System], capsys: pytest.CaptureFixture[str]
) -> None:
    system = make(replace(sharded(2), prefetch=10))
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": n}, str(n)) for n in range(600)])
    begun = threading.Event()

    def handle(*_: Any) -> None:
        begun.set()
        time.sleep(0.05)

    metrics = Metrics.open(system.topology.var / "metrics", "shard_0.1")
    with metrics, system.running(handle, "shard_0", metrics=metrics):
        assert begun.wait(60)
        plan = make_plan(system.changed(sharded(3)), None)
    (ring,) = plan.rings
    waits = {wait.shard: wait for wait in ring.waits}
    read, unread = waits["shard_0"], waits["shard_1"]
    assert (read.consumers, unread.consumers) == (1, 0)
    assert read.per_second is not None
    assert 1 < read.per_second < 20  # the handler takes 50 ms
    assert read.seconds == pytest.approx(
        (read.messages + read.unacknowledged) / read.per_second, rel=0.1
    )
    assert (unread.per_second, unread.seconds, ring.drain_seconds) == (None, None, None)
    show(plan, as_json=False)
    text = capsys.readouterr().out
    assert f"(about {read.seconds:,.0f} s at {read.per_second} messages per second)" in text
    assert f"{unread.messages} messages (no consumer reads them now)" in text
    assert "    duration " not in text  # that of one shard is not known


def test_the_slowest_shard_determines_the_duration_of_a_backlog() -> None:
    waits = [
        Wait("shard_0", "new", 100, 0, (), consumers=1, per_second=10.0, seconds=10.0),
        Wait("shard_1", "new", 30, 0, (), consumers=1, per_second=1.0, seconds=30.0),
        Wait("shard_1", "old", 5, 0, (), consumers=1, per_second=1.0, seconds=5.0),
    ]
    assert total_seconds(waits) == 35.0
    assert total_seconds([]) is None


def test_a_plan_counts_ready_messages_now_and_says_how_old_other_counts_are(
    make: Callable[..., System], request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    system = make(replace(sharded(2), prefetch=5))
    wanted = system.changed(sharded(3))
    release, received = threading.Event(), threading.Event()

    def handle(*_: Any) -> None:
        received.set()
        release.wait(60)

    with system.bus() as bus:
        bus.publish_many("ring", [({"n": n}, "key") for n in range(20)])
    shard = Ring.of(system.topology.generation("ring").members).route("key")
    age = 0.0 if "embedded" in request.node.name else STATISTICS_AGE_SECONDS
    try:
        with system.running(handle, shard):
            assert received.wait(60)
            deadline = time.monotonic() + 60
            while True:  # RabbitMQ reports the unacknowledged messages seconds later
                plan = make_plan(wanted, None)
                (ring,) = plan.rings
                assert ring.backlog_messages == 15
                if ring.unacknowledged_messages:
                    break
                assert time.monotonic() < deadline
            release.set()
    finally:
        release.set()
    assert ring.unacknowledged_messages == 5
    assert plan.unacknowledged_age_seconds == age
    show(plan, as_json=False)
    text = capsys.readouterr().out
    assert "    backlog    15 ready and 5 unacknowledged messages in old shards\n" in text
    assert "this host has handled none of them in 5 s" in text
    late = "the numbers of unacknowledged messages are up to 10 s old: RabbitMQ reports them late"
    assert (late in text) is (age > 0)
