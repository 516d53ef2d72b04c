"""Handlers whose messages are typed, as the documentation writes them."""

from dataclasses import dataclass
from typing import Any

import msgspec
from marshmallow import Schema, fields

from feedbus import Bus, Message, Raw, Records, Reject, handler


@dataclass
class Order:
    """An order."""

    id: int
    product: str
    customer: str
    quantity: int


class Parcel(msgspec.Struct):
    """A parcel."""

    weight: float


class Invoice(msgspec.Struct):
    """An invoice."""

    total: int


class OrderSchema(Schema):
    """An order, as marshmallow describes it."""

    id = fields.Integer(strict=True, required=True)


@handler
async def mail(order: Order, message: Message, bus: Bus) -> None:
    """Mail the ordered product."""
    bus.publish("notes", Raw(f"{message.routing_key}: {order.product}"))


@handler(batch=True)
async def mail_all(orders: Records[Order]) -> None:
    """Mail to many at once."""
    assert orders.first.product


@handler
def note_text(text: str) -> None:
    """Note a text."""
    assert text


@handler  # type: ignore[type-var]
def returns(order: Order) -> int:
    """Return something, which a handler may not."""
    return order.id


@handler
def reserve(order: Order, bus: Bus) -> None:
    """Reserve stock."""
    if order.quantity < 1:
        raise Reject("quantity must be positive")
    bus.publish("receipts", order, key=f"mail.{order.customer}")
    bus.publish_many("receipts", [(order, "a"), (Parcel(1.0), "b"), ({"id": 1}, "c")])
    bus.publish("receipts", 3)  # type: ignore[arg-type]


@handler()
def ship(parcel: Parcel) -> None:
    """Ship a parcel."""
    assert parcel.weight + 1.5


@handler(batch=True)
def bill(invoices: Records[Invoice]) -> None:
    """Add up."""
    assert sum(invoice.total for invoice in invoices) == invoices.first.total


@handler(OrderSchema)
def note(order: dict[str, Any]) -> None:
    """Note an order."""
    assert order["id"]


@handler(Order, batch=True)
def count(orders: Records[Order]) -> None:
    """Count orders."""
    for customer, own in orders.group_by("customer").items():
        assert own.first.quantity, customer


def call() -> None:
    """A handler stays a function."""
    ship(Parcel(1.0))
    wrong: int = reserve  # type: ignore[assignment]
    assert wrong
