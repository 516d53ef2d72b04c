"""A switch of rings whose queues are full and refuse messages."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.errors import UsageError
from feedbus.generations import switch, topology_setup
from feedbus.generations.probes import FULL_SECONDS
from feedbus.generations.queue_phases import phase_of
from feedbus.ring import Ring
from feedbus.runner import fences
from feedbus.runner.subscriptions import Subscriptions
from feedbus.topology import Topology
from servers import versions
from tests.applying import Killed, switch_killed
from tests.projects import PATIENCE_SECONDS, wait_until
from tests.ring_switches import publish, state
from tests.small_topologies import sharded
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", *versions.chosen())

FULL: dict[str, Any] = {"max_length": 1, "overflow": "reject-publish", "prefetch": 1}


@contextmanager
def running(topology: Topology, seen: list[int]) -> Iterator[None]:
    """Run all consumers of a topology, again and again, until the end of the block."""
    over = threading.Event()

    def consume(name: str) -> None:
        while not over.is_set():
            System(topology).run(lambda one, _: seen.append(one["n"]), name, idle_seconds=0.5)

    threads = [threading.Thread(target=consume, args=(name,)) for name in topology.consumers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def with_full_shards(system: System, shards: int, **options: Any) -> System:
    """Return a system with another number of shards; each shard has room for one message."""
    queues = {"shard": sharded(shards, **FULL, **options)}
    return System(replace(system.topology, queues=queues))


def one_shard_less(make: Callable[..., System], *, order_by: bool) -> tuple[System, System, str]:
    """Fill the second shard of a ring; return the system, the one without the shard, and a key."""
    system = make(sharded(2, **FULL, order_by=order_by))
    ring = Ring.of(system.topology.generation("ring").members)
    key = next(each for each in map(str, range(99)) if ring.route(each) == "shard_1")
    publish(system, 1, key)
    return system, with_full_shards(system, 1, order_by=order_by), key


def waiting_for_room(topology: Topology) -> threading.Thread:
    """Set up a topology in a thread, which is returned when it waits for room in a full queue."""
    waits = threading.Event()
    up = threading.Thread(
        target=topology_setup.set_up, args=(topology,), kwargs={"on_full": waits.set}
    )
    up.start()
    assert waits.wait(PATIENCE_SECONDS)
    return up


def test_a_full_queue_that_refuses_messages_is_drained_after_a_switch(
    make: Callable[..., System],
) -> None:
    full = {"max_length": 2, "overflow": "reject-publish", "prefetch": 1}
    system = make(sharded(1, **full))
    for number in (1, 2):
        publish(system, number)
    after = System(replace(system.topology, queues={"shard": sharded(2, **full)}))
    topology_setup.set_up(after.topology)  # which no consumer reads meanwhile
    owner = Ring.of(after.topology.generation("ring").members).route("k")
    publish(system, 3)
    seen: list[int] = []
    for name in ("shard_0", owner):
        after.run(lambda record, _bus: seen.append(record["n"]), name, idle_seconds=1.5)
    assert seen == [1, 2, 3]
    assert state(system).draining == ()


def test_a_switch_that_is_interrupted_again_and_again_fills_no_old_queue_with_fences(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(sharded(1, **FULL))
    after = with_full_shards(system, 2)
    ring = Ring.of(after.topology.generation("ring").members)
    key = next(each for each in map(str, range(99)) if ring.route(each) == "shard_0")
    (old,) = Names(system.topology).members(system.topology.generation("ring"))
    seen: list[int] = []

    def end(_code: int) -> None:
        raise Killed

    def has_reader() -> bool:
        with broker.connect(system.topology) as connection:
            return bool(broker.count_consumers(connection, old))

    with system.running(lambda record, _: seen.append(record["n"]), "shard_0"):
        wait_until(has_reader)
        for _ in range(3):
            with monkeypatch.context() as patch, suppress(Killed):
                patch.setattr(os, "_exit", end)
                patch.setenv(switch.EXIT_AT, "fenced")
                topology_setup.set_up(after.topology)
        topology_setup.set_up(after.topology)
        publish(after, 1, key)
        wait_until(lambda: seen == [1])


def test_the_lock_is_free_while_held_messages_wait_for_a_full_queue(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(sharded(1, **FULL))
    publish(system, 1)
    after = with_full_shards(system, 2)
    switch_killed(after.topology, "disconnected", monkeypatch)
    publish(system, 2)  # which is held
    up = waiting_for_room(after.topology)

    def is_free() -> bool:
        try:
            with broker.locked(connection, after.topology, wait_seconds=0.0):
                return not state(system).switch_complete
        except UsageError:
            return False

    with broker.connect(after.topology) as connection:
        wait_until(is_free)
    seen: list[int] = []
    with running(after.topology, seen):
        up.join()
        wait_until(lambda: len(seen) == 2)
    assert seen == [1, 2]
    assert state(system).switch_complete


@pytest.mark.parametrize("order_by", [True, False])
def test_the_consumer_of_a_removed_shard_makes_room_for_the_switch_also_after_a_restart(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch, *, order_by: bool
) -> None:
    system, after, key = one_shard_less(make, order_by=order_by)
    switch_killed(after.topology, "disconnected", monkeypatch)
    publish(system, 2, key)  # which is held
    up = waiting_for_room(after.topology)
    seen: list[int] = []
    with system.running(lambda record, _: seen.append(record["n"]), "shard_1") as consumer:
        up.join()
        consumer.join()  # it ends when the switch is complete
    with running(after.topology, seen):
        wait_until(lambda: seen == [1, 2] and not state(system).draining)


@pytest.mark.parametrize("order_by", [True, False])
def test_a_switch_waits_for_room_while_the_queues_of_the_one_before_it_are_drained(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch, *, order_by: bool
) -> None:
    system = make(sharded(1, **FULL, order_by=order_by))
    publish(system, 1)
    second, third = (with_full_shards(system, shards, order_by=order_by) for shards in (2, 3))
    topology_setup.set_up(second.topology)
    publish(system, 2)
    switch_killed(third.topology, "disconnected", monkeypatch)
    publish(system, 3)  # which is held
    up = waiting_for_room(third.topology)
    seen: list[int] = []
    with running(third.topology, seen):
        up.join()
        wait_until(lambda: len(seen) == 3 and not state(system).draining)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("order_by", [True, False])
def test_a_consumer_that_subscribes_only_after_a_switch_ends_its_full_queue(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch, *, order_by: bool
) -> None:
    system = make(sharded(1, **FULL, order_by=order_by))
    publish(system, 1)
    after = with_full_shards(system, 2, order_by=order_by)
    seen: list[int] = []
    with monkeypatch.context() as patch:
        subscribe = Subscriptions.subscribe

        def switch_first(self: Subscriptions, connection: Any) -> None:
            patch.undo()
            topology_setup.set_up(after.topology)
            subscribe(self, connection)

        patch.setattr(Subscriptions, "subscribe", switch_first)
        with after.running(lambda record, _: seen.append(record["n"]), "shard_0"):
            wait_until(lambda: seen == [1] and not state(system).draining)


def test_a_consumer_checks_once_whether_its_queue_was_replaced_before_it_subscribed(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(sharded(1, **FULL))
    phases: list[str] = []

    def noted_phase(*arguments: Any) -> str:
        phases.append(phase_of(*arguments))
        return phases[-1]

    monkeypatch.setattr(fences, "phase_of", noted_phase)
    publish(system, 1)
    system.run(lambda *_: None, "shard_0", idle_seconds=3 * FULL_SECONDS)
    assert phases == ["in use"]
