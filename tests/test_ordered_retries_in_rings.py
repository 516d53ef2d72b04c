"""Records that wait in the order of their keys while their queue ends, on every broker."""

from __future__ import annotations

import time

import pytest

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.ring import Ring
from servers import versions
from tests.ordered_queues import (
    DELAYS,
    ORDERED,
    Failing,
)
from tests.small_topologies import BATCH, sharded
from tests.system_fixtures import systems_on

make = systems_on("embedded", versions.chosen()[-1])


def test_records_that_waited_beside_several_queues_are_not_taken_for_each_other(make):
    options = ORDERED | {"batch": BATCH}
    system = make(sharded(2, **options))
    ring = Ring.of(system.topology.generation("ring").members)
    keys = {ring.route(key): key for key in "abcdefgh"}
    with system.bus() as bus:  # even numbers for one shard, odd ones for the other
        bus.publish_many("ring", [({"n": n}, keys[f"shard_{n % 2}"]) for n in range(8)])
    first = Failing({0: 1, 1: 1})
    for name in sorted(keys):
        assert system.run(first.batch, name, batch=True, max_messages=4) == "handled 4 messages"
    assert first.seen == []  # each waits, at the same places of two queues
    time.sleep(DELAYS.delays_seconds[0])  # then both queues' records are due in one batch
    after = system.reshaped(sharded(1, **options))
    second = Failing({1: 1})  # due after the other one
    after.run(second.batch, "shard_0", batch=True, idle_seconds=3.0, max_runtime_seconds=120.0)
    assert [n for n in second.seen if n % 2 == 0] == [0, 2, 4, 6]
    assert [n for n in second.seen if n % 2] == [1, 3, 5, 7]


@pytest.mark.parametrize("ordered", [True, False])
def test_the_waiting_queues_of_a_ring_are_declared_together_with_its_shards(make, ordered):
    """Consumers would declare them too late: RabbitMQ may lose what a new quorum queue has."""
    system = make(sharded(2, **ORDERED | {"order_by": ordered}))
    names, ring = Names(system.topology), system.topology.generation("ring")
    with broker.connect(system.topology) as connection:
        for member, _ in ring.members:
            waiting = names.waiting(names.member(ring, member))
            assert broker.queue_exists(connection, waiting) == ordered
