"""Handlers as the documentation writes them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.client import HTTPConnection
from typing import Annotated, Any

from marshmallow import Schema, fields

from feedbus import (
    Bus,
    Call,
    DeadLetter,
    Message,
    Middleware,
    Outage,
    Records,
    Reject,
    Retry,
    handler,
    resource,
)
from feedbus.topology import Topology


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
            raise Outage("the mail server is unavailable")


@resource
def mail_server(topology: Topology) -> Iterator[HTTPConnection]:
    """A connection for the whole life of a process."""
    connection = HTTPConnection(f"{topology.name}.example")
    yield connection
    connection.close()


@resource
async def archive() -> AsyncIterator[bytes]:
    """Something of an event loop."""
    yield b""


@handler(Order)
def remind(
    order: dict[str, Any], message: Message, server: Annotated[HTTPConnection, mail_server]
) -> None:
    """Ask for all that there is."""
    if message.attempt > 1 and message.headers.get("source") == "web":
        server.request("GET", f"/{order['id']}/{message.routing_key}")


def compensate(letter: DeadLetter, bus: Bus) -> None:
    """Undo an order."""
    bus.publish("receipts", letter.payload, key=letter.reason)


class Timing(Middleware):
    """Around any handler."""

    @contextmanager
    def around(self, call: Call) -> Iterator[None]:
        """Say nothing."""
        assert call.records
        yield


class Tracing(Middleware):
    """Around async handlers."""

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Say nothing."""
        assert call.messages
        yield
