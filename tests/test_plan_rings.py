"""The plan for a ring that changes: shares, backlog, waits and hot keys."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.cli.plan import show
from feedbus.generations import topology_setup
from feedbus.metrics import Metrics
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
        " messages (the duration is unknown, because the shard handles no messages now)"
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
        (ORDERED, "1 message in old shards, for which only the keys of these shards wait"),
        ({}, "1 message in old shards, handled before any new message"),
        (
            ORDERED | {"block_on_dead": True},
            "1 message in old shards, handled before any new message",
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
    assert reported in capsys.readouterr().out


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


def test_how_long_a_backlog_takes_is_reported_by_what_is_handled_meanwhile(
    make: Callable[..., System],
) -> None:
    system = make(sharded(2))
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": n}, str(n)) for n in range(30)])
    over = threading.Event()

    def handle() -> None:
        with Metrics.open(system.topology.var / "metrics", "shard_0.1") as metrics:
            while not over.wait(0.05):
                metrics.consumer("shard_0").settled("ack", 10)

    handling = threading.Thread(target=handle)
    handling.start()
    (ring,) = make_plan(system.changed(sharded(3)), None).rings
    over.set()
    handling.join()
    assert ring.backlog_messages == 30
    assert ring.drain_seconds is not None
    assert {wait.shard: wait.seconds is None for wait in ring.waits} == {
        "shard_0": False,
        "shard_1": True,
    }
