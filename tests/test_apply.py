"""Applying a change: its effects; test_interrupted_apply.py is about interruptions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from feedbus import broker
from feedbus.apply import apply, drain_wait, exclusive
from feedbus.apply.drain_wait import LeavingQueues, is_drained
from feedbus.broker import inventory
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
    carry_out,
    consume_ring,
    consume_work,
    killed_at,
    nothing_to_do,
    wait_for_retry,
)
from tests.small_topologies import BATCH, queue, sharded
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", *versions.chosen(), management=True)


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
        (topic, "type is direct on the broker, but topic in the topology;"),
        (back, "type is topic on the broker, but direct in the topology;"),
        (moved, "20: x-dead-letter-exchange is '' on the broker, but "),
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
