"""Small deliveries overtake large ones, and the records of each key stay in order."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedbus.records.ids import Ids
from feedbus.records.packs import Pack
from feedbus.runner.buffer import Buffer
from feedbus.runner.small_deliveries import SmallDeliveries
from feedbus.store.peewee import close_bound
from feedbus.topology import Batch
from feedbus.wire import Delivery
from feedbus.wire.constants import FENCE, PACK, RECORD_COUNT
from tests.small_topologies import sharded
from tests.systems import System

QUEUE = sharded(1, batch=Batch(size=40, wait_seconds=0.0), order_by=True)  # small is 2 records


def delivery(tag: int, keys: list[str], **headers: object) -> Delivery:
    pack = Pack(Ids(f"origin-{tag}", range(len(keys))), keys, {}, {"n": list(range(len(keys)))})
    counted = {RECORD_COUNT: len(keys), **headers}
    return Delivery(tag, pack.encode(), PACK, f"m{tag}", "ring", "", counted, False, "consumer")


def large(tag: int, first: int = 0) -> Delivery:
    return delivery(tag, [f"k{first + number}" for number in range(10)])


def filled(*deliveries: Delivery) -> Buffer:
    buffer = Buffer()
    for each in deliveries:
        buffer.add(each, 0.0)
    return buffer


def first(*deliveries: Delivery, suspected: str = "", most: float = 100) -> list[int]:
    """Return the tags of the deliveries that are handled first, where more than a batch waits."""
    small = SmallDeliveries.of(QUEUE)
    assert small is not None
    buffer = filled(*deliveries, large(100), large(101, 10), large(102, 20), large(103, 30))
    return [each.tag for each in small.take_first(buffer, most, suspected.__eq__)]


def test_a_small_delivery_of_another_key_goes_before_large_ones():
    assert first(large(1), large(2), delivery(3, ["other"])) == [3]


def test_a_small_delivery_waits_for_a_large_one_with_a_record_of_its_key():
    assert first(large(1), delivery(2, ["k3"]), delivery(3, ["other"])) == [3]


def test_a_small_delivery_waits_behind_one_of_its_key_that_waits():
    waiting = delivery(2, ["k3", "mine"])
    assert first(large(1), waiting, delivery(3, ["mine"]), delivery(4, ["other"])) == [4]


def test_nothing_overtakes_where_the_first_delivery_is_small():
    assert first(delivery(1, ["a"]), large(2), delivery(3, ["b"])) == []


def test_nothing_goes_past_a_fence_or_a_message_that_is_handled_alone():
    behind = delivery(3, ["other"])
    assert first(large(1), delivery(2, ["x"], **{FENCE: "f"}), behind) == []
    assert first(large(1), large(2), behind, suspected="m2") == []


def test_nothing_goes_past_a_body_that_cannot_be_read():
    broken = Delivery(2, b"{", PACK, "m2", "ring", "", {RECORD_COUNT: 10}, False, "consumer")
    assert first(large(1), broken, delivery(3, ["other"])) == []


def test_nothing_overtakes_where_all_deliveries_fit_into_one_batch():
    small = SmallDeliveries.of(QUEUE)
    assert small is not None
    buffer = filled(large(1), large(2), delivery(3, ["other"]))
    assert small.take_first(buffer, 100, lambda _: False) == []


def test_only_as_many_overtake_as_may_be_handled():
    assert first(large(1), delivery(2, ["a"]), delivery(3, ["b"]), most=1) == [2]


def test_nothing_is_handled_beside_records_of_its_key():
    small = SmallDeliveries.of(QUEUE)
    assert small is not None
    waiting = [delivery(1, ["a"]), delivery(2, ["b"]), delivery(3, ["a", "c"]), delivery(4, ["c"])]
    assert small.find_independent([frozenset("a")], waiting, lambda _: False) == [1]
    assert small.find_independent([frozenset("c")], waiting, lambda _: False) == [0, 1]


def test_deliveries_of_a_new_connection_are_not_taken_for_earlier_ones():
    small = SmallDeliveries.of(QUEUE)
    assert small is not None
    assert small.find_independent((), [large(1), delivery(2, ["other"])], lambda _: False) == [1]
    again = delivery(1, ["other"] * 10)
    again = replace(again, message_id="another")
    assert small.find_independent((), [again, delivery(2, ["other"])], lambda _: False) == []


def test_a_large_delivery_is_handled_between_two_that_overtake():
    small = SmallDeliveries.of(QUEUE)
    assert small is not None
    buffer = filled(*(large(tag) for tag in range(1, 7)), delivery(8, ["a"]))
    taken = []
    for tag in (9, 10, 11):
        taken.append([each.tag for each in small.take_first(buffer, 1, lambda _: False)])
        buffer.add(delivery(tag, ["a"]), 0.0)
    assert taken == [[8], [], [9]]


def test_a_queue_without_an_order_keeps_the_order_of_arrival():
    assert SmallDeliveries.of(sharded(1, batch=Batch(40), order_by=False)) is None


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=9), min_size=1, max_size=30)
)
def test_each_key_is_taken_in_the_order_of_its_arrival(all_keys: list[list[str]]):
    small, buffer = SmallDeliveries.of(QUEUE), Buffer()
    assert small is not None
    for tag, keys in enumerate(all_keys, 1):
        buffer.add(delivery(tag, keys), 0.0)
    seen: defaultdict[str, list[int]] = defaultdict(list)
    count = 0
    while buffer:
        taken = small.take_first(buffer, 100, lambda _: False)
        taken = taken or buffer.take(12, 100, lambda _: False)
        for each in taken:
            count += 1
            for key in set(all_keys[each.tag - 1]):
                seen[key].append(each.tag)
    assert count == len(all_keys)
    assert buffer.records == 0
    assert all(tags == sorted(tags) for tags in seen.values())


@pytest.mark.parametrize("where", ["embedded", "server"])
def test_a_consumer_handles_a_small_message_before_large_ones_and_loses_none(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = "" if where == "embedded" else request.getfixturevalue("rabbitmq").url
    batch = Batch(size=400, wait_seconds=0.0)
    system = System.at(
        tmp_path, sharded(1, batch=batch, prefetch=50, order_by=True), broker_url=url, pack=400
    )
    with system.bus() as bus:
        for number in range(3):
            bus.publish_many("ring", [({"n": number}, f"k{key}") for key in range(400)])
        bus.publish_many("ring", [({"n": 3}, "k7")])
        bus.publish_many("ring", [({"n": 4}, "other")])
    batches: list[list[tuple[str, int]]] = []

    def note(records, _) -> None:
        keys = [message.routing_key for message in records.messages]
        batches.append(list(zip(keys, records.column("n"), strict=True)))

    system.run(note, "shard_0", batch=True)
    close_bound()
    handled = [pair for batch in batches for pair in batch]
    assert sorted(handled) == sorted(
        [(f"k{key}", number) for key in range(400) for number in range(3)]
        + [("k7", 3), ("other", 4)]
    )
    assert handled.index(("other", 4)) < handled.index(("k0", 1))
    assert [number for key, number in handled if key == "k7"] == [0, 1, 2, 3]
