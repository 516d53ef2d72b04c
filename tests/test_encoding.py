"""The messages and packs of published records."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedbus.bus.record_encoding import Encoder, pack_pairs
from feedbus.errors import UsageError
from feedbus.records.ids import Ids
from feedbus.records.packs import Pack, decode, pack_of_one
from feedbus.ring import Ring
from feedbus.wire.constants import PACK
from tests.small_topologies import undeclared


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_packs_for_a_ring_hold_records_of_one_shard_in_order(numbers: list[int]) -> None:
    keys = [str(number) for number in numbers]
    pack = Pack.numbered("o", keys, {"text": "x"}, {"place": list(range(len(keys)))})
    generation = undeclared().generation("ring")
    ring, encoder = Ring.of(generation.members), Encoder(undeclared())
    encoder.use_generation(generation)
    found: dict[str, list[int]] = {}
    for message in encoder.encode("ring", pack):
        read = decode(message.body, message.content_type, message.message_id, message.routing_key)
        owners = {ring.route(key) for key in read.keys}
        assert len(owners) == 1
        assert len(read) <= 3
        if message.content_type == PACK:
            assert message.exchange == "t.ring.packs"
            assert message.routing_key == f"{generation.digest}.{owners.pop()}"
        for index, key in enumerate(read.keys):
            found.setdefault(key, []).append(read.payload(index)["place"])
    assert found == {key: [i for i, other in enumerate(keys) if other == key] for key in keys}


def test_records_too_large_for_one_pack_travel_in_several_in_order() -> None:
    texts = [str(place) * 1_000_000 for place in range(10)]
    pack = Pack.numbered("o", ["k"] * 10, {}, {"text": texts})
    messages = Encoder(undeclared(pack=1000)).encode("ring", pack)
    read = [decode(each.body, each.content_type, each.message_id, "") for each in messages]
    assert [text for each in read for text in each.columns.get("text", [])] == texts
    assert [name for each in read for name in each.ids] == list(pack.ids)
    assert len({each.message_id for each in messages}) == len(messages) == 4


def test_an_exchange_without_packs_sends_each_record_plain() -> None:
    pack = Pack.numbered("o", ["a", "a"], {"text": "x"}, {"n": [1, 2]})
    messages = Encoder(undeclared(pack=0)).encode("work", pack)
    assert [(m.exchange, m.routing_key, m.body, m.message_id) for m in messages] == [
        ("t.work", "a", b'{"text":"x","n":1}', "o-0"),
        ("t.work", "a", b'{"text":"x","n":2}', "o-1"),
    ]


@pytest.mark.parametrize(
    ("key", "payload", "reported"),
    [
        ("\ud800", {"n": 1}, "a routing key in UTF-8"),
        ("a\0b", {"n": 1}, "a routing key without NUL, got 'a.x00b'"),
        ("k" * 256, {"n": 1}, "a routing key of at most 255 bytes, got 256"),
        ("k", {"n": float("nan")}, "cannot publish"),
        ("k", {"n": object()}, "cannot publish"),
        ("k", {"n": "x" * 2**22}, "a body of at most 4194304 bytes, got 4194312"),
    ],
)
def test_what_no_broker_could_carry_is_refused(
    key: str, payload: dict[str, Any], reported: str
) -> None:
    with pytest.raises(UsageError, match=reported):
        Encoder(undeclared()).encode("work", pack_of_one("o", key, payload))


def test_pairs_are_packed_as_they_are_and_not_as_they_compare() -> None:
    pairs = [({"x": 1, "y": 1}, "a"), ({"x": True, "y": 1}, "b"), ({"x": 1.0, "y": 1}, "c")]
    (pack,) = pack_pairs(pairs, "o")
    assert pack.shared == {"y": 1}
    assert [type(value) for value in pack.columns["x"]] == [int, bool, float]


@pytest.mark.parametrize("message_id", ["x" * 255, "é" * 128, "\ud800"])
def test_a_message_id_that_amqp_cannot_carry_is_refused(message_id: str) -> None:
    with pytest.raises(UsageError, match="message id"):
        Encoder(undeclared()).encode("ring", pack_of_one(message_id, "k", {"n": 1}))


def test_records_keyed_by_a_column_need_no_keys_of_their_own() -> None:
    columns = {"follower": [7, 8, 7]}
    by_name = Encoder(undeclared()).encode("ring", Pack.numbered("o", "follower", {}, columns))
    by_key = Encoder(undeclared()).encode("ring", Pack.numbered("o", ["7", "8", "7"], {}, columns))
    assert [(each.routing_key, each.message_id) for each in by_name] == [
        (each.routing_key, each.message_id) for each in by_key
    ]
    assert all(b'"keys":"follower"' in each.body for each in by_name)
    read = [decode(each.body, each.content_type, each.message_id, "") for each in by_name]
    assert sorted(key for each in read for key in each.keys) == ["7", "7", "8"]
    assert all(each.key(0) == each.keys[0] for each in read)


def test_a_single_record_goes_to_a_ring_as_those_beside_it_do() -> None:
    pack = Pack.numbered("o", ["a", "a", "b"], {}, {"n": [1, 2, 3]})
    for size in (2, 3):
        messages = Encoder(undeclared(pack=size)).encode("ring", pack)
        assert {message.content_type for message in messages} == {PACK}
    alone = Encoder(undeclared()).encode("ring", Pack(Ids("o", [7]), ["a"], {}, {"n": [1]}))
    assert [(each.exchange, each.content_type) for each in alone] == [("t.ring.packs", PACK)]
