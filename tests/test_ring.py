"""Placement on a ring, compared with the placement of RabbitMQ 3.10.8."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedbus.errors import UsageError
from feedbus.ring import Ring, bulk_placement, flows, phash2, placement
from feedbus.ring.jump_hash import CLASSES, ONE, draws, jumper
from feedbus.topology import Generation

OBSERVED = json.loads(
    (Path(__file__).parent / "data" / "consistent_hash_vectors.json").read_text("utf-8")
)
KEYS = [key.encode() for key in OBSERVED["keys"]]
RAW_KEYS = [bytes.fromhex(key) for key in OBSERVED["raw_keys_hex"]]

keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
weights = st.lists(st.integers(1, 5), min_size=1, max_size=6)


def ring_of(sizes: list[int]) -> Ring:
    return Ring.of((f"q{number}", weight) for number, weight in enumerate(sizes))


def ring_after(layout: dict) -> Ring:
    ring = Ring()
    for operation, queue, weight in layout["ops"]:
        if operation == "bind":
            ring.bind(queue, weight)
        else:
            ring.unbind(queue)
    return ring


layouts = pytest.mark.parametrize(
    "layout", OBSERVED["layouts"], ids=[layout["name"] for layout in OBSERVED["layouts"]]
)


def test_hashes_are_those_that_erlang_prints():
    assert [phash2(key) for key in KEYS] == OBSERVED["phash2"]
    assert [phash2(key) for key in RAW_KEYS] == OBSERVED["raw_phash2"]


def test_the_empty_key_hashes_as_in_erlang():
    assert phash2(b"") == 0x08D12E65 & 0x7FFFFFF


@layouts
def test_every_key_goes_where_rabbitmq_put_it(layout):
    ring = ring_after(layout)
    queues = layout["queues"]
    assert [ring.route(key) for key in KEYS] == [queues[i] for i in layout["placement"]]
    assert [ring.route(key) for key in RAW_KEYS] == [queues[i] for i in layout["raw_placement"]]


@layouts
def test_every_text_key_goes_where_rabbitmq_put_it(layout):
    ring = ring_after(layout)
    placed = [ring.route(key) for key in OBSERVED["keys"]]
    assert placed == [layout["queues"][i] for i in layout["placement"]]


@layouts
def test_the_bucket_table_is_the_one_that_rabbitmq_reports(layout):
    ring = ring_after(layout)
    assert [list(run) for run in ring.buckets] == layout["ring"]
    assert len(ring) == sum(weight for _, weight in layout["ring"])


@given(st.integers(0, 2**27 - 1), st.integers(1, 10**12))
def test_jumps_follow_the_stream_as_it_is_defined_however_far_they_go(key_hash, buckets):
    stream = draws(key_hash)
    bucket, following = -1, 0
    while following < buckets:
        bucket = following
        following = int((bucket + 1) / (next(stream) / ONE))
    assert jumper()(key_hash, buckets) == bucket


@given(weights, st.lists(keys))
def test_a_text_and_its_utf_8_bytes_have_one_place(sizes, texts):
    ring = ring_of(sizes)
    assert [ring.route(text) for text in texts] == [ring.route(text.encode()) for text in texts]


@given(weights, st.integers(1, 5), st.lists(keys))
def test_keys_move_only_to_the_queue_that_is_appended(sizes, weight, texts):
    old, new = ring_of(sizes), ring_of(sizes)
    new.bind("appended", weight)
    for text in texts:
        assert new.route(text) in {old.route(text), "appended"}


@given(weights, weights, st.data())
def test_unbinding_moves_the_buckets_above_down(before, after, data):
    ring = ring_of([*before, 2, *after])
    ring.unbind(f"q{len(before)}")
    closed_up = Ring.of(
        (f"q{number}", weight)
        for number, weight in enumerate([*before, 2, *after])
        if number != len(before)
    )
    assert ring.buckets == closed_up.buckets
    for text in data.draw(st.lists(keys, max_size=20)):
        assert ring.route(text) == closed_up.route(text)


def test_a_ring_that_changes_forgets_where_keys_went():
    texts = [str(number) for number in range(200)]
    ring = ring_of([1, 1])
    for change in (lambda: ring.bind("q2", 3), lambda: ring.unbind("q0")):
        for text in texts:
            ring.route(text)
        change()
        fresh = Ring.of(ring.buckets)
        assert [ring.route(text) for text in texts] == [fresh.route(text) for text in texts]


def test_remembered_keys_keep_their_place_and_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(placement, "REMEMBERED", 50)
    ring = ring_of([1] * 10)
    texts = [str(number) for number in range(120)]
    first = [ring.route(text) for text in texts]
    assert [ring.route(text) for text in texts] == first
    assert [ring.route(text) for text in texts[-20:]] == first[-20:]
    assert len(ring._placed) <= 50


@given(st.lists(keys), st.integers(1, 10**6))
def test_many_keys_placed_at_once_go_where_each_goes_alone(texts, buckets):
    alone = [jumper()(phash2(text.encode()), buckets) for text in texts]
    assert bulk_placement.buckets_of(texts, buckets) == alone


def test_tens_of_thousands_of_fresh_keys_are_placed_at_once(monkeypatch):
    members = [(f"q{number}", number + 1) for number in range(7)]
    alone, together = Ring.of(members), Ring.of(members)
    calls, place = [], bulk_placement.buckets_of
    monkeypatch.setattr(
        bulk_placement, "buckets_of", lambda *asked: calls.append(1) or place(*asked)
    )
    for start in range(0, 60_000, 20_000):
        keys = [str(number) for number in range(start, start + 20_000)]
        assert together.route_many(keys) == [alone.route(key) for key in keys]
    assert len(calls) == 2
    with pytest.raises(UsageError):
        Ring().route_many(["a"])


def test_binding_a_queue_again_with_another_weight_changes_nothing():
    ring = ring_of([1, 2, 3])
    ring.bind("q1", 9)
    assert ring.buckets == (("q0", 1), ("q1", 2), ("q2", 3))
    assert len(ring) == 6


def test_unbinding_a_queue_without_buckets_changes_nothing():
    ring = ring_of([1, 2])
    ring.unbind("elsewhere")
    assert ring.buckets == (("q0", 1), ("q1", 2))


def test_a_queue_bound_again_after_unbinding_gets_the_last_buckets():
    ring = ring_of([1, 1])
    ring.unbind("q0")
    ring.bind("q0", 2)
    assert ring.buckets == (("q1", 1), ("q0", 2))


def test_a_ring_without_buckets_is_false_and_refuses_to_route():
    ring = Ring()
    assert not ring
    with pytest.raises(UsageError, match="the ring has no queues"):
        ring.route("1")
    ring.bind("q", 1)
    assert ring
    assert ring.route("1") == "q"
    ring.unbind("q")
    with pytest.raises(UsageError, match="the ring has no queues"):
        ring.route("1")


@pytest.mark.parametrize("weight", [0, -1, 1.5, "1", True, None])
def test_a_weight_that_is_no_positive_integer_is_refused_and_changes_nothing(weight):
    ring = ring_of([1])
    with pytest.raises(UsageError, match="weight of other: expected a positive integer, got"):
        ring.bind("other", weight)
    assert ring.buckets == (("q0", 1),)


def test_a_generation_becomes_a_ring_in_one_call():
    generation = Generation("feed", (("feed_1", 2), ("feed_0", 1)))
    assert Ring.of(generation.members).buckets == generation.members


@given(sizes=st.tuples(st.integers(1, 10_000), st.integers(1, 10_000)), start=st.integers(0))
def test_classes_are_placed_together_as_one_by_one(sizes, start):
    fewer, more = sorted(sizes)
    hashes = [(start + number * 4099) % CLASSES for number in range(100)]
    first, second = bulk_placement.jump(np.array(hashes, np.uint32), fewer, more)
    one_by_one = jumper()
    assert first.tolist() == [one_by_one(each, fewer) for each in hashes]
    assert second.tolist() == [one_by_one(each, more) for each in hashes]


def test_flows_count_every_sampled_class_of_keys_once():
    pairs = bulk_placement.count_pairs(range(10), range(13))
    assert sum(pairs.values()) == bulk_placement.SAMPLED
    assert all(first == second or second >= 10 for first, second in pairs)
    back = bulk_placement.count_pairs(range(13), range(10))
    assert back == {(second, first): count for (first, second), count in pairs.items()}
    old, new = ring_of([1] * 10), ring_of([1] * 13)
    assert flows(old, new) == {
        (f"q{first}", f"q{second}"): count / bulk_placement.SAMPLED
        for (first, second), count in pairs.items()
    }


def test_the_sample_of_classes_moves_as_all_classes_do():
    moved = 0
    for start in range(0, CLASSES, bulk_placement.AT_ONCE):
        classes = np.arange(start, start + bulk_placement.AT_ONCE, dtype=np.uint32)
        before, after = bulk_placement.jump(classes, 2, 3)
        moved += np.count_nonzero(before != after)
    found = flows(ring_of([1] * 2), ring_of([1] * 3))
    sampled = sum(share for (left, entered), share in found.items() if left != entered)
    assert sampled == pytest.approx(moved / CLASSES, abs=0.001)


def test_flows_say_whence_and_where_keys_go():
    old, new = ring_of([1] * 10), ring_of([1] * 10)
    new.unbind("q3")
    found = flows(old, new)
    assert sum(found.values()) == 1
    sample = Counter((old.route(key), new.route(key)) for key in map(str, range(20_000)))
    for pair in found.keys() | sample.keys():
        assert found[pair] == pytest.approx(sample[pair] / 20_000, abs=0.006)


def test_the_share_that_moves_is_what_rabbitmq_moved():
    found = flows(ring_of([1] * 10), ring_of([1] * 13))
    moved = sum(share for (left, entered), share in found.items() if left != entered)
    assert moved == pytest.approx(0.231, abs=0.001)


def test_flows_between_rings_need_buckets():
    with pytest.raises(UsageError, match="two rings with buckets"):
        flows(Ring(), ring_of([1]))
