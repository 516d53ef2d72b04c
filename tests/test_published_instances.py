"""Instances of message types are published by every bus, and clear errors refuse the others."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pydantic
import pytest

from feedbus import Records, connect_async
from feedbus.errors import UsageError
from feedbus.testing import RecordingBus, TestSystem

TOPOLOGY = """
name = "typed"
[exchanges]
orders = { type = "direct", pack = 100 }
copies = { type = "direct", pack = 100 }
[queues.orders]
exchange = "orders"
routing_keys = ["", "k"]
handler = "typed_handlers:HANDLER"
BATCH
[queues.copies]
exchange = "copies"
routing_keys = ["", "k"]
handler = "typed_handlers:anything"
"""

HANDLERS = """
import dataclasses
from datetime import datetime
import msgspec, pydantic
from feedbus import Bus, Records, handler

@dataclasses.dataclass
class Order:
    id: int
    product: str
    at: datetime | None = None

class Struct(msgspec.Struct, rename="camel"):
    order_id: int
    product: str

class Model(pydantic.BaseModel):
    order_id: int = pydantic.Field(alias="orderId")
    product: str

@handler
def of_orders(order: Order, bus: Bus):
    bus.publish("copies", order, key="k")
    bus.publish_many("copies", [(order, "k"), ({"id": 0}, "k")])

@handler
def of_structs(order: Struct, bus: Bus):
    bus.publish("copies", order, key="k")

@handler
def of_models(order: Model, bus: Bus):
    bus.publish("copies", order, key="k")

@handler(batch=True)
def of_many(orders: Records[Order]):
    for product, some in orders.group_by("product").items():
        some.publish("copies", columns={"id": "id"}, shared={"product": some.first.product})
    for one in orders.singles():
        one.publish_many("copies", [(one.first, "k")])

@handler
def anything(message):
    pass
"""


@pytest.fixture
def make(tmp_path, monkeypatch) -> Iterator[Any]:
    """Return a function that creates a system whose queue of orders has a handler."""
    (tmp_path / "typed_handlers.py").write_text(HANDLERS)
    monkeypatch.syspath_prepend(tmp_path)
    systems = []

    def make(handler: str, batch: str = "") -> TestSystem:
        text = TOPOLOGY.replace("HANDLER", handler).replace("BATCH", batch)
        (tmp_path / "topology.toml").write_text(text)
        systems.append(TestSystem(tmp_path / "topology.toml"))
        return systems[-1].__enter__()

    yield make
    for system in systems:
        system.__exit__(None, None, None)
    sys.modules.pop("typed_handlers", None)


def payloads(system: TestSystem) -> list[Any]:
    return [each.payload for each in system.published("copies")]


def test_a_handler_takes_an_instance_and_publishes_it_again(make) -> None:
    system = make("of_orders")
    at = datetime(2026, 11, 24, 22, 15, 57, tzinfo=UTC)
    from typed_handlers import Order  # type: ignore[import-not-found]

    system.publish("orders", Order(7, "chair", at))
    system.run()
    assert system.dead_letters() == []
    assert system.handled("orders")[0].payload == Order(7, "chair", at)
    copy = {"id": 7, "product": "chair", "at": "2026-11-24T22:15:57Z"}
    assert payloads(system) == [copy, copy, {"id": 0}]


@pytest.mark.parametrize("handler", ["of_structs", "of_models"])
def test_fields_travel_by_their_names_on_the_wire(make, handler) -> None:
    system = make(handler)
    system.publish("orders", {"orderId": 7, "product": "chair"})
    system.publish("orders", {"orderId": "x"})
    system.run()
    assert payloads(system) == [{"orderId": 7, "product": "chair"}]
    (letter,) = system.dead_letters()
    assert set(letter.errors) == {"orderId", "product"}


def test_a_batch_of_instances_is_grouped_and_published(make) -> None:
    system = make("of_many", "batch = { size = 10 }")
    for number, product in enumerate(("chair", "chair", "table")):
        system.publish("orders", {"id": number, "product": product})
    system.publish("orders", {"id": "x", "product": "chair"})
    system.run()
    found = payloads(system)
    assert [each for each in found if "at" not in each] == [
        {"id": 0, "product": "chair"},
        {"id": 1, "product": "chair"},
        {"id": 2, "product": "table"},
    ]
    assert len(found) == 6
    assert system.dead_letters()[0].errors == {"id": ["expected int, got str"]}


def test_an_event_loop_publishes_instances(make, tmp_path) -> None:
    make("of_orders")
    from typed_handlers import Order

    async def publish() -> int:
        async with await connect_async(tmp_path / "topology.toml") as bus:
            await bus.publish("copies", Order(1, "chair"))
            return await bus.publish_many("copies", [(Order(2, "chair"), "k"), ({"id": 3}, "k")])

    assert asyncio.run(publish()) == 2


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Rich:
    at: Any


class RichStruct(msgspec.Struct):
    at: Any


class RichModel(pydantic.BaseModel):
    at: Any


KEY = uuid.UUID(int=7)


@pytest.mark.parametrize("kind", [Rich, RichStruct, RichModel])
@pytest.mark.parametrize(
    ("value", "written"),
    [
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        (Decimal("1.10"), "1.10"),
        (KEY, str(KEY)),
        (Colour.RED, "red"),
        ([{"a": Colour.RED}], [{"a": "red"}]),
    ],
    ids=str,
)
def test_what_json_does_not_have_is_written_as_text_in_instances(kind, value, written) -> None:
    bus = RecordingBus()
    bus.publish("x", kind(at=value))
    assert bus.published[0].payload == {"at": written}


class Unknown:
    def __repr__(self) -> str:
        return "Unknown()"


circle: list[Any] = []
circle.append(circle)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (
            KEY,
            r"field 'at': expected a value that JSON can represent, got UUID\(.*of type UUID;",
        ),
        ({"b": [1, KEY]}, r"field 'at\.b\.1': expected a value that JSON can represent"),
        (
            float("nan"),
            "field 'at': expected a number that JSON can represent, got nan",
        ),
        (10**5000, "field 'at': int: Exceeds the limit"),
        (circle, "contains itself, or is nested too deeply"),
        (b"raw", "field 'at': expected a value that JSON can represent"),
    ],
    ids=["uuid", "within", "nan", "huge", "circle", "bytes"],
)
def test_a_field_that_json_cannot_carry_is_named(make, value, reason) -> None:
    system = make("of_orders")
    with pytest.raises(UsageError, match=f"cannot publish: .*{reason}"):
        system.publish("copies", {"id": 1, "at": value})


async def fetch() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (fetch, r"payload: expected a mapping, .* of type function"),
        (Rich, "that is the class: publish an instance"),
        (Unknown(), r"got Unknown\(\) of type Unknown"),
        ("text", "got 'text' of type str"),
        (Rich(Unknown()), "payload: Rich has a field that JSON cannot represent"),
        (RichModel(at=Unknown()), "payload: RichModel has a field that JSON cannot represent"),
    ],
    ids=["function", "class", "object", "text", "dataclass", "model"],
)
def test_what_is_no_payload_is_refused_by_name(payload, reason) -> None:
    with pytest.raises(TypeError, match=reason):
        RecordingBus().publish("x", payload)


def test_a_coroutine_is_refused_and_closed() -> None:
    with pytest.raises(TypeError, match="it was not awaited: write await"):
        RecordingBus().publish("x", fetch())  # type: ignore[arg-type]


def test_a_test_makes_records_of_instances() -> None:
    records: Records[Rich] = Records.of([Rich(1), Rich(2)])
    assert records.column("at") == [1, 2]
    assert records.where("at", {2}).first == Rich(2)
