"""Which watchers a changed topology adds, removes, restarts, starts or leaves."""

from __future__ import annotations

from pathlib import Path

from feedbus.supervisor.applied_settings import AppliedSettings
from feedbus.topology import Exchange, Operations, StoreOptions, Topology
from feedbus.urls import parse_broker_url, parse_store_url
from tests.small_topologies import queue, sharded
from tests.systems import System


def test_watchers_are_added_removed_restarted_or_left_as_their_settings_say(
    tmp_path: Path,
) -> None:
    def settings(*queues, middleware=(), **exchanges: Exchange) -> AppliedSettings:
        topology = Topology(
            name="t",
            path=tmp_path / "topology.toml",
            broker_url=parse_broker_url("sqlite:////b"),
            store=StoreOptions(url=parse_store_url("sqlite:////s")),
            exchanges={"work": Exchange("work", "direct"), **exchanges},
            queues={each.name: each for each in queues},
            var=tmp_path / "var",
            operations=Operations(),
            middleware=middleware,
        )
        return AppliedSettings.of(topology)

    ring = Exchange("ring", "x-consistent-hash")
    running = settings(queue(), queue("other"), queue("old"), sharded(2), ring=ring)
    wanted = settings(queue(prefetch=99), queue("other"), sharded(3, weights=(1, 1, 9)), ring=ring)
    found = running.difference(wanted, 1, {})
    assert (found.added, found.removed) == (("shard_2",), ("old",))
    assert list(found.restarted) == ["work", "operations"]  # which shows all the others
    assert found.kept == ("other", "shard_0", "shard_1")
    packed = settings(queue(), queue("other"), ring=Exchange("ring", "x-consistent-hash", 50))
    assert list(running.difference(packed, 1, {}).restarted) == ["work", "other", "operations"]
    timed = settings(queue(), queue("other"), ring=ring, middleware=("app:Timing",))
    assert list(running.difference(timed, 1, {}).restarted)[:2] == ["work", "other"]
    undone = settings(queue(dead_handler="app:undo"), queue("other"), ring=ring)
    assert list(running.difference(undone, 1, {}).restarted) == ["work", "operations"]
    order = [{"a": "h:f", "#": "h:g"}, {"#": "h:g", "a": "h:f"}]  # the first that matches counts
    before, after = (settings(queue(handler="", handlers=each), queue("b")) for each in order)
    assert list(before.difference(after, 1, {}).restarted) == ["work"]
    more = settings(queue(), queue("other"), ring=ring, new=Exchange("new", "direct"))
    assert list(running.difference(more, 1, {}).restarted) == ["operations"]


def test_watchers_that_do_not_run_as_the_topology_says_are_started(tmp_path: Path) -> None:
    topology = System.at(tmp_path, queue("a"), queue("b"), queue("c", processes=3), queue("d"))
    settings = AppliedSettings.of(topology.topology)
    states = {
        "a": {"state": "stopped", "wanted_processes": 1},
        "b": {"state": "gave up", "wanted_processes": 1},
        "c": {"state": "running", "wanted_processes": 2},
        "d": {"state": "running", "wanted_processes": 1},
    }
    found = settings.difference(settings, 1, states)
    assert found.started == {
        "a": "it was stopped and is started",
        "b": "the supervisor had given it up; it is started again",
        "c": "it runs 2 processes instead of 3",
    }
    assert found.kept == ("d",)
