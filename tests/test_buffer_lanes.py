"""Deliveries that wait for their handler, in one lane for each generation."""

from __future__ import annotations

from amqp import Message

from feedbus.runner.buffer import Buffer
from feedbus.wire import Delivery
from feedbus.wire.constants import FENCE


def delivery(tag: int, consumer_tag: str, *, fence: bool = False) -> Delivery:
    """Return a delivery of a subscription."""
    headers = {FENCE: "x"} if fence else {}
    message = Message(
        body=b"{}",
        content_type="application/json",
        message_id=str(tag),
        application_headers=headers,
    )
    message.delivery_info = {
        "delivery_tag": tag,
        "consumer_tag": consumer_tag,
        "routing_key": "k",
        "exchange": "",
        "redelivered": False,
    }
    return Delivery.of(message)


def divided(*deliveries: Delivery) -> Buffer:
    """Return a buffer in which "old" and "new" have lanes."""
    buffer = Buffer()
    buffer.assign_lane("new", 2)
    buffer.assign_lane("old", 1)
    for each in deliveries:
        buffer.add(each, float(each.tag))
    return buffer


def take(buffer: Buffer) -> list[int]:
    return [each.tag for each in buffer.take(10, 10, lambda _: False)]


def test_lanes_take_turns_and_a_batch_has_deliveries_of_one_lane():
    buffer = divided(*(delivery(tag, "new" if tag % 2 else "old") for tag in range(1, 5)))
    batches = []
    while buffer:
        buffer.next_lane()
        batches.append(take(buffer))
        if len(batches) == 1:
            buffer.add(delivery(9, "new"), 9.0)
    assert sorted(batches) == [[1, 3, 9], [2, 4]] or batches == [[2, 4], [1, 3, 9]]


def test_a_new_delivery_is_next_after_a_batch_of_the_backlog():
    buffer = divided(*(delivery(tag, "old") for tag in range(1, 50)))
    buffer.next_lane()
    assert buffer.in_old_lane
    assert take(buffer) == list(range(1, 11))
    buffer.add(delivery(100, "new"), 100.0)
    buffer.next_lane()
    assert not buffer.in_old_lane
    assert take(buffer) == [100]


def test_excluded_lanes_are_left_out_until_they_are_no_longer_excluded():
    buffer = divided(delivery(1, "new"), delivery(2, "old"))
    buffer.exclude_generations_after(1)
    assert (len(buffer), buffer.records) == (1, 1)
    buffer.next_lane()
    assert take(buffer) == [2]
    assert not buffer
    assert buffer.has_deliveries_of("new")
    buffer.exclude_generations_after(None)
    assert take(buffer) == [1]


def test_a_fence_in_one_lane_does_not_stop_another():
    buffer = divided(delivery(1, "old", fence=True), delivery(2, "new"))
    while not buffer.next_is_fence:
        buffer.next_lane()
    buffer.go_to_lane_without_fence()
    assert take(buffer) == [2]
    assert buffer.next_is_fence


def test_the_oldest_arrival_is_that_of_all_lanes():
    buffer = divided(delivery(1, "old"), delivery(2, "new"))
    buffer.next_lane()
    assert buffer.oldest_at == 1.0
    buffer.remove("old")
    assert buffer.oldest_at == 2.0


def test_deliveries_that_were_taken_come_back_to_their_lane():
    buffer = divided(delivery(1, "old"), delivery(2, "new"), delivery(3, "old"))
    while not buffer.in_old_lane:
        buffer.next_lane()
    taken = buffer.take(1, 1, lambda _: False)
    assert not buffer.has_before("old", 3)
    buffer.put_back(taken, 1.0)
    assert buffer.has_before("old", 3)
    assert take(buffer) == [1, 3]
