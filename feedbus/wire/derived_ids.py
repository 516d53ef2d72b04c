"""The id of a message that has no message id: it is derived from the content of the message.

The id is the same at each redelivery and in each process. If two messages without ids have equal
bodies, routing keys, headers and identifying properties, they get the same id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from feedbus.wire.constants import (
    DEATHS,
    OF_DEATHS,
    OF_DELIVERIES,
    OF_FAILURES,
    RUN,
    SHORT_TEXT_BYTES,
)

DIGITS = 32  # the hexadecimal digits of an id
UNIQUE_DIGITS = 16  # the digits of a unique part, which with_unique_part() adds to an id
# The properties from which the id is computed. The other properties of a message may be removed: by
# the broker, or by feedbus when it moves the message to another queue.
IDENTIFYING = (
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "timestamp",
    "type",
    "app_id",
)


def with_unique_part(message_id: str, digits: str) -> str:
    """Return a derived id with a unique part, which distinguishes equal messages.

    Args:
        message_id: the derived id.
        digits: a text of digits that no other message gets.

    """
    return f"{message_id}.{digits[:UNIQUE_DIGITS]}"


def has_unique_part(message_id: str) -> bool:
    """Whether a derived id has a unique part.

    Args:
        message_id: the id that feedbus uses for a message without a valid id.

    """
    return message_id[DIGITS : DIGITS + 1] == "."


def is_id(value: object) -> bool:
    """Whether a value is a valid message id: a text of 1 to 255 bytes of UTF-8, without NUL.

    A text with the character NUL cannot be stored by PostgreSQL, and is cut by SQLite.
    """
    return bool(value) and is_short_text(value) and "\0" not in str(value)


def is_short_text(value: object) -> bool:
    """Whether a value is a text of at most 255 bytes of UTF-8, the limit of AMQP for such texts."""
    if not isinstance(value, str):
        return False
    if value.isascii():
        return len(value) <= SHORT_TEXT_BYTES
    try:
        return len(value.encode()) <= SHORT_TEXT_BYTES
    except UnicodeEncodeError:
        return False


def derived_id(
    body: bytes, routing_key: str, properties: Mapping[str, Any], headers: Mapping[str, Any]
) -> str:
    """Return an id for a message without a valid id, derived from what the publisher has sent.

    The id has 32 hexadecimal digits. The exchange of the delivery is not used, because it can
    change when a queue is resharded. The headers that the broker or feedbus adds after the
    publishing are not used either.

    Args:
        body: the body.
        routing_key: the routing key of the delivery.
        properties: AMQP's properties; only the properties in IDENTIFYING are used.
        headers: the headers.
    """
    identifying = [
        (name, properties[name]) for name in IDENTIFYING if properties.get(name) is not None
    ]
    published_headers = sorted(
        (name, repr(value)) for name, value in headers.items() if not changes_in_transit(name)
    )
    digest = hashlib.sha256(ascii((routing_key, identifying, published_headers)).encode())
    digest.update(body)
    return digest.hexdigest()[:DIGITS]


def changes_in_transit(name: str) -> bool:
    """Whether a header was added by the broker or by feedbus after the message was published."""
    return name in OF_DELIVERIES or name in OF_FAILURES or name == RUN or is_of_deaths(name)


def is_of_deaths(name: str) -> bool:
    """Whether a header is one that the broker adds when it dead-letters a message."""
    return name == DEATHS or name.startswith(OF_DEATHS)
