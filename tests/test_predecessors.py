"""Which records wait for which old queues after a switch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedbus.broker_names import Names
from feedbus.generations import predecessors
from feedbus.generations.predecessors import Predecessors
from feedbus.generations.ring_state import RingState
from feedbus.ring import Ring
from feedbus.topology import Exchange, Generation, Topology
from feedbus.urls import parse_broker_url
from tests.small_topologies import sharded


def topology(exchange: Exchange | None = None, **options: object) -> Topology:
    queue = sharded(2, **options)
    return Topology(
        name="p",
        path=Path("topology.toml"),
        broker_url=parse_broker_url("sqlite:///x.db"),
        exchanges={"ring": exchange or Exchange("ring", "x-consistent-hash", 0)},
        queues={queue.name: queue},
    )


NAMES = Names(topology())
weights = st.lists(st.integers(1, 3), min_size=1, max_size=5)


def generation(turn: int, of_members: list[int]) -> Generation:
    members = tuple((f"shard_{n}", weight) for n, weight in enumerate(of_members))
    return Generation("ring", members, turn)


@given(st.lists(weights, min_size=2, max_size=4), st.data())
def test_a_key_waits_for_exactly_the_existing_older_queues_that_had_it(rings, data):
    generations = [generation(turn, members) for turn, members in enumerate(rings)]
    state = RingState(generations[-1], tuple(generations[:-1]))
    queues = [queue for old in state.draining for queue in NAMES.members(old)]
    existing = data.draw(st.sets(st.sampled_from(queues)))
    scattered = data.draw(st.sets(st.sampled_from([old.number for old in state.draining])))
    key = data.draw(st.text(max_size=8))
    turn = data.draw(st.integers(0, len(rings) - 1))
    found = Predecessors(NAMES, replace(state, disordered_draining=tuple(scattered)), existing)
    expected = set()
    for old in generations[:turn]:
        for member, _ in old.members:
            queue = NAMES.member(old, member)
            had_key = old.number in scattered or Ring.of(old.members).route(key) == member
            if had_key and queue in existing:
                expected.add(queue)
    assert found.queues_before(turn, key) == expected


def test_a_deleted_queue_is_waited_for_no_more():
    old = generation(0, [1])
    (queue,) = NAMES.members(old)
    found = Predecessors(NAMES, RingState(generation(1, [1, 1]), (old,)), [queue])
    assert found.queues_before(1, "k") == {queue}
    assert found.oldest_generation_number == 0
    found.forget_deleted([queue])
    assert found.queues_before(1, "k") == set()
    assert found.oldest_generation_number is None


@pytest.mark.parametrize(
    ("options", "arguments", "known"),
    [
        ({}, {}, True),
        ({"order_by": "customer"}, {}, True),
        ({"order_by": False}, {}, False),
        ({"block_on_dead": True}, {}, False),
        ({}, {"hash-header": "x"}, False),
        ({}, {"hash-property": "message_id"}, False),
    ],
)
def test_all_old_queues_are_waited_for_where_that_of_a_key_is_not_known(options, arguments, known):
    given_options = {"order_by": True, "single_active_consumer": True} | options
    exchange = Exchange("ring", "x-consistent-hash", 0, arguments=arguments)
    system = topology(exchange, **given_options)
    assert predecessors.are_known(system, system.queues["shard"]) is known
