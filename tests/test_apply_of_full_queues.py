"""Applying a change of shards whose queues are full, after an apply that was killed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from feedbus import broker
from feedbus.apply import apply
from feedbus.broker.publisher import publish_all
from feedbus.broker_names import Names
from feedbus.plan.planning import make_plan
from feedbus.ring import Ring
from feedbus.wire import Outgoing
from tests.applying import switch_killed
from tests.projects import wait_until
from tests.ring_switches import publish, state
from tests.small_topologies import sharded
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded")


class Consumers:
    """A supervisor whose consumers do not end: only messages notify them of another ring.

    Attributes:
        seen: the numbers of the records, in the order in which they were handled.

    """

    def __init__(self, stack: ExitStack, system: System) -> None:
        """Run the consumers of a system until the stack is closed."""
        self.seen: list[int] = []
        self.wanted = system
        self._stack = stack
        self._names: set[str] = set()
        self.change_topology()
        wait_until(lambda: self._are_subscribed(system))

    def _are_subscribed(self, system: System) -> bool:
        names, generation = Names(system.topology), system.topology.generation("ring")
        with broker.connect(system.topology) as connection:
            return all(
                broker.count_consumers(connection, each) for each in names.members(generation)
            )

    def apply(self, system: System) -> None:
        """Apply a system until its old queues are deleted."""
        self.wanted, topology = system, system.topology
        plan = make_plan(topology, None, predict=False)
        apply(topology, plan, self, wait=True, report=lambda _: None, progress=lambda _: None)

    def pause(self, consumers: object) -> None:
        """Do nothing."""

    def change_topology(self) -> None:
        """Start the consumers that do not run."""
        for name in self.wanted.topology.consumers.keys() - self._names:
            self._names.add(name)
            self._stack.enter_context(
                self.wanted.running(lambda record, _: self.seen.append(record["n"]), name)
            )

    def finish(self) -> None:
        """Do nothing."""


def resharded(system: System, shards: int) -> System:
    """Return the system with another number of shards."""
    queue = system.topology.queues["shard"]
    changed = replace(queue, shards=shards, weights=(1,) * shards)
    return System(replace(system.topology, queues={"shard": changed}))


def key_of(system: System, shard: str) -> str:
    """Return a key of a shard."""
    ring = Ring.of(system.topology.generation("ring").members)
    return next(each for each in map(str, range(99)) if ring.route(each) == shard)


@pytest.fixture(params=[True, False], ids=["ordered", "unordered"], name="first")
def one_shard(make: Callable[..., System], request: pytest.FixtureRequest) -> System:
    """Return a system of one shard, whose queue has room for one message."""
    full = {"max_length": 1, "overflow": "reject-publish", "prefetch": 1}
    return make(sharded(1, **full, order_by=request.param))


@pytest.fixture
def consumers(first: System) -> Iterator[Consumers]:
    """Run the consumers of the first ring."""
    with ExitStack() as stack:
        yield Consumers(stack, first)


def handles_both(consumers: Consumers, system: System) -> bool:
    """Apply a system; return whether two records are handled, and the old queues are deleted."""
    applying = threading.Thread(target=consumers.apply, args=(system,), daemon=True)
    applying.start()
    wait_until(lambda: consumers.seen == [1, 2] and not applying.is_alive())
    return state(system).draining == ()


SHARDS = pytest.mark.parametrize("shard", ["shard_0", "shard_1"])  # shard_1 is new


@SHARDS
def test_messages_that_are_held_late_wait_for_consumers_that_know_their_ring(
    first: System, consumers: Consumers, shard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = resharded(first, 2)
    switch_killed(second.topology, "completed", monkeypatch)  # before any consumer is notified
    key = key_of(second, shard)
    publish(second, 1, key)  # it fills the new queue
    held = Names(second.topology).held("ring")
    with broker.connect(second.topology) as connection:
        late = Outgoing(held, key, b'{"n": 2}', "application/json", "")
        assert publish_all(connection, [late]) == []
    assert handles_both(consumers, second)


@SHARDS
def test_held_messages_wait_for_consumers_that_know_the_ring_before(
    first: System, consumers: Consumers, shard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, third = resharded(first, 2), resharded(first, 3)
    switch_killed(second.topology, "completed", monkeypatch)  # before any consumer is notified
    key = key_of(second, shard)
    publish(second, 1, key)  # it fills the queue of the second ring
    switch_killed(third.topology, "disconnected", monkeypatch)
    publish(third, 2, key)  # which is held
    assert handles_both(consumers, third)
