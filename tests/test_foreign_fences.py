"""No message of a foreign publisher ends a queue, moves consumers, or stops them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.errors import UsageError
from feedbus.generations import state_queues, topology_setup
from feedbus.topology import Topology
from feedbus.wire.constants import FENCE
from servers import versions
from tests.small_topologies import BATCH, queue, sharded
from tests.system_fixtures import systems_on
from tests.systems import System, publish_confirmed

FLOOD = state_queues.MAX_STATES + 50


make = systems_on("embedded", *versions.chosen())


def put(
    topology: Topology, name: str, body: bytes = b"", *, times: int = 1, **headers: Any
) -> None:
    """Publish to a queue by its name, as anybody can."""
    with broker.connect(topology) as connection:
        channel = connection.channel()
        message = channel.prepare_message(body, headers=headers, properties={"delivery_mode": 2})
        for _ in range(times):
            publish_confirmed(channel, message, "", name)
        channel.close()


def test_a_foreign_fence_is_a_dead_letter_and_its_neighbours_are_handled(
    make: Callable[..., System],
) -> None:
    system = make(queue())
    system.publish([1])
    put(system.topology, f"{system.topology.name}.work", **{FENCE: "x"})
    system.publish([2])
    put(system.topology, f"{system.topology.name}.work", b'{"n": 3}', **{FENCE: "x"})
    system.publish([4])
    system.run(system.note)
    assert system.seen == [1, 2, 3, 4]
    assert len(system.dead()) == 1
    system.publish([5])
    system.run(system.note)
    assert system.seen == [1, 2, 3, 4, 5]


def test_a_foreign_fence_in_a_shard_ends_it_neither_before_nor_in_a_switch(
    make: Callable[..., System],
) -> None:
    system = make(sharded(1, batch=BATCH))
    names = Names(system.topology)
    old = names.member(system.topology.generation("ring"), "shard_0")
    seen: list[int] = []

    def note(records: Any, _bus: Any) -> None:
        seen.extend(records.column("n"))

    put(system.topology, old, **{FENCE: system.topology.generation("ring").digest})
    system.publish([1, 2], "ring", "k")
    system.run(note, "shard_0", batch=True)
    assert seen == [1, 2]
    put(system.topology, old, **{FENCE: "x"})
    system.publish([3], "ring", "k")
    after = system.reshaped(sharded(2, batch=BATCH)).topology
    put(after, old, b'{"n": 4}')  # behind the fence of feedbus itself
    for name in after.consumers:
        System(after).run(note, name, batch=True)
    assert sorted(seen) == [1, 2, 3, 4]
    with broker.connect(after) as connection:
        assert not broker.queue_exists(connection, old)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[1, 2]",
        b'{"current": [1, [["shard_0", 1]]], "draining": [], "settled": true, "serial": 99}',
        b'{"current": [0], "draining": 7}',
        b"\xff" * 100,
        b"[" * 100_000,
    ],
    ids=["empty", "null", "a list", "an invented ring", "half a state", "no text", "too deep"],
)
def test_a_message_in_place_of_the_state_neither_stops_nor_moves_consumers(
    make: Callable[..., System], body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    system = make(sharded(1, batch=BATCH))
    names = Names(system.topology)
    with broker.connect(system.topology) as connection:
        before = state_queues.states(connection, system.topology)["ring"]
        put(system.topology, names.generations("ring"), body)
        assert state_queues.states(connection, system.topology)["ring"] == before
        put(system.topology, names.generations("ring"), body, times=FLOOD)  # the state is gone
        with caplog.at_level(logging.ERROR):
            assert state_queues.states(connection, system.topology)["ring"] == before
        assert "feedbus did not write" in caplog.text
        topology_setup.set_up(system.topology)
        caplog.clear()
        assert state_queues.states(connection, system.topology)["ring"].current == before.current
        assert not caplog.text
    system.publish([1], "ring", "k")
    system.run(system.note, "shard_0")
    assert system.seen == [1]


def test_where_both_states_are_foreign_it_is_said_what_is_in_the_way(
    make: Callable[..., System],
) -> None:
    system = make(sharded(1))
    names = Names(system.topology)
    both = names.ledger("ring"), names.generations("ring")
    for name in both:
        put(system.topology, name, json.dumps({"hello": "there"}).encode(), times=FLOOD)
    with pytest.raises(UsageError) as caught:
        topology_setup.set_up(system.topology)
    assert all(name in str(caught.value) for name in both)
    assert "delete these queues and the exchange" in str(caught.value)
