"""Convert messages between py-amqp's form and the form in the file."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from amqp.basic_message import Message
from amqp.exceptions import FrameSyntaxError, PreconditionFailed

from feedbus.transports.sqlite.table_json import Table, table_from_json, table_to_json
from feedbus.wire.nesting import deeper_than

PROPERTIES = tuple(name for name, _ in Message.PROPERTIES)
MAX_DEPTH = 100  # the deepest nesting of tables in headers that a consumer can read recursively
LONGEST_KEY_BYTES = LARGEST_OCTET = 255

Properties = Table


@dataclass(frozen=True, slots=True)
class Content:
    """A message as the file stores it.

    Attributes:
        exchange: the exchange to which it was published.
        routing_key: its routing key.
        properties: the AMQP properties with the headers, as JSON; dump() makes it.
        body: the body.
        expiration_ms: the time to live in milliseconds that the publisher has set; None if there is
            none.
        priority: the priority, from 0 to 255.
    """

    exchange: str
    routing_key: str
    properties: str
    body: bytes
    expiration_ms: int | None = None
    priority: int = 0


def pack(message: Any, exchange: str, routing_key: str | bytes) -> Content:
    """Return an amqp Message in the form that the file stores; called when it is published.

    Args:
        message: the amqp Message of the publisher.
        exchange: the exchange to which it is published.
        routing_key: its routing key; bytes are decoded as UTF-8.

    Raises:
        UnicodeError: the routing key is not UTF-8.
        FrameSyntaxError: the routing key is longer than 255 bytes, headers are nested too deeply,
            AMQP has no type for a header, or the priority is not an integer from 0 to 255.
        PreconditionFailed: the expiration is not a number of milliseconds.
    """
    properties = {name: value for name, value in message.properties.items() if value is not None}
    if deeper_than(MAX_DEPTH, properties.get("application_headers")):
        msg = f"headers nested too deeply: expected at most {MAX_DEPTH} levels"
        raise FrameSyntaxError(msg)
    body = message.body
    if isinstance(body, str):
        body = body.encode(properties.setdefault("content_encoding", "utf-8"))
    expiration = properties.get("expiration")
    return Content(
        exchange or "",
        check_key(routing_key),
        dump(properties),
        bytes(body),
        None if expiration is None else _milliseconds(expiration),
        _check_priority(properties.get("priority", 0)),
    )


def check_key(routing_key: str | bytes | None) -> str:
    """Return the routing key as text; None becomes "".

    Raises:
        UnicodeError: the key is not UTF-8.
        FrameSyntaxError: the key is longer than 255 bytes.
    """
    key = routing_key.decode() if isinstance(routing_key, bytes) else routing_key or ""
    if len(key.encode()) > LONGEST_KEY_BYTES:
        msg = f"routing key: expected at most {LONGEST_KEY_BYTES} bytes, got {len(key.encode())}"
        raise FrameSyntaxError(msg)
    return key


def _check_priority(priority: Any) -> int:
    if isinstance(priority, int) and 0 <= priority <= LARGEST_OCTET:
        return int(priority)
    msg = f"priority: expected an integer from 0 to {LARGEST_OCTET}, got {priority!r}"
    raise FrameSyntaxError(msg)


def _milliseconds(expiration: Any) -> int:
    text = str(expiration)
    if not (text.isascii() and text.isdigit()):
        msg = f"PRECONDITION_FAILED - invalid expiration '{text}'"
        raise PreconditionFailed(msg, (60, 40))
    return int(text)


def unpack(exchange: str, routing_key: str, properties: str, body: bytes, channel: Any) -> Any:
    """Return a stored message as an amqp Message, for its delivery to a client.

    Its delivery_info contains only the exchange and the routing key. The caller adds the rest.

    Args:
        exchange: the exchange to which it was published.
        routing_key: its routing key.
        properties: the properties as JSON, as dump() has written them.
        body: the body; if the properties declare an encoding, the Message has it as text.
        channel: the channel of the client.
    """
    loaded = table_from_json(properties)
    decoded: bytes | str = body
    encoding = loaded.get("content_encoding")
    if encoding and channel.auto_decode:  # as in py-amqp, a declared encoding makes the body text
        with contextlib.suppress(LookupError, UnicodeError):
            decoded = body.decode(encoding)
    message = Message(decoded, channel=channel, **loaded)
    message.delivery_info = {"exchange": exchange, "routing_key": routing_key}
    return message


def dump(properties: Properties) -> str:
    """Return properties and headers as JSON.

    Raises:
        FrameSyntaxError: AMQP has no type for the value of a header.
    """
    return table_to_json({name: properties[name] for name in properties if name in PROPERTIES})
