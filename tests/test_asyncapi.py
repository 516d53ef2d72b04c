"""feedbus asyncapi: the document is valid, and describes what the handlers accept."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jsonschema_rs
import pytest
import yaml
from click.testing import CliRunner

from feedbus.cli import main

PROJECT = Path(__file__).parents[1]
OFFICIAL = json.loads((PROJECT / "tests/data/asyncapi/3.0.0.json").read_text())

TOPOLOGY = """
name = "shop"
[broker]
url = "amqps://web:s3cret@rabbit.example/eu;amqps://web:s3cret@other.example/eu"
[exchanges]
orders   = { type = "x-consistent-hash", pack = 100 }
receipts = { type = "topic" }
notes    = { type = "direct" }
letters  = { type = "fanout", content_type = "text/plain" }
legacy   = { type = "topic", external = true, name = "erp.events" }
[queues.reserve]
exchange = "orders"
shards   = 4
handler  = "asyncapi_app:reserve"
[queues.mail]
exchange         = "receipts"
routing_keys     = ["mail.#"]
handlers_by_type = { "order.placed" = "asyncapi_app:placed", "order.paid" = "asyncapi_app:paid" }
[queues.note]
exchange     = "notes"
routing_keys = ["note"]
handler      = "asyncapi_app:note"
[queues.anything]
exchange     = "legacy"
routing_keys = ["#"]
handler      = "asyncapi_app:anything"
[queues.letter]
exchange = "letters"
handler  = "asyncapi_app:letter"
[queues.customer]
external = true
name     = "crm.customers"
handler  = "asyncapi_app:customer"
[schedules.nightly]
cron     = "0 3 * * *"
exchange = "notes"
key      = "note"
payload  = { text = "count the stock" }
"""

APP = '''
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec
from marshmallow import Schema, fields, validate
from pydantic import BaseModel, Field

from feedbus import Records, handler


@dataclass
class Line:
    product: str
    quantity: int


@dataclass
class Order:
    id: int
    lines: list[Line]
    placed_at: datetime | None = None


class Card(msgspec.Struct, tag="card"):
    number: str


class Cash(msgspec.Struct, tag="cash"):
    currency: str


class Pet(BaseModel):
    kind: Literal["pet"]


class Toy(BaseModel):
    kind: Literal["toy"]


class Customer(BaseModel):
    name: str = Field(min_length=1)
    owns: Pet | Toy = Field(discriminator="kind")


class Reader(Schema):
    login = fields.String(required=True, validate=validate.Length(1, 20))


class Note(Schema):
    text = fields.String(required=True)
    color = fields.String(validate=validate.OneOf(["red", "blue"]), load_default="red")
    priority = fields.Integer(strict=True, allow_none=True, validate=validate.Range(0, 9))
    written = fields.DateTime(data_key="writtenAt")
    readers = fields.List(fields.Nested(Reader))


@handler(batch=True)
def reserve(orders: Records[Order]) -> None:
    """Reserve stock.

    Orders of one product are handled in order.
    """


@handler
def placed(payment: Card | Cash) -> None: ...
@handler
def paid(order: Order) -> None: ...
@handler(Note)
def note(note: dict) -> None: ...
@handler
def anything(message: dict) -> None: ...
@handler
def letter(text: str) -> None: ...
@handler
def customer(customer: Customer) -> None: ...
'''


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    (folder / "topology.toml").write_text(TOPOLOGY)
    (folder / "asyncapi_app.py").write_text(APP)
    yield folder / "topology.toml"
    sys.modules.pop("asyncapi_app", None)
    sys.path.remove(str(folder))


def printed(topology, *options):
    result = CliRunner().invoke(main, ["--topology", str(topology), "asyncapi", *options])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def document(shop):
    return json.loads(printed(shop, "--json"))


def followed(document, reference):
    """Return what a reference within the document leads to."""
    found = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def accepts(document, message, payload):
    """Return whether the payload's schema of a message accepts a payload."""
    schema = document["components"]["messages"][message]["payload"]
    return jsonschema_rs.is_valid({**schema, "components": document["components"]}, payload)


@pytest.mark.parametrize("topology", ["shop", "the application"])
def test_the_document_is_valid_by_the_official_schema(shop, topology):
    path = shop if topology == "shop" else PROJECT / "topology.toml"
    jsonschema_rs.validate(OFFICIAL, json.loads(printed(path, "--json")))


def test_yaml_and_json_say_the_same(shop, document):
    assert yaml.safe_load(printed(shop)) == document


def test_every_reference_leads_somewhere(document):
    def references(part):
        if isinstance(part, list):
            part = dict(enumerate(part))
        if isinstance(part, dict):
            for key, value in part.items():
                if key == "$ref":
                    yield value
                yield from references(value)

    found = list(references(document))
    assert len(found) > 20
    for reference in found:
        followed(document, reference)


def test_the_servers_are_the_brokers_nodes_without_their_password(shop, document):
    hosts = {server["host"]: server["protocol"] for server in document["servers"].values()}
    assert hosts == {"rabbit.example:5671": "amqps", "other.example:5671": "amqps"}
    assert "s3cret" not in printed(shop)


def test_exchanges_and_queues_are_channels_with_the_names_that_the_broker_has(document):
    channels = document["channels"]
    bindings = {name: channel["bindings"]["amqp"] for name, channel in channels.items()}
    exchanges = {
        name: (binding["exchange"]["name"], binding["exchange"]["type"])
        for name, binding in bindings.items()
        if binding["is"] == "routingKey"
    }
    assert exchanges == {
        "exchange.orders": ("shop.orders", "fanout"),
        "exchange.receipts": ("shop.receipts", "topic"),
        "exchange.notes": ("shop.notes", "direct"),
        "exchange.letters": ("shop.letters", "fanout"),
        "exchange.legacy": ("erp.events", "topic"),
    }
    assert channels["queue.reserve"]["address"] == "shop.reserve_{shard}.{generation}"
    assert channels["queue.mail"]["address"] == "shop.mail"
    assert channels["queue.customer"]["address"] == "crm.customers"
    assert {
        binding["exchange"]["vhost"] for binding in bindings.values() if "exchange" in binding
    } == {"eu"}
    assert channels["exchange.notes"]["parameters"]["routing_key"]["enum"] == ["note"]


def test_an_exchange_has_the_messages_of_its_queues_and_a_queue_those_of_its_handlers(document):
    def names(channel):
        return list(document["channels"][channel]["messages"])

    assert names("queue.reserve") == names("exchange.orders") == ["Order"]
    assert names("queue.mail") == names("exchange.receipts") == ["CardOrCash", "mail.Order"]
    assert names("queue.customer") == ["Customer"]
    assert names("queue.anything") == ["anything"]


def test_operations_publish_to_exchanges_and_handle_queues(document):
    operations = document["operations"]
    assert {name for name, each in operations.items() if each["action"] == "send"} == {
        *("publish.orders", "publish.receipts", "publish.notes", "publish.letters"),
        *("publish.legacy", "schedule.nightly"),
    }
    assert operations["handle.reserve"]["summary"] == "Reserve stock."
    assert operations["schedule.nightly"]["channel"] == {"$ref": "#/channels/exchange.notes"}


def test_messages_have_the_type_and_the_content_type_that_handlers_expect(document):
    messages = document["components"]["messages"]
    assert messages["mail.Order"]["bindings"]["amqp"]["messageType"] == "order.paid"
    assert messages["letter"]["contentType"] == "text/plain"
    assert messages["Order"]["contentType"] == "application/json"


@pytest.mark.parametrize(
    ("message", "valid", "invalid"),
    [
        ("Order", {"id": 1, "lines": [{"product": "a", "quantity": 2}]}, {"id": 1, "lines": [{}]}),
        ("CardOrCash", {"type": "cash", "currency": "EUR"}, {"type": "card", "currency": "EUR"}),
        ("Customer", {"name": "ann", "owns": {"kind": "toy"}}, {"name": "", "owns": {}}),
        ("anything", {"any": [1]}, "text"),
        ("letter", "Dear Ann", 1),
    ],
)
def test_payloads_are_described_as_the_handlers_accept_them(document, message, valid, invalid):
    assert accepts(document, message, valid)
    assert not accepts(document, message, invalid)


@pytest.mark.parametrize(
    ("wrong", "value"),
    [
        ("text", 1),
        ("color", "green"),
        ("priority", 10),
        ("priority", "1"),
        ("writtenAt", 5),
        ("readers", [{"login": ""}]),
        ("readers", [{}]),
        ("unknown", 1),
    ],
)
def test_a_marshmallow_schema_is_described_with_its_validators(document, wrong, value):
    note = {"text": "a", "color": "blue", "priority": None, "writtenAt": "2026-11-28T10:00:00Z"}
    note["readers"] = [{"login": "ann"}]
    assert accepts(document, "Note", note)
    assert not accepts(document, "Note", note | {wrong: value})
