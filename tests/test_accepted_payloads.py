"""publish(), transaction() and outbox.put() accept the same payloads, and send what they got."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedbus import Raw, Records, UsageError, broker, handler
from feedbus.broker_names import Names
from feedbus.bus import AsyncBus
from feedbus.config import load
from feedbus.records.packs import Pack, decode
from feedbus.records.payloads import BODY_LIMIT_BYTES
from feedbus.testing import RecordingBus, TestSystem
from feedbus.topology import Topology
from feedbus.wire.constants import PACK

TOPOLOGY = """
name = "shop"

[broker]
url = "sqlite:///broker.db"

[exchanges]
orders = { type = "fanout" }
pickles = { type = "fanout", content_type = "application/x-pickle" }
texts = { type = "fanout", content_type = "text/plain" }
ring = { type = "x-consistent-hash", pack = 10 }
pairs = { type = "fanout", pack = 2 }
colors = { type = "fanout" }
jobs = { type = "fanout" }

[queues.orders]
exchange = "orders"
handler = "tests.test_accepted_payloads:ignore"

[queues.pickles]
exchange = "pickles"
handler = "tests.test_accepted_payloads:ignore"

[queues.texts]
exchange = "texts"
handler = "tests.test_accepted_payloads:ignore_text"

[queues.ring]
exchange = "ring"
shards = 2
handler = "tests.test_accepted_payloads:ignore"

[queues.pairs]
exchange = "pairs"
handler = "tests.test_accepted_payloads:ignore"

[queues.colors]
exchange = "colors"
handler = "tests.test_accepted_payloads:publish_colors"

[queues.jobs]
exchange = "jobs"
handler = "tests.test_accepted_payloads:publish_with_one_list"

[codecs]
"application/x-pickle" = "tests.test_accepted_payloads:Pickle"

[store]
url = "sqlite:///store.db"
"""


class Pickle:
    """A codec for values that JSON cannot represent."""

    def decode(self, body: bytes, _content_type: str, _headers: Mapping[str, Any]) -> Any:
        """Return the pickled payload."""
        return pickle.loads(body)

    def encode(self, payload: Any) -> bytes:
        """Return the pickled payload."""
        return pickle.dumps(payload)


@handler
def ignore(record: dict[str, Any]) -> None:
    """Do nothing."""


@handler
def ignore_text(record: str) -> None:
    """Do nothing."""


@handler(batch=True)
def publish_with_one_list(records: Records) -> None:
    """Publish several times with the same dict and the same list."""
    order, numbers = {"n": 0}, [0, 0]
    (record,) = records.singles()
    for number in (1, 2):
        order["n"] = number
        record.publish_many("orders", [(order, "")])
    for number in (3, 5):
        numbers[:] = number, number + 1
        record.publish_columns("orders", {"n": numbers})
        record.publish("orders", columns={"n": numbers[:1]})


@pytest.fixture
def system(tmp_path: Path) -> Iterator[TestSystem]:
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    with TestSystem(tmp_path / "topology.toml") as made:
        yield made


def in_transaction(system: TestSystem, exchange: str, payload: Any, key: str) -> None:
    with system.bus.transaction():
        system.bus.publish(exchange, payload, key)


def in_outbox(system: TestSystem, exchange: str, payload: Any, key: str) -> None:
    store = system._store
    with store.transaction():
        store.outbox.put(exchange, payload, key)


def directly(system: TestSystem, exchange: str, payload: Any, key: str) -> None:
    system.bus.publish(exchange, payload, key)


def outcome(publish: Any, system: TestSystem, exchange: str, payload: Any) -> Any:
    """Return the handled payloads and the number of dead letters, or the error."""
    handled, dead = len(system.handled()), len(system.dead_letters())
    try:
        publish(system, exchange, payload, "k")
    except (UsageError, TypeError) as error:
        return repr(error)
    system.run()
    assert not system._store.outbox.pending()
    payloads = [each.payload for each in system.handled()[handled:]]
    return repr(payloads), len(system.dead_letters()) - dead


deep: dict[str, Any] = {"n": 1}
for _ in range(199):
    deep = {"n": deep}

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(st.characters(), max_size=5),
    st.sampled_from(["\ud800", "\0", "née", "x" * BODY_LIMIT_BYTES]),
    st.sampled_from([datetime(2026, 1, 1, tzinfo=UTC), b"bytes", 1j, {1, 2}, (1, 2), {1: 2}]),
)
PAYLOADS = st.one_of(
    st.dictionaries(st.text(st.characters(), max_size=3), st.recursive(VALUES, st.lists)),
    st.sampled_from([Raw("text"), Raw(b"\xff"), Raw("\ud800"), deep, {"n": deep}]),
)


@given(st.sampled_from(["orders", "ring", "pickles", "texts"]), PAYLOADS)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_publish_with_and_without_the_outbox_accepts_the_same(
    system: TestSystem, exchange: str, payload: Any
) -> None:
    expected = outcome(directly, system, exchange, payload)
    assert outcome(in_transaction, system, exchange, payload) == expected
    assert outcome(in_outbox, system, exchange, payload) == expected


@pytest.mark.parametrize(
    ("exchange", "payload", "error"),
    [
        ("orders", {"a": [1, {"b": {1, 2}}]}, "field 'a.1.b': expected a value that JSON can"),
        ("orders", {"n": "x" * BODY_LIMIT_BYTES}, "expected a body of at most"),
        ("orders", Raw("x"), r"cannot publish Raw\(…\) to exchange 'orders'"),
        ("texts", Raw("\ud800"), "cannot publish: Raw: .* surrogates not allowed"),
        ("texts", {"n": 1}, "for text/plain expected Raw"),
    ],
)
def test_the_outbox_refuses_a_message_that_can_never_be_sent(
    system: TestSystem, exchange: str, payload: Any, error: str
) -> None:
    for publish in (directly, in_transaction, in_outbox):
        with pytest.raises(UsageError, match=error):
            publish(system, exchange, payload, "k")
    in_outbox(system, "orders", {"n": 1}, "k")
    system.run()
    assert [each.payload for each in system.handled()] == [{"n": 1}]


@pytest.mark.parametrize("exchange", ["orders", "ring", "pickles"])
def test_a_payload_that_changes_before_the_commit_is_sent_as_it_was(
    system: TestSystem, exchange: str
) -> None:
    order: dict[str, Any] = {"n": 1, "lines": [1]}
    columns, keys = {"n": [3, 4]}, ["k", "k"]
    with system.bus.transaction():
        system.bus.publish(exchange, order, key="k")
        order["n"] = 2
        order["lines"].append(2)
        system.bus.publish(exchange, order, key="k")
        system.bus.publish_columns(exchange, columns, keys)
        columns["n"][:] = 0, 0
        keys[:] = "other", "other"
    system.run()
    assert [each.payload for each in system.handled()] == [
        {"n": 1, "lines": [1]},
        {"n": 2, "lines": [1, 2]},
        {"n": 3},
        {"n": 4},
    ]
    assert {each.key for each in system.published()} == {"k"}


def test_a_batch_handler_may_publish_one_dict_and_one_list_again_and_again(
    system: TestSystem,
) -> None:
    system.publish("jobs", {"n": 0})
    system.run()
    numbers = [each.payload["n"] for each in system.handled("orders")]
    assert numbers == [1, 2, 3, 4, 3, 5, 6, 5]


def one_dict() -> Iterator[tuple[dict[str, int], str]]:
    order: dict[str, int] = {}
    for number in range(3):
        order["n"] = number
        yield order, "k"


def test_a_generator_may_yield_one_dict_again_and_again(system: TestSystem) -> None:
    assert system.bus.publish_many("ring", one_dict()) == 3
    with system.bus.transaction():
        system.bus.publish_many("orders", one_dict())
    system.run()
    for queue in ("ring", "orders"):
        assert [each.payload["n"] for each in system.handled(queue)] == [0, 1, 2]


def test_a_recording_bus_records_each_payload_as_it_was() -> None:
    bus, order = RecordingBus(), {"n": [0]}
    bus.publish("orders", order)
    order["n"][0] = 1
    bus.publish("orders", order, priority=1)
    Records.of([{}], bus=bus).publish("orders", shared=order)
    bus.publish_many("orders", one_dict())
    order["n"][0] = 2
    payloads = [each.payload for each in bus.published]
    assert payloads == [{"n": [0]}, {"n": [1]}, {"n": [1]}, {"n": 0}, {"n": 1}, {"n": 2}]


async def publish_one_dict(topology: Topology) -> None:
    order: dict[str, int] = {}
    async with AsyncBus(topology) as bus:
        calls = []
        for number in range(5):
            order["n"] = number
            calls.append(asyncio.create_task(bus.publish("orders", order)))
            await asyncio.sleep(0)
        order["n"] = -1
        await asyncio.gather(*calls)
        await bus.publish_many("orders", one_dict())


def test_an_async_publish_sends_the_dict_as_it_was_at_the_call(tmp_path: Path) -> None:
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    topology = load(tmp_path / "topology.toml")
    asyncio.run(publish_one_dict(topology))
    with broker.connect(topology) as connection:
        channel = connection.channel()
        queue = Names(topology).queue(topology.consumer("orders"))
        messages = [channel.basic_get(queue, no_ack=True) for _ in range(8)]
    assert [json.loads(each.body)["n"] for each in messages] == [0, 1, 2, 3, 4, 0, 1, 2]


def test_a_payload_with_too_many_levels_is_refused_and_stops_no_other(system: TestSystem) -> None:
    for exchange in ("orders", "ring"):
        for key in ("k", "other"):
            with pytest.raises(UsageError, match=r"cannot publish: field 'n\.n\..*too deeply"):
                system.bus.publish_many(exchange, [({"n": 1}, "k"), ({"n": deep}, key)])
        system.bus.publish_many(exchange, [({"n": 1}, "k"), (deep, "k"), ({"n": 2}, "k")])
        system.bus.publish_many(exchange, [(deep, "k"), (deep, "k")])
    system.run()
    assert not system.dead_letters()
    payloads = [each.payload for each in system.handled("ring")]
    assert payloads == [{"n": 1}, deep, {"n": 2}, deep, deep]
    assert len(system.handled("orders")) == 5


class Color(str, Enum):  # noqa: UP042 -- str() of a member of a StrEnum is its value
    RED = "red"
    BLUE = "blue"


class Number(int, Enum):
    ONE = 1

    def __str__(self) -> str:
        return "one"


@handler(batch=True)
def publish_colors(records: Records) -> None:
    """Publish with members of enums as keys."""
    (record,) = records.singles()
    for number, color in enumerate(COLORS):
        record.publish_columns("ring", {"n": [number], "c": [color]}, key_column="c")
    for number, color in enumerate(COLORS):
        record.publish_columns("pairs", {"n": [number]}, key=color)
        record.publish_columns("pairs", {"n": [number]}, key=[color])


COLORS = [Color.RED, "red", Color.BLUE, "blue", Color.RED, "red"]


def publish_columns(bus: Any, exchange: str) -> None:
    bus.publish_columns(exchange, {"n": [*range(len(COLORS))], "c": COLORS}, "c")


def publish_with_keys(bus: Any, exchange: str) -> None:
    bus.publish_columns(exchange, {"n": [*range(len(COLORS))]}, COLORS)


def publish_pairs(bus: Any, exchange: str) -> None:
    bus.publish_many(exchange, [({"n": n}, color) for n, color in enumerate(COLORS)])


def publish_each(bus: Any, exchange: str) -> None:
    for number, color in enumerate(COLORS):
        bus.publish(exchange, {"n": number}, color)


@pytest.mark.parametrize(
    "publish", [publish_columns, publish_with_keys, publish_pairs, publish_each]
)
@pytest.mark.parametrize("exchange", ["ring", "pairs", "orders"])
def test_a_member_of_an_enum_is_the_key_that_its_value_is(
    system: TestSystem, publish: Any, exchange: str
) -> None:
    publish(system.bus, exchange)
    with system.bus.transaction():
        publish(system.bus, exchange)
    keys = Counter(each.key for each in system.published())
    assert keys == {"red": 8, "blue": 4}
    assert {type(each.key) for each in system.published()} == {str}
    system.run()
    for key in ("red", "blue"):
        expected = [n for n, color in enumerate(COLORS) if color == key] * 2
        handled = [each for each in system.handled() if each.payload["n"] in expected]
        assert [each.payload["n"] for each in handled] == expected
        assert len({each.consumer for each in handled}) == 1


def test_a_batch_handler_may_use_members_of_an_enum_as_keys(system: TestSystem) -> None:
    system.publish("colors", {"n": 0})
    system.run()
    for queue, copies in (("ring", 1), ("pairs", 2)):
        for key in ("red", "blue"):
            expected = [n for n, color in enumerate(COLORS) if color == key for _ in range(copies)]
            numbers = [each.payload["n"] for each in system.handled(queue)]
            assert [number for number in numbers if number in expected] == expected


def test_the_key_of_a_column_is_the_text_of_its_json() -> None:
    values = [Color.RED, "red", Number.ONE, 1, 1.5, True, None, 2**70]
    pack = Pack.numbered("a", "k", {}, {"k": values})
    read = decode(pack.encode(), PACK, "", "")
    assert pack.keys == read.keys == list(map(pack.key, range(len(values))))
    assert pack.keys == ["red", "red", "1", "1", "1.5", "True", "None", str(2**70)]


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ((1, 2), "[1, 2]"),
        ([1, (2,)], "[1, [2]]"),
        ([Color.RED], "['red']"),
        ({1: (2.5, None)}, "{'1': [2.5, None]}"),
    ],
)
def test_the_key_of_a_column_with_lists_is_the_text_that_a_consumer_reads(
    value: object, key: str
) -> None:
    pack = Pack.numbered("a", "k", {}, {"k": [value]})
    assert pack.keys == decode(pack.encode(), PACK, "", "").keys == [pack.key(0)] == [key]


def test_a_column_of_keys_with_a_value_that_json_lacks_is_refused_by_its_name() -> None:
    pack = Pack.numbered("a", "k", {}, {"k": [(date(2026, 1, 2),)]})
    for read in (lambda: pack.keys, lambda: pack.key(0)):
        with pytest.raises(UsageError, match=r"cannot publish: field 'k.0': expected a value"):
            read()
