"""Handlers as the documentation writes them."""

from typing import Any

from marshmallow import Schema, fields

from feedbus import Bus, Outage, Records, Reject, Retry, handler


class Order(Schema):
    """An order."""

    id = fields.Integer(strict=True, required=True)
    product = fields.String(required=True)
    customer = fields.String(required=True)
    quantity = fields.Integer(strict=True, required=True)


@handler(Order)
def reserve(order: dict[str, Any], bus: Bus) -> None:
    """Reserve stock."""
    if order["quantity"] < 1:
        raise Reject("quantity must be positive")
    if order["product"] == "table":
        raise Retry("no table left", after_seconds=60)
    bus.publish("receipts", order, key=f"mail.{order['customer']}")


@handler(Order, batch=True)
def mail(orders: Records, bus: Bus) -> None:
    """Send a mail a customer."""
    del bus
    for order in orders:
        if order["customer"] == "away":
            raise Outage("the mail server is away")
