"""Several types in one queue: each message goes to the handler of its key or type, in order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from feedbus import config
from feedbus.errors import TopologyError
from feedbus.handling.routes import HandlerRoutes
from feedbus.testing import TestSystem
from feedbus.wire.outgoing_message import Outgoing

HANDLERS = """
from dataclasses import dataclass
from feedbus import Bus, Message, Records, Reject, handler

SEEN = []

@dataclass
class Created:
    id: int

@dataclass
class Changed:
    id: int
    product: str

@handler
def created(order: Created):
    SEEN.append(("created", order.id))

@handler
def changed(order: Changed, message: Message):
    SEEN.append(("changed", order.id, message.routing_key))

@handler
async def awaited(order: Changed):
    SEEN.append(("awaited", order.id))

@handler(batch=True)
def all_created(orders: Records[Created]):
    SEEN.append(("created", orders.column("id")))
    orders.where("id", {13}).reject("unlucky")

@handler(batch=True)
def all_changed(orders: Records[Changed]):
    SEEN.append(("changed", orders.column("id")))
    if 14 in orders.column("id"):
        raise ValueError("no fourteen")
"""

TOPOLOGY = """
name = "several"
[exchanges]
orders = { type = "EXCHANGE", pack = 100 }
[queues.orders]
exchange = "orders"
retry = { delays = ["1s"], then = "dead-letter" }
"""
TOPIC = TOPOLOGY.replace("EXCHANGE", "topic") + 'routing_keys = ["#"]\n'
BY_KEY = 'handlers = { "order.created" = "several:created", "order.*" = "several:changed" }\n'
BY_TYPE = 'handlers_by_type = { "created" = "several:created", "changed" = "several:changed" }\n'
BATCHES = """
batch = { size = 10 }
handlers = { "*.created" = "several:all_created", "#" = "several:all_changed" }
"""


@pytest.fixture
def make(tmp_path, monkeypatch) -> Iterator[Any]:
    """Return a function that creates a system of a topology; its handlers record their messages."""
    (tmp_path / "several.py").write_text(HANDLERS)
    monkeypatch.syspath_prepend(tmp_path)
    systems = []

    def make(text: str) -> TestSystem:
        (tmp_path / "topology.toml").write_text(text)
        systems.append(TestSystem(tmp_path / "topology.toml"))
        return systems[-1].__enter__()

    yield make
    for system in systems:
        system.__exit__(None, None, None)
    sys.modules.pop("several", None)


def seen() -> list[Any]:
    found: list[Any] = sys.modules["several"].SEEN
    return found


def test_the_first_pattern_that_matches_takes_the_message_as_its_own_type(make) -> None:
    system = make(TOPIC + BY_KEY)
    system.publish("orders", {"id": 1}, key="order.created")
    system.publish("orders", {"id": 1, "product": "chair"}, key="order.paid")
    system.publish("orders", {"id": "x", "product": 3}, key="order.paid")
    system.publish("orders", {"id": 1}, key="invoice.created.late")
    system.run()
    assert seen() == [("created", 1), ("changed", 1, "order.paid")]
    invalid, lacking = system.dead_letters()
    assert set(invalid.errors) == {"id", "product"}
    assert lacking.reason == (
        "no handler: expected a routing key like order.created, order.*, got 'invoice.created.late'"
    )


def test_a_retry_goes_to_the_handler_of_the_key_that_it_was_published_with(make) -> None:
    system = make(TOPIC + BATCHES)
    system.publish("orders", {"id": 14, "product": "chair"}, key="order.changed")
    system.run()
    assert seen() == [("changed", [14])] * 2
    (letter,) = system.dead_letters()
    assert letter.reason == "ValueError: no fourteen"


@pytest.mark.parametrize("exchange", ["topic", "x-consistent-hash"])
def test_a_batch_is_split_where_another_handler_begins_and_keeps_its_order(make, exchange) -> None:
    keys = 'routing_keys = ["#"]\n' if exchange == "topic" else "shards = 1\n"
    system = make(TOPOLOGY.replace("EXCHANGE", exchange) + keys + BATCHES)
    rows = [("a.created", 1), ("b.created", 13), ("a.changed", 2), ("a.changed", 14)]
    rows += [("a.created", 3), ("b.changed", 4)]
    for key, number in rows if exchange == "topic" else ():
        system.publish("orders", {"id": number, "product": "chair"}, key=key)
    if exchange != "topic":  # all in one pack
        pairs = [({"id": number, "product": "chair"}, key) for key, number in rows]
        system.bus.publish_many("orders", pairs)
    system.run()
    first = [
        ("created", [1, 13]),
        ("changed", [2, 14]),  # fails, and is taken one by one
        ("changed", [2]),
        ("changed", [14]),
        ("created", [3]),
        ("changed", [4]),
        ("changed", [14]),  # the retry
    ]
    assert seen() == first
    assert [(each.payload["id"], each.reason) for each in system.dead_letters()] == [
        (13, "unlucky"),
        (14, "ValueError: no fourteen"),
    ]


def test_the_property_type_chooses_the_handler(make, monkeypatch) -> None:
    system = make(TOPIC + BY_TYPE)
    kinds = iter(["changed", "created", "other", None])
    before = Outgoing.as_amqp_message

    def typed(message: Outgoing, channel: Any) -> Any:
        kind = next(kinds, None)
        found = message if kind is None else message.__class__(**fields_of(message, kind))
        return before(found, channel)

    monkeypatch.setattr(Outgoing, "as_amqp_message", typed)
    for _ in range(4):
        system.publish("orders", {"id": 1, "product": "chair"}, key="k")
    monkeypatch.undo()
    system.run()
    assert seen() == [("changed", 1, "k"), ("created", 1)]
    assert [each.reason for each in system.dead_letters()] == [
        "no handler: expected a message type of created, changed, got the type 'other'",
        "no handler: expected a message type of created, changed, got no type",
    ]


def fields_of(message: Outgoing, kind: str) -> dict[str, Any]:
    names = Outgoing.__dataclass_fields__
    return {name: getattr(message, name) for name in names} | {"properties": {"type": kind}}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (BY_KEY.replace(":changed", ":chnged"), "several has no 'chnged'; did you mean"),
        (BY_KEY + 'handler = "several:created"\n', "handlers: cannot be combined with handler"),
        (BY_KEY + BY_TYPE, "handlers_by_type: cannot be combined with handlers"),
        ('handlers = { "a.b*" = "several:created" }\n', "words joined by dots"),
        ("handlers = {}\n", "expected a table of dotted names, at least one"),
        (BY_KEY.replace(":changed", ":awaited"), "is defined with 'async def': expected 'def'"),
        (BY_KEY + "batch = { size = 2 }\n", "takes one record in a call"),
    ],
)
def test_a_wrong_table_of_handlers_is_a_problem_with_its_place(make, tmp_path, options, problem):
    make(TOPIC + BY_KEY)
    path = tmp_path / "wrong.toml"
    path.write_text(TOPIC + options)
    with pytest.raises(TopologyError) as caught:
        config.load(path, import_handlers=True)
    found = [str(each) for each in caught.value.problems]
    assert any(problem in text for text in found), found
    assert all(text.startswith(f"{path}:") for text in found)


@pytest.mark.parametrize(
    ("pattern", "key", "taken"),
    [
        ("order.*", "order.created", True),
        ("order.*", "order.created.late", False),
        ("order.#", "order", True),
        ("#.created", "a.b.created", True),
        ("#", "", True),
        ("*", "", False),
        ("", "", True),
        ("order", "orders", False),
    ],
)
def test_patterns_match_as_those_of_topic_exchanges(pattern, key, taken) -> None:
    routes = HandlerRoutes([None], patterns=(pattern,))  # type: ignore[list-item]
    assert routes.index_for(key, {}) == (0 if taken else None)
