"""The messages in waiting queues: a written message can be read again."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedbus.dispatch.queue_order import Order
from feedbus.dispatch.waiting_messages import (
    decode_waiting_message,
    encode_waiting_message,
)
from feedbus.dispatch.waiting_record import DEAD_LETTER_ATTEMPT, Arrival, WaitingRecord
from feedbus.wire import Delivery, Outgoing
from feedbus.wire.constants import ATTEMPT, KEY, NOT_BEFORE, PLACE, TRACEBACK

BY_KEY, BY_FIELD = (
    Order(by_routing_key=True, field=""),
    Order(by_routing_key=False, field="customer"),
)


def retry(attempts: int, key: str = "a key") -> Outgoing:
    headers = {ATTEMPT: attempts, KEY: key, TRACEBACK: "Traceback ..."}
    return Outgoing("", "dead", b"{}", "application/json", "m1", headers, "retry")


def delivered(message: Outgoing) -> Arrival:
    headers = message.headers
    delivery = Delivery(
        1, message.body, message.content_type, "m1", "", message.routing_key, headers, False, "tag"
    )
    return Arrival(delivery, None, 0.0)


@pytest.mark.parametrize("order", [BY_KEY, BY_FIELD])
@given(place=st.integers(1, 2**61), due_at=st.integers(0, 2**32), attempts=st.integers(1, 99))
def test_a_record_is_read_from_its_message_as_it_was_written(order, place, due_at, attempts):
    record = WaitingRecord("a key", place, "m1", attempt=attempts, due_at=due_at)
    message = encode_waiting_message(record, due_at, order, "waiting", retry(attempts))
    assert (message.exchange, message.routing_key, message.body) == ("", "waiting", b"{}")
    found = decode_waiting_message(delivered(message), order, "waiting", 3)
    assert (found.key, found.position, found.attempt, found.due_at) == (
        "a key",
        place,
        attempts,
        due_at,
    )
    assert (found.queue, found.generation_number) == ("waiting", 3)


def test_a_dead_letter_blocks_its_key_with_a_message_without_its_body():
    record = WaitingRecord("a key", 7, "m1", attempt=DEAD_LETTER_ATTEMPT)
    message = encode_waiting_message(record, math.inf, BY_KEY, "waiting", retry(3))
    assert (message.body, message.content_type, TRACEBACK in message.headers) == (b"", None, False)
    found = decode_waiting_message(delivered(message), BY_KEY, "waiting", 3)
    assert (found.position, found.attempt, found.due_at) == (7, DEAD_LETTER_ATTEMPT, math.inf)


@pytest.mark.parametrize("number", [None, -1, True, "7", 1.5, 2**62])
def test_a_number_that_feedbus_did_not_write_counts_as_missing(number: Any):
    message = retry(1)
    headers = {**message.headers, PLACE: number, NOT_BEFORE: number}
    unread = Outgoing("", "waiting", b"{}", None, "m1", headers, "retry")
    found = decode_waiting_message(delivered(unread), BY_KEY, "waiting", 3)
    assert (found.position, found.due_at) == (0, 0.0)
