"""What a bus makes of records: messages, packs, ids; and what it says of those not taken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedbus import broker, outbox
from feedbus.broker.names import Names
from feedbus.bus.collecting import CollectingBus
from feedbus.bus.encoding import Encoder, columnar
from feedbus.bus.publisher import Outgoing
from feedbus.bus.spool import Spool
from feedbus.errors import Outage, Unroutable, UsageError
from feedbus.metrics import Metrics
from feedbus.records import Chunk, Records
from feedbus.records.packs import PACK, Pack, decode
from feedbus.ring import Ring
from feedbus.testing import RecordingBus
from feedbus.topology import Exchange, Topology
from tests.systems import System, queue, sharded


@pytest.fixture(autouse=True)
def _store() -> Iterator[None]:
    yield
    outbox.close_store()


def topology(pack: int = 3) -> Topology:
    """Make a topology that is nowhere declared."""
    work = sharded(4)
    return Topology(
        name="t",
        path=Path("/nowhere/topology.toml"),
        broker_url="sqlite:////nowhere/broker.db",
        store_url="sqlite:////nowhere/store.db",
        exchanges={
            "ring": Exchange("ring", "x-consistent-hash", pack),
            "work": Exchange("work", "direct", pack),
        },
        queues={"shard": work},
    )


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_packs_for_a_ring_hold_records_of_one_shard_in_order(numbers: list[int]) -> None:
    keys = [str(number) for number in numbers]
    pack = Pack("o", range(len(keys)), keys, {"text": "x"}, {"place": list(range(len(keys)))})
    ring = Ring.of(topology().generation("ring").members)
    digest = topology().generation("ring").digest
    found: dict[str, list[int]] = {}
    for message in Encoder(topology()).encode("ring", pack):
        read = decode(message.body, message.content_type, message.message_id, message.routing_key)
        owners = {ring.route(key) for key in read.keys}
        assert len(owners) == 1
        assert len(read) <= 3
        if message.content_type == PACK:
            assert message.exchange == "t.ring.packs"
            assert message.routing_key == f"{digest}.{owners.pop()}"
        for index, key in enumerate(read.keys):
            found.setdefault(key, []).append(read.payload(index)["place"])
    assert found == {key: [i for i, other in enumerate(keys) if other == key] for key in keys}


def test_records_too_large_for_one_pack_travel_in_several_in_order() -> None:
    texts = [str(place) * 1_000_000 for place in range(10)]
    pack = Pack("o", range(10), ["k"] * 10, {}, {"text": texts})
    messages = Encoder(topology(pack=1000)).encode("ring", pack)
    read = [decode(each.body, each.content_type, each.message_id, "") for each in messages]
    assert [text for each in read for text in each.columns.get("text", [])] == texts
    assert [name for each in read for name in each.ids] == pack.ids
    assert len({each.message_id for each in messages}) == len(messages) == 4


def test_an_exchange_without_packs_sends_each_record_plain() -> None:
    pack = Pack("o", [0, 1], ["a", "a"], {"text": "x"}, {"n": [1, 2]})
    messages = Encoder(topology(pack=0)).encode("work", pack)
    assert [(m.exchange, m.routing_key, m.body, m.message_id) for m in messages] == [
        ("t.work", "a", b'{"text":"x","n":1}', "o-0"),
        ("t.work", "a", b'{"text":"x","n":2}', "o-1"),
    ]


@pytest.mark.parametrize(
    ("key", "payload", "told"),
    [
        ("\ud800", {"n": 1}, "is not UTF-8"),
        ("k" * 256, {"n": 1}, "routing key of 256 bytes"),
        ("k", {"n": float("nan")}, "cannot publish"),
        ("k", {"n": object()}, "cannot publish"),
        ("k", {"n": "x" * 2**22}, "body of 4194312 bytes; expected at most 4194304"),
    ],
)
def test_what_no_broker_could_carry_is_refused(
    key: str, payload: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        Encoder(topology()).encode("work", Pack("o", None, [key], payload, {}))


def test_pairs_are_packed_as_they_are_and_not_as_they_compare() -> None:
    pairs = [("a", {"x": 1, "y": 1}), ("b", {"x": True, "y": 1}), ("c", {"x": 1.0, "y": 1})]
    (pack,) = columnar(pairs, "o")
    assert pack.shared == {"y": 1}
    assert [type(value) for value in pack.columns["x"]] == [int, bool, float]


def test_ids_of_children_depend_on_their_causes_and_not_on_the_batch() -> None:
    first, second = Chunk("p", [0, 1], {}, {"n": [1, 2]}, [0, 1]), Chunk("q", [5], {}, {"n": [3]})

    def children(*chunks: Chunk) -> set[str]:
        published: list[Pack] = []
        bus = CollectingBus(Records(chunks), lambda _, pack: published.append(pack))
        count = sum(len(chunk) for chunk in chunks)
        keys = ["k"] * count
        bus.publish_columns("work", keys, {"n": list(range(count))}, {}, causes=range(count))
        return {name for pack in published for name in pack.ids}

    apart = children(first) | children(second)
    assert children(first, second) == apart
    assert len(apart) == 3
    assert children(first.select([1])) < children(first)


def test_a_record_with_two_children_gives_each_an_id_of_its_own() -> None:
    names: list[str] = []
    records = Records([Chunk("p", [0], {}, {"n": [1]})])
    bus = CollectingBus(records, lambda _, pack: names.extend(pack.ids))
    bus.publish_many("work", [("a", {"n": 1}), ("b", {"n": 1})], causes=[0, 0])
    assert len(set(names)) == 2


def test_children_of_different_messages_stay_in_the_order_of_publishing() -> None:
    published: list[int] = []
    chunks = [Chunk(origin, None, {"n": n}, {}) for n, origin in enumerate(["a-x", "b", "a-x"])]
    bus = CollectingBus(Records(chunks), lambda _, pack: published.extend(pack.columns["n"]))
    bus.publish_columns("work", ["k"] * 3, {"n": [0, 1, 2]}, {}, causes=[0, 1, 2])
    assert published == [0, 1, 2]


def test_causes_that_are_not_one_a_record_are_refused() -> None:
    bus = CollectingBus(Records([Chunk("p", [0], {}, {"n": [1]})]), lambda *_: None)
    with pytest.raises(ValueError, match="a cause for each of 2"):
        bus.publish_columns("work", ["a", "b"], {"n": [1, 2]}, {}, causes=[0])


def test_a_returned_message_is_told_and_those_beside_it_arrive(tmp_path: Path) -> None:
    system = System.at(tmp_path, queue(routing_keys=("known",)))
    metrics = Metrics.none()
    with (
        type(system.bus())(system.topology, metrics) as bus,
        pytest.raises(Unroutable, match="1 not published: no queue for key 'unknown'"),
    ):
        bus.publish_many("work", [("known", {"n": 1}), ("unknown", {"n": 2}), ("known", {"n": 3})])
    assert system.ready() == {"work": 2}


def test_a_broker_that_is_away_for_too_long_is_an_outage(tmp_path: Path) -> None:
    system = System.at(tmp_path, queue())
    away = system.topology.broker_url.removeprefix("sqlite:///")
    Path(away).unlink()
    Path(away).mkdir()
    bus = type(system.bus())(system.topology, timeout_seconds=0.3)
    with bus, pytest.raises(Outage):
        bus.publish("work", {"n": 1})


def test_a_mismatch_with_what_the_broker_has_is_told_and_not_a_traceback(tmp_path: Path) -> None:
    system = System.at(tmp_path, queue())
    with pytest.raises(
        UsageError,
        match=r"\.work: expected x-max-length = 5, got none on the broker; change max_length",
    ):
        system.reshaped(queue(max_length=5))
    names = Names(system.topology)
    with broker.connect(system.topology) as connection:
        assert broker.queue_exists(connection, names.dead(system.topology.queues["work"]))
        assert not broker.queue_exists(connection, "nothing")


def test_a_recording_bus_keeps_what_a_handler_published() -> None:
    bus = RecordingBus()
    bus.publish("work", {"n": 1}, "a")
    bus.publish_columns("work", ["b", "c"], {"n": [2, 3]}, {"text": "x"})
    assert [(each.exchange, each.key, each.payload) for each in bus.published] == [
        ("work", "a", {"n": 1}),
        ("work", "b", {"n": 2, "text": "x"}),
        ("work", "c", {"n": 3, "text": "x"}),
    ]


def test_a_spool_gives_back_what_it_was_given_from_memory_and_from_its_file() -> None:
    messages = [
        Outgoing("work", str(number), b"x" * 100, "application/json", f"m-{number}")
        for number in range(100)
    ]
    with Spool(memory_bytes=1_000) as spool:
        assert not spool
        for start in range(0, 100, 7):
            spool.add(messages[start : start + 7])
        assert spool
        assert list(spool) == messages
        assert list(spool) == messages


def test_a_single_record_goes_to_a_ring_as_those_beside_it_do() -> None:
    pack = Pack("o", range(3), ["a", "a", "b"], {}, {"n": [1, 2, 3]})
    for size in (2, 3):
        messages = Encoder(topology(pack=size)).encode("ring", pack)
        assert {message.content_type for message in messages} == {PACK}
    alone = Encoder(topology()).encode("ring", Pack("o", [7], ["a"], {}, {"n": [1]}))
    assert [(each.exchange, each.content_type) for each in alone] == [("t.ring.packs", PACK)]
