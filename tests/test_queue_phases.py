"""The phases of a queue during a switch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.clock import VirtualClock
from feedbus.generations import state_queues, topology_setup
from feedbus.generations.queue_phases import generations_since, phase_of
from feedbus.generations.ring_state import RingState
from feedbus.transports import memory
from feedbus.urls import BrokerUrl
from tests.applying import switch_killed
from tests.small_topologies import sharded
from tests.system_fixtures import closing_store
from tests.systems import System


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with closing_store():
        yield System.at(tmp_path, sharded(1))


def phase(system: System, queue: str) -> str:
    with broker.connect(system.topology) as connection:
        return phase_of(connection, system.topology, system.topology.consumer("shard_0"), queue)


def first_queue(system: System) -> str:
    (queue,) = Names(system.topology).members(system.topology.generation("ring"))
    return queue


def test_the_queue_of_the_current_ring_is_in_use(system):
    assert phase(system, first_queue(system)) == "in use"


def test_an_old_queue_ends_when_the_switch_is_complete(system, monkeypatch):
    old, changed = first_queue(system), System(system.changed(sharded(2)))
    switch_killed(changed.topology, "appended", monkeypatch)
    assert phase(changed, old) == "switching"
    topology_setup.set_up(changed.topology)
    assert phase(changed, old) == "ending"


def test_a_consumer_does_not_wait_for_the_lock_to_learn_the_phase_of_a_queue(tmp_path):
    clock = VirtualClock(seed=1)
    memory.create(memory.MemoryBroker("phases", clock=clock))
    try:
        with closing_store():
            system = System.at(tmp_path, sharded(1), broker_url=BrokerUrl.in_memory("phases"))
            begun_at = clock.monotonic()
            with (
                broker.connect(system.topology) as connection,
                broker.locked(connection, system.topology),
            ):
                assert phase(system, first_queue(system)) == "switching"
            assert clock.monotonic() < begun_at + 1
            assert phase(system, first_queue(system)) == "in use"
    finally:
        memory.remove("phases")


def test_a_queue_older_than_the_one_before_a_switch_ends_while_the_switch_goes_on(
    system, monkeypatch
):
    oldest = first_queue(system)
    second, third = (System(system.changed(sharded(shards))) for shards in (2, 3))
    topology_setup.set_up(second.topology)
    switch_killed(third.topology, "appended", monkeypatch)
    assert phase(third, oldest) == "ending"
    newer = Names(third.topology).members(_state(third).draining[-1])
    assert {phase(third, each) for each in newer} == {"switching"}


def _state(system: System) -> RingState:
    with broker.connect(system.topology) as connection:
        return state_queues.states(connection, system.topology)["ring"]


def test_the_generations_since_an_old_queue_end_with_the_current_one(system):
    old = first_queue(system)
    last = system.reshaped(sharded(2)).reshaped(sharded(3))
    with (
        broker.connect(last.topology) as connection,
        broker.locked(connection, last.topology),
    ):
        channel = connection.channel()
        found = generations_since(channel, last.topology, "ring", old)
        assert [len(each.members) for each in found] == [1, 2, 3]
        (current, *_) = Names(last.topology).members(found[-1])
        assert generations_since(channel, last.topology, "ring", current) == ()
