"""Message types, several handlers of a queue and codecs on RabbitMQ, with a consumer's process."""

from __future__ import annotations

import sys
import uuid

import amqp
import pytest

import feedbus
from tests.projects import Project
from tests.systems import publish_confirmed

pytestmark = pytest.mark.integration

TOPOLOGY = """
name = "NAME"
[broker]
url = "URL"
[codecs]
"text/csv" = "orders:CsvCodec"
[exchanges]
orders = { type = "topic" }
rows   = { type = "topic", content_type = "text/csv" }
[queues.work]
exchange = "orders"
routing_keys = ["#"]
handlers = { "order.created" = "orders:created", "order.note" = "orders:note" }
[queues.typed]
exchange = "rows"
routing_keys = ["#"]
batch = { size = 10 }
handlers_by_type = { "row" = "orders:rows" }
"""

HANDLERS = """
from dataclasses import dataclass
from datetime import datetime
from feedbus import Message, Records, handler

def log(*words):
    with open("log", "a") as file:
        print(*words, file=file)

@dataclass
class Order:
    id: int
    at: datetime

@dataclass
class Row:
    id: int
    product: str

class CsvCodec:
    def decode(self, body, content_type, headers):
        number, product = body.decode().split(",")
        return {"id": int(number), "product": product}

    def encode(self, payload):
        return f"{payload['id']},{payload['product']}".encode()

@handler
def created(order: Order):
    log("created", order.id, order.at.year)

@handler
def note(text: str, message: Message):
    log("note", text, message.routing_key)

@handler(batch=True)
def rows(rows: Records[Row]):
    log("rows", *rows.column("product"))
"""


def test_each_message_reaches_its_handler_as_its_type(rabbitmq, tmp_path, monkeypatch) -> None:
    name = f"types-{uuid.uuid4().hex[:8]}"
    (tmp_path / "topology.toml").write_text(
        TOPOLOGY.replace("NAME", name).replace("URL", rabbitmq.url)
    )
    (tmp_path / "orders.py").write_text(HANDLERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    from orders import Order, Row  # type: ignore[import-not-found]

    with feedbus.connect(tmp_path / "topology.toml") as bus:
        bus.publish("orders", Order(7, "2026-11-24T00:00:00Z"), key="order.created")
        bus.publish("orders", {"id": "x"}, key="order.created")
        bus.publish("orders", {"id": 8}, key="order.lost")
        bus.publish("rows", Row(1, "chair"))  # has no type
    node = rabbitmq.url.removeprefix("amqp://").rpartition("@")[2].rstrip("/")
    with amqp.Connection(host=node.partition("/")[0]) as connection:
        channel = connection.channel()
        text = amqp.Message("grüße".encode("latin-1"), content_type="text/plain; charset=latin-1")
        publish_confirmed(channel, text, f"{name}.orders", "order.note")
        for number, product in ((2, "table"), (3, "lamp")):
            row = amqp.Message(f"{number},{product}", content_type="text/csv", type="row")
            publish_confirmed(channel, row, f"{name}.rows", "any")
        channel.close()
    project = Project(tmp_path)
    for consumer in ("work", "typed"):
        project.feedbus("run", consumer, "--idle-timeout", "1s")
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[:2] == ["created 7 2026", "note grüße order.note"]
    assert " ".join(line.removeprefix("rows ") for line in lines[2:]) == "table lamp"
    shown = project.feedbus("dead", "list", "work", "--json").stdout
    assert "expected int, got str" in shown
    assert "order.lost" in shown
    assert "got no type" in project.feedbus("dead", "list", "typed", "--json").stdout
    sys.modules.pop("orders", None)
