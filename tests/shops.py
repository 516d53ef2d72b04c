"""A folder with a topology and its handlers, as a user of TestSystem has it."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from feedbus.testing import TestSystem

TOPOLOGY = """
name = "shop"
[exchanges]
orders   = {{ type = "x-consistent-hash" }}
packed   = {{ type = "x-consistent-hash", pack = 50 }}
receipts = {{ type = "topic" }}
events   = {{ type = "fanout" }}
work     = {{ type = "direct" }}
[queues.reserve]
exchange = "orders"
shards   = 4
handler  = "{module}:reserve"
[queues.count]
exchange = "packed"
shards   = 3
handler  = "{module}:count"
batch    = {{ size = 100 }}
[queues.mail]
exchange     = "receipts"
routing_keys = ["mail.#"]
handler      = "{module}:mail"
[queues.echo]
exchange     = "work"
routing_keys = ["echo"]
handler      = "{module}:echo"
{more}
"""

HANDLERS = """
from marshmallow import Schema, fields
from feedbus import Bus, Outage, Records, Reject, Retry, handler

class Order(Schema):
    id = fields.Int(strict=True, required=True)
    customer = fields.Str(required=True)
    quantity = fields.Int(strict=True, load_default=1)

class Any_(Schema):
    n = fields.Int(strict=True)

failures = []     # raised by mail, one a call
moments = []

@handler(Order)
def reserve(order, bus: Bus) -> None:
    if order["quantity"] < 1:
        raise Reject("quantity must be positive")
    bus.publish("receipts", order, key=f"mail.{order['customer']}")

@handler(Order, batch=True)
def count(orders: Records, bus: Bus) -> None:
    for order in orders.singles():
        if order.first["quantity"] < 1:
            order.reject("quantity must be positive")

@handler(Order)
def mail(order, bus: Bus) -> None:
    if failures:
        raise failures.pop(0)

@handler(Any_)
def echo(message, bus: Bus) -> None:
    bus.publish("work", message, key="echo")
"""

numbers = itertools.count()


class Shop:
    """A folder with a topology and its handlers, as a user has it."""

    def __init__(self, folder: Path, more: str = "", handlers: str = ""):
        self.folder = folder
        self.name = f"shop_of_test_{next(numbers)}"
        (folder / f"{self.name}.py").write_text(HANDLERS + handlers)
        self.topology = folder / "topology.toml"
        self.topology.write_text(TOPOLOGY.format(module=self.name, more=more))

    @property
    def module(self):
        return sys.modules[self.name]

    def system(self, **options):
        return TestSystem(self.topology, **options)


def order(number=1, **fields):
    return {"id": number, "customer": "ann", **fields}
