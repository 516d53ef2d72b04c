"""The buffer of deliveries: deliveries that are put back keep the order of their arrival."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from feedbus.runner.buffer import Buffer
from feedbus.wire import Delivery
from feedbus.wire.constants import JSON

TAGS = st.lists(st.sampled_from(["one", "other"]), max_size=8)  # the subscription of each delivery


def filled(consumers: Iterable[str]) -> Buffer:
    buffer = Buffer()
    for tag, consumer in enumerate(consumers, start=1):
        buffer.add(Delivery(tag, b"{}", JSON, f"m{tag}", "ring", "", {}, False, consumer), tag)
    return buffer


def emptied(buffer: Buffer) -> dict[str, list[int]]:
    """Return the delivery tags of each subscription, in the order in which they are taken."""
    tags: defaultdict[str, list[int]] = defaultdict(list)
    while buffer:
        delivery = buffer.pop()
        tags[delivery.consumer_tag].append(delivery.tag)
    return dict(tags)


@given(TAGS, st.sets(st.integers(0, 7)))
def test_deliveries_that_are_put_back_are_in_the_order_of_their_arrival(
    consumers: list[str], chosen: set[int]
) -> None:
    buffer, expected = filled(consumers), emptied(filled(consumers))
    positions = sorted(position for position in chosen if position < len(buffer))
    picked = buffer.pick(lambda _, _records: positions, len(buffer))
    assert len(buffer) == len(consumers) - len(positions)
    buffer.put_back(picked, 0.0)
    assert buffer.records == len(consumers)
    assert emptied(buffer) == expected
    assert buffer.records == 0


@given(TAGS)
def test_deliveries_of_a_subscription_are_dropped_and_the_others_stay(
    consumers: list[str],
) -> None:
    buffer, expected = filled(consumers), emptied(filled(consumers))
    buffer.remove("one")
    expected.pop("one", None)
    assert buffer.records == len(buffer)
    assert not buffer.has_deliveries_of("one")
    assert emptied(buffer) == expected
