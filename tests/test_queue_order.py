"""Ordering keys: equal values are one key, and values without a place in JSON are no keys."""

from __future__ import annotations

import math
from typing import Any

import pytest

from feedbus.dispatch.queue_order import Order
from feedbus.records.packs import pack_of_one
from feedbus.wire import Delivery

BY_CUSTOMER = Order(by_routing_key=False, field="customer")


def key(value: Any) -> str:
    delivery = Delivery(1, b"", None, "m1", "", "", {}, False, "tag")
    return BY_CUSTOMER.waiting_key(delivery, pack_of_one("m1", "", {"customer": value}), 0)


def test_equal_values_are_one_key_and_a_text_is_another_one():
    assert {key(1), key(1.0), key(True)} == {"1"}
    assert (key("1"), key(1.5)) == ('"1"', "1.5")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_number_that_is_not_finite_is_no_key(value: float):
    # A body in JSON has no such number, but a codec of the project can return it.
    errors = BY_CUSTOMER.key_errors(pack_of_one("m1", "", {"customer": value}))
    text = f"order_by needs this field: expected a text, a number, true or false, got {value}"
    assert errors == {0: {"customer": [text]}}
