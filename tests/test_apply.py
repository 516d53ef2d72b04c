"""Applying a change: its effects, and a crash at any step, which the next apply repairs."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from feedbus import broker
from feedbus.apply import apply, drain_wait, exclusive
from feedbus.apply.drain_wait import LeavingQueues, is_drained
from feedbus.broker import inventory, lookups, queue_arguments, timer
from feedbus.broker_names import Names
from feedbus.clock import VirtualClock
from feedbus.errors import UsageError
from feedbus.generations import topology_setup
from feedbus.plan.changes import Watchers
from feedbus.plan.planning import make_plan
from feedbus.topology import Exchange, RetryPolicy
from servers import versions
from tests.applying import (
    KEYS,
    WAITING,
    carry_out,
    consume_ring,
    consume_work,
    killed_at,
    nothing_to_do,
    publish,
    wait_for_retry,
)
from tests.small_topologies import BATCH, queue, sharded
from tests.system_fixtures import on_broker
from tests.systems import System

PROJECT = Path(__file__).parent.parent
# Passed when nothing runs; those with a supervisor are in tests/integration/test_resharding.py.
STEPS = [
    *("planned", "exchange-deleted", "exchanges-declared"),
    *("gate-put", "gate-closed", "retries-parked", "queue-deleted", "gate-opened"),
    *("held-appended", "gate-gone", "delay-parked", "delay-deleted", "created"),
    *("retries-returned", "unbound", "left-behind"),
    *(
        "declared",
        "written",
        "disconnected",
        "connected",
        "appended",
        "completed",
        "switched",
        "fenced",
    ),
    *("queue-removed", "deleted"),
]
# On RabbitMQ those between which messages go another way: each takes some seconds.
ON_RABBITMQ = (
    "gate-put",
    "gate-closed",
    "queue-deleted",
    "gate-opened",
    "held-appended",
    "disconnected",
)
CRASHES = [
    *(("embedded", step) for step in STEPS),
    *((version, step) for version in versions.chosen() for step in ON_RABBITMQ),
]
WITH_A_SUPERVISOR = {"paused", "followed", "drained", "finished"}


@pytest.fixture(params=["embedded", *versions.chosen()])
def broker_kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make(
    request: pytest.FixtureRequest, tmp_path: Path, broker_kind: str
) -> Iterator[Callable[..., System]]:
    """Make systems on either broker."""
    yield from on_broker(broker_kind, tmp_path, request, management=True)


@pytest.mark.parametrize(("broker_kind", "step"), CRASHES, indirect=["broker_kind"])
def test_an_apply_that_ends_at_any_step_is_ended_by_the_next(
    make: Callable[..., System], step: str
) -> None:
    system = make(
        queue(retry=WAITING, routing_keys=("", "old")),
        sharded(2, batch=BATCH),
        queue("moved", exchange="other", routing_keys=("m",)),
        queue("gone", exchange="other", routing_keys=("g",)),
        pack=5,
    )
    wait_for_retry(system.topology, 99)
    publish(system.topology, 0)
    wanted = system.changed(
        queue(retry=WAITING, max_length=1000),
        sharded(3, batch=BATCH),
        queue("moved", exchange="ring", routing_keys=()),
        other=Exchange("other", "direct", 5),
    )
    if step == "unbound":
        wanted = replace(
            wanted, queues={**wanted.queues, "work": queue(retry=WAITING)}
        )  # only a queue that is not replaced keeps its other bindings
    assert killed_at(step, lambda: carry_out(wanted))
    publish(wanted, 1)
    _, _, reported = carry_out(wanted)
    publish(wanted, 2)
    assert nothing_to_do(wanted), reported
    assert consume_ring(wanted, 3) == {key: [0, 1, 2] for key in KEYS}
    assert consume_work(wanted, 3) == [0, 1, 2]
    seen = inventory.read_inventory(wanted)
    names = Names(wanted)
    work = seen.queues[names.queue(wanted.consumers["work"])]
    assert (
        dict(work.arguments).items()
        >= queue_arguments.declared_arguments(names, wanted.queues["work"]).items()
    )
    assert seen.queues[names.retry_queue(wanted.queues["work"], 600_000)].ready == 1
    left = {name.removeprefix(f"{wanted.name}.") for name in (*seen.queues, *seen.exchanges)}
    assert not {name for name in left if re.search(r"gone|gate|before|parked", name)}
    assert nothing_to_do(wanted)


def test_every_step_has_its_crash_test() -> None:
    found = set()
    for path in (PROJECT / "feedbus").rglob("*.py"):
        found |= set(re.findall(r"\bexit_after_step\(\"([a-z-]+)\"\)", path.read_text()))
    assert found == {*STEPS, *WITH_A_SUPERVISOR}


def test_a_queue_that_is_not_empty_is_not_deleted_unless_it_is_named(
    make: Callable[..., System],
) -> None:
    system = make(queue(), queue("gone", exchange="other", routing_keys=("g",)))
    with system.bus() as bus:
        bus.publish("other", {"n": 1}, "g")
    wanted = system.changed(queue("new", exchange="work"))
    with pytest.raises(
        UsageError, match=r"nothing was changed.*\n.*gone: messages: 1; .*--delete-nonempty"
    ):
        carry_out(wanted)
    assert f"{wanted.name}.new" not in inventory.read_inventory(wanted).queues
    plan, done, _ = carry_out(wanted, "gone")
    assert done
    assert f"{wanted.name}.gone" in plan.work.nonempty
    assert not {f"{wanted.name}.gone", f"{wanted.name}.work"} & {
        *inventory.read_inventory(wanted).queues
    }
    assert nothing_to_do(wanted)


def test_a_queue_that_gets_messages_after_the_plan_is_kept_and_plan_shows_what_to_do(
    make: Callable[..., System],
) -> None:
    system = make(queue(), queue("gone", exchange="other", routing_keys=("g",)))
    wanted = system.changed(queue())
    plan, reported = make_plan(wanted, None, predict=False), list[str]()
    with system.bus() as bus:
        bus.publish("other", {"n": 1}, "g")
    done = apply(wanted, plan, None, wait=True, report=reported.append, progress=lambda _left: None)
    assert not done
    assert (
        f"{wanted.name}.gone was not deleted: it is not empty, because messages have arrived in it"
        " after the plan was made; `feedbus plan` shows how to keep or delete them" in reported
    )
    (danger,) = make_plan(wanted, None, predict=False).dangers
    assert "delete it with its messages: `feedbus apply --delete-nonempty gone`" in danger.reason


def test_two_applies_exclude_each_other(make: Callable[..., System]) -> None:
    system = make(queue())
    with (
        exclusive(system.topology),
        pytest.raises(UsageError, match="another `feedbus apply` is running"),
    ):
        carry_out(system.topology)


def test_a_queue_that_somebody_reads_is_not_replaced_under_them(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedbus.generations.leaving_consumers.LEAVE_SECONDS", 0.3)
    system = make(queue())
    wanted = system.changed(queue(max_length=5))
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        channel.basic_consume(f"{wanted.name}.work", callback=lambda _: None)
        with pytest.raises(UsageError, match=r"still has consumers: stop them"):
            carry_out(wanted)
        channel.close()
    system.publish([1, 2])
    carry_out(wanted)
    assert consume_work(wanted, 2) == [1, 2]


def test_a_queue_is_deleted_although_its_last_consumer_leaves_a_moment_later(
    make: Callable[..., System],
) -> None:
    """A broker counts the consumers of a lost connection until it notices the loss."""
    system = make(queue(), queue("gone", exchange="other", routing_keys=("g",)))
    wanted = system.changed(queue())
    connection = broker.connect(system.topology)
    connection.channel().basic_consume(f"{wanted.name}.gone", callback=lambda _: None)
    leaving = threading.Timer(1.0, connection.close)
    leaving.start()
    _, done, reported = carry_out(wanted)
    leaving.join()
    assert done, reported


def test_up_ends_a_replacement_that_an_apply_left_half_done(make: Callable[..., System]) -> None:
    system = make(queue())
    system.publish([1])
    wanted = system.changed(queue(max_length=5))
    assert killed_at("queue-deleted", lambda: carry_out(wanted))
    System(wanted).publish([2])
    topology_setup.set_up(wanted)
    assert consume_work(wanted, 2) == [1, 2]
    assert nothing_to_do(wanted)


def test_up_refuses_each_object_that_only_apply_replaces_and_names_apply(
    tmp_path: Path,
) -> None:
    system = System.at(tmp_path, queue())
    ordered = system.changed(queue(order_by="n", single_active_consumer=True))
    moved = system.changed(queue(exchange="ring", routing_keys=(), shards=1, weights=(1,)))
    topic = system.changed(queue(), work=Exchange("work", "topic"))
    back = system.changed(queue())
    for topology, reason in (
        (ordered, "work: x-single-active-consumer is not set on the broker, but true in the"),
        (moved, "20: x-dead-letter-exchange is '' on the broker, but "),
        (topic, "type is direct on the broker, but topic in the topology;"),
        (back, "type is topic on the broker, but direct in the topology;"),
    ):
        with pytest.raises(UsageError, match=f"{reason}.*run `feedbus apply`, which"):
            topology_setup.set_up(topology)
        plan, _, _ = carry_out(topology)
        assert not any(" None" in one.reason or "True" in one.reason for one in plan.changes)
        topology_setup.set_up(topology)


def test_shards_with_other_arguments_are_a_new_generation(make: Callable[..., System]) -> None:
    system = make(sharded(2, batch=BATCH))
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": 1, "text": key}, key) for key in KEYS])
    wanted = system.changed(sharded(2, batch=BATCH, max_length=500))
    plan, done, _ = carry_out(wanted)
    assert [ring.reason for ring in plan.rings] == ["its queues' arguments differ"]
    assert not done
    assert consume_ring(wanted, 1) == {key: [1] for key in KEYS}
    assert nothing_to_do(wanted)
    found = [
        one for one in inventory.read_inventory(wanted).queues.values() if ".shard_" in one.name
    ]
    assert [one.arguments["x-max-length"] for one in found] == [500, 500]


def test_what_a_retry_waits_for_is_kept_where_its_queue_is_replaced(
    make: Callable[..., System],
) -> None:
    quick = RetryPolicy((1.0,), "dead-letter")
    system = make(queue(retry=quick))
    wait_for_retry(system.topology, 7)
    wanted = system.changed(queue(retry=quick, max_length=5))
    carry_out(wanted)
    assert consume_work(wanted, 1) == [7]


class RunningNothing:
    """A supervisor without processes."""

    def pause(self, consumers: object) -> None:
        """Do nothing."""

    def change_topology(self) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


def test_an_apply_that_does_not_wait_deletes_retry_queues_only_if_they_are_empty(
    make: Callable[..., System],
) -> None:
    system = make(queue(retry=RetryPolicy((3600.0,), "dead-letter")))
    wait_for_retry(system.topology, 7)
    wanted = system.changed(queue(retry=RetryPolicy((5.0,), "dead-letter")))
    names = Names(wanted)

    def apply_now() -> bool:
        return apply(
            wanted,
            make_plan(wanted, None, predict=False),
            RunningNothing(),
            wait=False,
            report=lambda _: None,
            progress=lambda _: None,
        )

    with broker.connect(wanted) as connection:
        channel = connection.channel()
        channel.basic_consume(names.unsharded(wanted.queues["work"]))
        assert not apply_now()
        channel.queue_purge(names.retry_queue(wanted.queues["work"], 3_600_000))
        assert apply_now()
    assert nothing_to_do(wanted)


def test_an_apply_that_does_not_wait_returns_at_once_if_a_queue_cannot_have_only_a_fence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System.at(tmp_path, *(queue(name) for name in ("work", "other", "more", "gone")))
    clock = VirtualClock()
    left: list[int] = []
    with broker.connect(system.topology) as connection, monkeypatch.context() as patch:
        patch.setattr(drain_wait.broker, "clock", lambda _: clock)
        channel = connection.channel()
        gone = Names(system.topology).unsharded(system.topology.queues["gone"])
        leaving = LeavingQueues(connection, system.topology, [gone])
        for count, waits in ((1, True), (2, False)):
            channel.basic_publish(channel.prepare_message("{}"), "", gone)
            start = clock.monotonic()
            assert not is_drained(connection, system.topology, leaving, left.append)
            assert left[-1] == count
            assert (clock.monotonic() > start) == waits


def test_a_queue_that_is_named_is_deleted_without_waiting_for_its_retries(
    make: Callable[..., System],
) -> None:
    hourly = RetryPolicy((3600.0,), "dead-letter")
    system = make(queue(), queue("gone", exchange="other", routing_keys=("g",), retry=hourly))
    wait_for_retry(system.topology, 7, "gone")
    wanted = system.changed(queue(exchange="other"))
    left: list[int] = []

    class StillWaitsError(Exception):
        pass

    def note(messages: int) -> None:
        left.append(messages)
        if messages:
            raise StillWaitsError

    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        channel.basic_consume(f"{wanted.name}.gone")

        class Ending(RunningNothing):
            def finish(self) -> None:
                channel.close()

        watchers = Watchers(7, removed=("gone",))
        plan = make_plan(wanted, watchers, delete_nonempty=("gone",), predict=False)
        delay = f"{wanted.name}.gone.retry.3600000"
        assert delay in plan.work.queues_to_empty
        assert delay in plan.work.nonempty
        assert apply(wanted, plan, Ending(), wait=True, report=lambda _: None, progress=note)
    assert left == [0]
    assert nothing_to_do(wanted)


def test_plan_finds_what_of_the_timer_is_not_as_it_should_be_and_apply_mends_it(
    make: Callable[..., System],
) -> None:
    system = make(queue())
    names = Names(system.topology)
    with system.bus() as bus:
        bus.publish("work", {"n": 1}, delay="2h")
    assert nothing_to_do(system.topology)
    wrong, missing = names.timer_queue(4, 3), names.timer_queue(4, 5)
    guard = names.timer_guard("removed")
    with broker.connect(system.topology) as connection:
        channel = connection.default_channel
        channel.queue_delete(missing)
        channel.queue_delete(wrong)
        arguments = queue_arguments.auxiliary_arguments({"x-message-ttl": 7_000}, quorum=True)
        channel.queue_declare(wrong, durable=True, auto_delete=False, arguments=arguments)
        channel.exchange_declare(guard, "direct", durable=True, auto_delete=False)
        plan, done, _ = carry_out(system.topology)
        assert done
        changes = {(each.action, each.name): each.reason for each in plan.changes}
        assert set(changes) == {("create", missing), ("delete", wrong), ("delete", guard)}
        assert "x-message-ttl: 7000 -> 196608" in changes["delete", wrong]
        assert nothing_to_do(system.topology)
        assert not lookups.exchange_exists(connection, guard)
        assert timer.count_delayed(connection, names) == timer.DelayedCounts(1, 0)
        # Their place waits again until they are on the broker's disk.
        assert not lookups.exchange_exists(connection, names.timer_written(4))


def test_plan_finds_what_bindings_of_the_timer_are_missing_or_foreign_and_apply_mends_them(
    make: Callable[..., System],
) -> None:
    system = make(queue())
    names = Names(system.topology)
    with system.bus() as bus:
        bus.publish("work", {"n": 1}, delay="2h")
    place, below = names.timer_position(4), names.timer_position(3)
    three, five = names.timer_queue(4, 3), names.timer_queue(4, 5)
    guard, work = names.timer_guard("work"), names.exchange("work")
    header = {"x-match": "all", "feedbus-timer-4": "3"}
    with broker.connect(system.topology) as connection:
        channel = connection.default_channel
        channel.queue_unbind(three, place, "", arguments=header)
        channel.queue_bind(five, place, "", arguments=header)
        channel.exchange_unbind(
            below, place, "", arguments={"x-match": "all", "feedbus-timer-4": "0"}
        )
        channel.exchange_unbind(work, guard, "")
        channel.queue_bind(names.queue(system.topology.consumer("work")), names.timer_due, "")
        plan, done, _ = carry_out(system.topology)
        assert done
        changes = {(each.action, each.name): each.reason for each in plan.changes}
        assert changes == {
            ("create", three): f"missing; it brings delayed messages from {place}",
            ("create", below): f"missing; it brings delayed messages from {place}",
            ("create", work): f"missing; it brings delayed messages from {guard}",
            (
                "delete",
                five,
            ): "not declared by feedbus; with this binding,"
            f" delayed messages of {place} arrive twice",
            ("delete", names.queue(system.topology.consumer("work"))): "not declared by feedbus;"
            f" with this binding, delayed messages of {names.timer_due} arrive twice",
        }
        assert {each.kind for each in plan.changes} == {"binding"}
    assert nothing_to_do(system.topology)
