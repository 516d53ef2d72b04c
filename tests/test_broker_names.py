"""The names of the objects on the broker are read as they were built."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedbus.broker_names import Derived, Names, Role, belongs_to_queue, derived, queue_of
from feedbus.topology import Consumer
from tests.small_topologies import undeclared

TOPOLOGY = undeclared()
NAMES = Names(TOPOLOGY)
SHARDED = TOPOLOGY.queues["shard"]
SHARD = Consumer("shard_1", SHARDED, 1, 1)
RING = TOPOLOGY.generation("ring")
MEMBER = NAMES.member(RING, "shard_1")
BUILT = {
    Role.DEAD: (NAMES.dead(SHARDED), "t.shard"),
    Role.BEFORE: (NAMES.before(SHARD), "t.shard_1"),
    Role.GATE: (NAMES.gate(SHARD), "t.shard_1"),
    Role.GATE_HELD: (NAMES.gate_held(SHARD), "t.shard_1"),
    Role.WAITING: (NAMES.waiting(MEMBER), "t.shard_1"),
    Role.RETRY: (NAMES.retry_queue(SHARDED, 1500), "t.shard"),
    Role.PARKED: (NAMES.parked_retries(NAMES.retry_queue(SHARDED, 1500)), "t.shard"),
    Role.GENERATION: (MEMBER, "t.shard_1"),
    Role.REMOVED: (NAMES.removed(MEMBER), "t.shard_1"),
    Role.PACKS: (NAMES.packs("ring"), "t.ring"),
    Role.HELD: (NAMES.held("ring"), "t.ring"),
    Role.GENERATIONS: (NAMES.generations("ring"), "t.ring"),
    Role.LEDGER: (NAMES.ledger("ring"), "t.ring"),
}


@pytest.mark.parametrize("role", Role)
def test_each_name_that_is_built_is_read_as_its_owner_and_role(role: Role) -> None:
    name, owner = BUILT[role]
    assert derived(name) == Derived(owner, role)


def test_a_ring_has_the_role_of_its_generation() -> None:
    assert derived(NAMES.ring(RING)) == Derived("t.ring", Role.GENERATION)


@given(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.integers(0, 200), st.sampled_from(Role))
def test_what_feedbus_makes_for_a_shard_belongs_to_its_queue(
    queue: str, shard: int, role: Role
) -> None:
    suffix = BUILT[role][0].removeprefix(BUILT[role][1])
    of_a_queue = BUILT[role][1] != "t.ring"
    of_a_shard = of_a_queue and re.match(r"\.[0-9a-f]{8}(\.|$)", suffix) is not None
    assert belongs_to_queue(queue, queue)
    assert belongs_to_queue(f"{queue}{suffix}", queue) == of_a_queue
    assert belongs_to_queue(f"{queue}_{shard}{suffix}", queue) == of_a_shard
    assert not belongs_to_queue(f"{queue}_{shard}", queue)
    assert not belongs_to_queue(f"{queue}x{suffix}", queue)
    assert queue_of(f"{queue}_{shard}") == queue


@pytest.mark.parametrize("name", ["t.shard", "dead", ".dead", "t.shard.0123abc", "t.shard.retry.x"])
def test_a_name_without_a_suffix_of_ours_is_not_read_as_one(name: str) -> None:
    assert derived(name) is None
