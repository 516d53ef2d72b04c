"""The plan for a topology, its broker and its supervisor; it only reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from feedbus import broker
from feedbus.apply import apply
from feedbus.broker import inventory
from feedbus.broker_names import Names
from feedbus.cli import main
from feedbus.cli.plan import _lines
from feedbus.errors import UsageError
from feedbus.generations import topology_setup
from feedbus.plan import Draining, Plan, Watchers
from feedbus.plan.planning import make_plan
from feedbus.topology import Exchange, RetryPolicy, Topology
from servers import versions
from tests.projects import Project
from tests.small_topologies import queue, sharded
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", *versions.chosen(), management=True)


# The shares of a ring are computed, for which the broker does not matter, and take long.
ON_EMBEDDED = pytest.mark.parametrize("make", ["embedded"], indirect=True)


def reported(plan: Plan, topology: Topology) -> set[tuple[str, str, str]]:
    """Return (action, kind, name without the topology's) of each change."""
    prefix = f"{topology.name}."
    return {(one.action, one.kind, one.name.removeprefix(prefix)) for one in plan.changes}


def quick(topology: Topology, *doomed: str) -> Plan:
    return make_plan(topology, None, delete_nonempty=doomed, predict=False)


def test_where_everything_is_as_the_topology_says_there_is_nothing_to_change(
    make: Callable[..., System],
) -> None:
    system = make(queue(), sharded(3), queue("mail", exchange="other", routing_keys=("a", "b")))
    system.publish([1, 2])
    plan = make_plan(system.topology, None)
    assert (plan.empty, plan.changes, plan.rings) == (True, (), ())
    assert plan.notes == ("nothing runs here: `feedbus up` starts the consumers",)


def test_a_classic_queue_that_was_declared_without_a_type_does_not_differ(
    make: Callable[..., System],
) -> None:
    system = make(queue())
    name = f"{system.topology.name}.work"
    with broker.connect(system.topology) as connection:
        wanted = dict(inventory.read_inventory(system.topology).queues[name].arguments)
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
    wanted = system.changed(
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
    assert reasons["kept"].startswith("x-max-length: not set -> 7; replaced by a new queue")
    assert reasons["gone"] == "no longer in the topology; it is empty"
    assert plan.counts()["dangerous"] == 0


@ON_EMBEDDED
def test_the_longest_wait_in_a_retry_queue_is_shown_where_it_is_emptied_first(
    make: Callable[..., System],
) -> None:
    system = make(queue(retry=RetryPolicy((3600.0,), "dead-letter")))
    retries = f"{system.topology.name}.work.retry.3600000"
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        channel.basic_publish(channel.prepare_message("{}"), "", retries)
        channel.basic_consume(f"{system.topology.name}.work", callback=lambda _: None)
        plan = quick(system.changed(queue()))
    reasons = {one.name: one.reason for one in plan.changes if one.kind == "queue"}
    assert reasons[retries] == (
        "no longer part of the retry policy; its consumers empty it first; a message waits in it"
        " for 1h at most"
    )


def test_the_first_ring_is_no_reason_to_speak_of_old_generations(
    make: Callable[..., System],
) -> None:
    system = make(queue())
    wanted = system.changed(queue(), sharded(2))
    plan = quick(replace(wanted, name=f"{wanted.name}-new"))
    assert [ring.exchange for ring in plan.rings] == ["ring"]
    assert plan.notes == ("nothing runs here: `feedbus up` starts the consumers",)


def test_an_argument_without_a_value_is_shown_in_quotes(make: Callable[..., System]) -> None:
    system = make(queue())
    wanted = system.changed(queue(), queue("bare"))
    with broker.connect(wanted) as connection:
        channel = connection.channel()
        name = f"{wanted.name}.bare"
        channel.queue_declare(name, durable=True, auto_delete=False)
        changed = [one for one in quick(wanted).changes if one.action == "change"]
        assert [one.name for one in changed] == [name]
        assert changed[0].reason.startswith("x-dead-letter-exchange: not set -> '', x-dead-letter-")
        channel.queue_delete(name)


def test_a_plan_changes_nothing_on_the_broker(make: Callable[..., System]) -> None:
    system = make(queue(), sharded(2), queue("gone", exchange="other", routing_keys=("g",)))
    system.publish([1, 2, 3])
    before = inventory.read_inventory(system.topology)
    wanted = system.changed(
        queue(max_length=9), sharded(5), queue("new", exchange="other", routing_keys=("n",))
    )
    quick(wanted)
    assert inventory.read_inventory(wanted) == before


def test_a_queue_that_is_not_empty_and_that_nobody_reads_is_dangerous_unless_it_is_named(
    make: Callable[..., System],
) -> None:
    system = make(queue(), queue("gone", exchange="other", routing_keys=("g",)))
    with system.bus() as bus:
        bus.publish("other", {"n": 1}, "g")
    wanted = system.changed(queue())
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
        leaving = Watchers(7, removed=("gone",))
        plan = make_plan(system.changed(queue()), leaving, predict=False)
        channel.close()
    assert plan.dangers == ()
    assert plan.work.queues_to_empty[0] == f"{system.topology.name}.gone"


@pytest.mark.parametrize("watchers", [None, Watchers(7, removed=("other",), kept=("work",))])
def test_a_removed_queue_that_another_program_reads_is_dangerous_even_if_it_is_named(
    make: Callable[..., System], watchers: Watchers | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedbus.generations.leaving_consumers.LEAVE_SECONDS", 0.3)
    system = make(queue(), queue("gone", exchange="other", routing_keys=("g",)))
    before = inventory.read_inventory(system.topology)
    wanted = system.changed(queue())
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        channel.basic_consume(f"{wanted.name}.gone", callback=lambda _: None)
        plan = make_plan(wanted, watchers, delete_nonempty=("gone",), predict=False)
        with pytest.raises(UsageError, match=r"nothing was changed.*\n.*another program consumes"):
            apply(wanted, plan, None, wait=True, report=lambda _: None, progress=lambda _left: None)
        channel.close()
    assert [one.name for one in plan.dangers] == [f"{wanted.name}.gone"]
    after = inventory.read_inventory(wanted)
    assert (after.bindings, after.queues.keys()) == (before.bindings, before.queues.keys())


def test_a_name_that_is_not_to_go_is_reported(make: Callable[..., System]) -> None:
    system = make(queue())
    assert "--delete-nonempty wrk" in quick(system.topology, "wrk").notes[0]


def test_weights_arguments_and_removed_rings_each_have_their_reason(
    make: Callable[..., System],
) -> None:
    system = make(sharded(2), queue())
    heavier = system.changed(sharded(2, weights=(1, 3)), queue())
    shorter = system.changed(sharded(2, max_length=3), queue())
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


RING = """\
name = "shop"
[exchanges]
orders = {{ type = "x-consistent-hash" }}
[queues.work]
exchange = "orders"
handler = "shown_in_plan:work"
shards = {}
"""


def test_apply_shows_every_line_that_plan_shows(tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    (tmp_path / "shown_in_plan.py").write_text(
        "from feedbus import handler\n@handler\ndef work(order: dict) -> None: ...\n"
    )

    def run(*words: str) -> list[str]:
        done = CliRunner().invoke(main, ["--topology", str(path), *words])
        assert done.exit_code == 0, done.output
        return done.output.splitlines()

    for shards in (2, 3):
        path.write_text(RING.format(shards))
        planned = run("plan")
        assert any(line.startswith("    load  ") for line in planned)
        assert any(line.startswith("    keys  ") for line in planned) is (shards > 2)
        assert run("apply", "--no-wait")[: len(planned)] == planned


def test_the_line_about_a_draining_generation_says_what_ends_it() -> None:
    watchers = Watchers(supervisor_pid=1)
    two, none = (Draining("orders", "0bf535f2", messages) for messages in (2, 0))
    plan = Plan(draining=(two, none), watchers=watchers)
    text = "  generation 0bf535f2 of orders drains:"
    delete = "its queues, without another command"
    assert list(_lines(plan)) == [
        f"{text} 2 messages left; the consumers handle them, then delete {delete}",
        f"{text} 0 messages left; the consumers delete {delete}",
        "nothing to change",
    ]


def test_help_shows_examples() -> None:
    for name in ("plan", "apply"):
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0
        assert "Examples:" in result.output
