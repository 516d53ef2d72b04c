"""What a plan says of a topology, its broker and its supervisor; it reads only."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from feedbus import broker
from feedbus.broker import inventory
from feedbus.broker.names import Names
from feedbus.broker.rabbitmq import management
from feedbus.cli import main
from feedbus.cli.plan import show
from feedbus.errors import UsageError
from feedbus.generations import topology_setup
from feedbus.metrics import Metrics
from feedbus.plan import Plan, Watchers
from feedbus.plan.comparison import make_plan
from feedbus.ring import Ring
from feedbus.store.peewee import close_bound
from feedbus.supervisor.applied_settings import AppliedSettings
from feedbus.topology import Exchange, Operations, StoreOptions, Topology
from feedbus.urls import parse_broker_url, parse_management_url, parse_store_url
from servers import versions
from tests.projects import Project
from tests.systems import BATCH, System, on_broker, queue, sharded


@pytest.fixture(params=["embedded", *versions.chosen()])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., System]]:
    """Make systems on either broker."""
    yield from on_broker(request.param, tmp_path, request, management=True)


# The shares of a ring are computed, for which the broker does not matter, and take long.
ON_EMBEDDED = pytest.mark.parametrize("make", ["embedded"], indirect=True)


def reported(plan: Plan, topology: Topology) -> set[tuple[str, str, str]]:
    """Return (action, kind, name without the topology's) of each change."""
    prefix = f"{topology.name}."
    return {(one.action, one.kind, one.name.removeprefix(prefix)) for one in plan.changes}


def quick(topology: Topology, *doomed: str) -> Plan:
    return make_plan(topology, None, delete_nonempty=doomed, predict=False)


def changed(system: System, *queues, **exchanges: Exchange) -> Topology:
    kept = {**system.topology.exchanges, **exchanges}
    named = {each.name: each for each in queues}
    return replace(system.topology, queues=named, exchanges=kept)


def test_where_everything_is_as_the_topology_says_there_is_nothing_to_change(
    make: Callable[..., System],
) -> None:
    system = make(queue(), sharded(3), queue("mail", exchange="other", routing_keys=("a", "b")))
    system.publish([1, 2])
    plan = make_plan(system.topology, None)
    assert (plan.empty, plan.changes, plan.rings) == (True, (), ())


def test_a_classic_queue_that_was_declared_without_a_type_does_not_differ(
    make: Callable[..., System],
) -> None:
    system = make(queue())
    name = f"{system.topology.name}.work"
    with broker.connect(system.topology) as connection:
        wanted = dict(inventory.take(system.topology).queues[name].arguments)
        assert wanted.pop("x-queue-type") == "classic"
        channel = connection.channel()
        channel.queue_delete(name)
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=wanted)
    assert all(change.kind != "queue" for change in quick(system.topology).changes)
    topology_setup.set_up(system.topology)
    assert quick(system.topology).empty


def test_every_kind_of_difference_is_reported_with_its_reason(make: Callable[..., System]) -> None:
    system = make(
        queue(routing_keys=("", "old")),
        queue("kept"),
        queue("gone", exchange="other", routing_keys=("g",)),
    )
    wanted = changed(
        system,
        queue(routing_keys=("", "new")),
        queue("kept", max_length=7),
        queue("added"),
        other=Exchange("other", "direct"),
        more=Exchange("more", "fanout"),
    )
    plan = quick(wanted)
    assert reported(plan, wanted) >= {
        ("create", "exchange", "more"),
        ("change", "exchange", "other"),
        ("create", "queue", "added"),
        ("change", "queue", "kept"),
        ("create", "binding", "work"),
        ("delete", "binding", "work"),
        ("delete", "queue", "gone"),
        ("delete", "queue", "gone.dead"),
    }
    reasons = {one.name.removeprefix(f"{wanted.name}."): one.reason for one in plan.changes}
    assert reasons["kept"].startswith("x-max-length none to 7: replaced by a new queue")
    assert reasons["gone"] == "no longer in the topology; it is empty"
    assert plan.counts()["dangerous"] == 0


def test_a_plan_changes_nothing_on_the_broker(make: Callable[..., System]) -> None:
    system = make(queue(), sharded(2), queue("gone", exchange="other", routing_keys=("g",)))
    system.publish([1, 2, 3])
    before = inventory.take(system.topology)
    wanted = changed(
        system, queue(max_length=9), sharded(5), queue("new", exchange="other", routing_keys=("n",))
    )
    quick(wanted)
    assert inventory.take(wanted) == before


def test_a_queue_that_is_not_empty_and_that_nobody_reads_is_dangerous_unless_it_is_named(
    make: Callable[..., System],
) -> None:
    system = make(queue(), queue("gone", exchange="other", routing_keys=("g",)))
    with system.bus() as bus:
        bus.publish("other", {"n": 1}, "g")
    wanted = changed(system, queue())
    (danger,) = quick(wanted).dangers
    assert (danger.name, danger.messages) == (f"{wanted.name}.gone", 1)
    assert "--delete-nonempty gone" in danger.reason
    named = quick(wanted, "gone")
    assert named.dangers == ()
    assert f"{wanted.name}.gone" in named.work.nonempty


def test_a_removed_queue_that_somebody_reads_is_emptied_first(make: Callable[..., System]) -> None:
    system = make(queue(), queue("gone", exchange="other", routing_keys=("g",)))
    with system.bus() as bus, broker.connect(system.topology) as connection:
        bus.publish("other", {"n": 1}, "g")
        channel = connection.channel()
        channel.basic_qos(0, 1, False)
        channel.basic_consume(f"{system.topology.name}.gone", callback=lambda _: None)
        plan = quick(changed(system, queue()))
        channel.close()
    assert plan.dangers == ()
    assert plan.work.leaving[0] == f"{system.topology.name}.gone"


def test_a_name_that_is_not_to_go_is_reported(make: Callable[..., System]) -> None:
    system = make(queue())
    assert "--delete-nonempty wrk" in quick(system.topology, "wrk").notes[0]


@ON_EMBEDDED
def test_a_ring_that_changes_is_reported_with_its_shares_and_its_backlog(
    make: Callable[..., System],
) -> None:
    system = make(sharded(3, batch=BATCH))
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": n}, str(n)) for n in range(40)])
    wanted = changed(system, sharded(4, batch=BATCH))
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
    plan = make_plan(changed(system, sharded(5)), None)
    (wait,) = plan.rings[0].waits
    assert (wait.shard, wait.messages, wait.seconds) == ("shard_1", len(keys), None)
    assert set(wait.moved_to) == {"shard_3", "shard_4"}
    show(plan, as_json=False)
    assert (
        f"keys that move from shard_1 to {', '.join(wait.moved_to)} wait for its {len(keys)}"
        " messages (no rate is known, since it handles none now)"
    ) in capsys.readouterr().out


@ON_EMBEDDED
def test_keys_wait_for_the_shards_of_every_generation_that_drains(
    make: Callable[..., System],
) -> None:
    system = make(sharded(2))
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": n}, str(n)) for n in range(40)])
    second = changed(system, sharded(3))
    topology_setup.set_up(second)
    with replace(system, topology=second).bus() as bus:
        bus.publish_many("ring", [({"n": n}, str(n)) for n in range(60)])
    (ring,) = make_plan(changed(system, sharded(4)), None).rings
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
    (ring,) = make_plan(changed(system, weighted), None).rings
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
    (ring,) = make_plan(changed(system, sharded(3)), None).rings
    over.set()
    handling.join()
    assert ring.backlog_messages == 30
    assert ring.drain_seconds is not None
    assert {wait.shard: wait.seconds is None for wait in ring.waits} == {
        "shard_0": False,
        "shard_1": True,
    }


def test_weights_arguments_and_removed_rings_each_have_their_reason(
    make: Callable[..., System],
) -> None:
    system = make(sharded(2), queue())
    heavier = changed(system, sharded(2, weights=(1, 3)), queue())
    shorter = changed(system, sharded(2, max_length=3), queue())
    assert quick(heavier).rings[0].reason == "weights differ: shard_1 1 to 3"
    assert quick(shorter).rings[0].reason == "its queues' arguments differ"
    exchanges = {"work": system.topology.exchanges["work"]}
    without = replace(system.topology, exchanges=exchanges, queues={"work": queue()})
    plan = quick(without)
    names, generation = Names(system.topology), system.topology.generation("ring")
    gone = {f"{names.member(generation, member)}" for member, _ in generation.members}
    assert gone | {names.ledger("ring"), names.held("ring")} <= set(plan.work.deleted_queues)
    assert plan.work.deleted_exchanges[0] == names.exchange("other")
    assert {names.exchange("ring"), names.ring(generation)} <= set(plan.work.deleted_exchanges)
    assert plan.dangers == ()


def test_foreign_names_are_nobodys_business(make: Callable[..., System]) -> None:
    system = make(queue())
    name = system.topology.name
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        channel.queue_declare(f"{name}x.foreign", durable=True, auto_delete=False)
        channel.queue_bind(f"{name}.work", "amq.topic", "theirs")
        plan = quick(system.topology)
        channel.queue_delete(f"{name}x.foreign")
        channel.close()
    assert plan.empty


def test_a_management_api_that_does_not_answer_says_what_to_set(rabbitmq, tmp_path: Path) -> None:
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    close_bound()
    nobody = replace(system.topology, management_url=parse_management_url("http://127.0.0.1:1"))
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:1 cannot be read.*\[broker\] management"):
        inventory.take(nobody)
    stranger = rabbitmq.management_url.replace("://", "://nobody:wrong@")
    with pytest.raises(UsageError, match="does not know 'nobody' with this password"):
        inventory.take(replace(system.topology, management_url=parse_management_url(stranger)))


@pytest.mark.parametrize(
    ("url", "reported_url", "expected"),
    [
        ("amqp://a:b%40@rabbit/vh", None, ("http://rabbit:15672", "a", "b@", "vh")),
        ("amqps://a:b@rabbit:5671//", None, ("https://rabbit:15671", "a", "b", "/")),
        ("amqp://[::1]:5672", None, ("http://[::1]:15672", "guest", "guest", "/")),
        ("amqp://a:b@r/", "https://x:y@m/api-of-it/", ("https://m/api-of-it", "x", "y", "/")),
        ("amqp://a:b@r1/;amqp://c:d@r2/", None, ("http://r1:15672", "a", "b", "/")),
    ],
)
def test_the_management_api_is_found_by_the_brokers_url(
    tmp_path: Path, url: str, reported_url: str | None, expected: tuple[str, ...]
) -> None:
    given = parse_management_url(reported_url) if reported_url else None
    broker_url = parse_broker_url(url)
    topology = Topology("t", tmp_path / "t.toml", broker_url, {}, {}, management_url=given)
    api = management.Api.of(topology.broker_url, topology.management_url)[0]
    assert (str(api.url), api.url.user, api.url.password, api.virtual_host) == expected


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


def test_what_becomes_of_watchers_is_part_of_the_plan(make: Callable[..., System]) -> None:
    system = make(queue())
    watchers = Watchers(7, ("new",), {"work": "its settings differ"}, ("old",), ("kept",))
    plan = make_plan(system.topology, watchers)
    assert reported(plan, system.topology) == {
        ("create", "consumer", "new"),
        ("change", "consumer", "work"),
        ("delete", "consumer", "old"),
    }
    assert plan.report()["consumers"]["untouched"] == ["kept"]


def test_the_commands_print_a_plan_and_check_reports_by_its_exit_code(tmp_path: Path) -> None:
    project = Project.at(tmp_path, "pass")
    planned = project.feedbus("plan", "--check", code=1).stdout
    assert "+ queue     small.work" in planned
    assert "\033" not in planned
    assert not (tmp_path / "var").exists() or not (tmp_path / "var" / "broker.db").exists()
    dry = project.feedbus("apply", "--dry-run").stdout
    assert dry == planned
    project.feedbus("apply")
    assert "nothing to change" in project.feedbus("plan", "--check").stdout
    report = json.loads(project.feedbus("plan", "--json").stdout)
    assert (report["changes"], report["rings"], report["consumers"]) == ([], [], None)


def test_help_shows_examples() -> None:
    for name in ("plan", "apply"):
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0
        assert "Examples:" in result.output
