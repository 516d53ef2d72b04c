"""Which queues a consumer reads during a switch, and whether a notice divides them again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from feedbus.generations import consumer_queues
from feedbus.generations.consumer_queues import ConsumerQueues
from feedbus.generations.ring_state import RingState, encode_generation
from tests.small_topologies import queue, sharded, undeclared

BEFORE = replace(undeclared().generation("ring"), number=4)
CURRENT = RingState(BEFORE)
NO_CONNECTION: Any = None  # it fails if the state is read


def draining(name: str = "shard_1", state: RingState = CURRENT, **options: Any) -> ConsumerQueues:
    """Return the queues of a shard that knows a state, by default with the generation BEFORE."""
    options = {"order_by": True, **options}
    topology = replace(undeclared(), queues={"shard": sharded(4, **options), "work": queue()})
    return ConsumerQueues(topology, topology.consumer(name), {"ring": state}, lambda: True)


@pytest.mark.parametrize(
    ("turn", "shards", "follows"), [(5, 2, True), (4, 2, False), (3, 2, False), (5, 1, False)]
)
def test_a_notice_of_a_newer_ring_with_this_shard_is_followed_without_the_state(
    turn: int, shards: int, *, follows: bool
) -> None:
    members = tuple((f"shard_{number}", 1) for number in range(shards))
    notice = encode_generation(replace(BEFORE, number=turn, members=members))
    assert draining().is_announced(NO_CONNECTION, notice) is follows


def test_a_consumer_that_cannot_read_two_generations_follows_no_notice() -> None:
    notice = encode_generation(replace(BEFORE, number=5))
    assert not draining(order_by=False).is_announced(NO_CONNECTION, notice)
    assert not draining("work").is_announced(NO_CONNECTION, notice)


@pytest.mark.parametrize("notice", [b"", b"\xff", b"[1]", b"7", b"[[], 1]", b'["5", [["a", {}]]]'])
@pytest.mark.parametrize("turn", [4, 5])
def test_the_state_is_read_if_a_notice_has_no_generation(
    monkeypatch: pytest.MonkeyPatch, notice: bytes, turn: int
) -> None:
    state = RingState(replace(BEFORE, number=turn))
    monkeypatch.setattr(consumer_queues.state_queues, "states", lambda *_: {"ring": state})
    assert draining().is_announced(NO_CONNECTION, notice) is (turn == 5)


@pytest.mark.parametrize("settled", [False, True])
def test_a_shard_that_a_switch_removes_is_read_until_the_switch_is_complete(
    monkeypatch: pytest.MonkeyPatch, *, settled: bool
) -> None:
    monkeypatch.setattr(consumer_queues.broker, "queue_exists", lambda *_: True)
    fewer = replace(BEFORE, number=5, members=(("shard_0", 1),))
    state = RingState(fewer, draining=(BEFORE,), switch_complete=settled)
    removed, kept = draining(state=state), draining("shard_0", state)
    assert kept.removal_reason(NO_CONNECTION) is None
    assert (removed.removal_reason(NO_CONNECTION) is None) is not settled
    if not settled:
        (own,) = next(removed.lists_to_read(NO_CONNECTION))
        assert own.queue.endswith(f"shard_1.{BEFORE.digest}")
        assert own.needs_fence
