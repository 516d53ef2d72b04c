"""feedbus.broker.weight_padding: zeros before weights, so that a sorting broker keeps the order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedbus.broker.weight_padding import weight_keys
from feedbus.errors import UsageError

NAMES = st.lists(st.text("ab-._019", min_size=1, max_size=4), min_size=1, max_size=30, unique=True)


@given(NAMES, st.data())
def test_sorted_by_key_and_name_a_ring_is_in_its_order_again(names, data):
    weights = st.integers(min_value=1, max_value=300)
    members = [(name, data.draw(weights)) for name in names]
    keys = weight_keys(members)
    assert [int(key) for key in keys] == [weight for _, weight in members]
    bound = [(key.encode(), name.encode()) for key, (name, _) in zip(keys, members, strict=True)]
    assert sorted(bound) == bound


def test_weights_that_are_sorted_anyway_are_written_plainly():
    assert weight_keys([(f"feed_{n}", 1) for n in range(10)]) == ["1"] * 10
    assert weight_keys([("a", 10), ("b", 11), ("c", 9)]) == ["10", "11", "9"]


def test_the_tenth_shard_comes_behind_the_ninth():
    assert weight_keys([(f"feed_{n}", 1) for n in range(12)]) == ["01"] * 10 + ["1"] * 2


def test_ten_thousand_equal_shards_are_kept_in_order_by_few_zeros():
    keys = weight_keys([(f"feed_{n}", 1) for n in range(10_000)])
    assert max(map(len, keys)) < 10


def test_weights_that_no_key_of_amqp_keeps_in_order_are_refused():
    members = [(f"feed_{n:03}", 1 + n % 2) for n in range(600)]
    with pytest.raises(
        UsageError, match="that become smaller from one queue to the next at most 240 times"
    ):
        weight_keys(members)
