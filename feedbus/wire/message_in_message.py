"""Sealed messages: a retry or dead letter whose body contains the original message.

Normally a retry or dead letter has the properties of the original message. It is sealed instead if
these properties contain a value that some clients cannot read, such as a text that is not UTF-8.
It is also sealed if the properties do not fit into one frame of AMQP together with the headers that
feedbus adds. A record that waits for earlier records of its key is sealed for the same reasons.

The body of a sealed message has three parts: the length of the original properties in four bytes,
these properties as AMQP encodes them, and the original body.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from feedbus.errors import UsageError
from feedbus.wire.amqp_encoding import read_properties, write_properties
from feedbus.wire.constants import (
    ATTEMPT,
    DEATHS_BEFORE,
    ERRORS,
    GENERATION,
    OF_FAILURES,
    REASON,
    RECORD_COUNT,
    SEALED,
    TRACEBACK,
)
from feedbus.wire.outgoing_message import Outgoing

# A frame has 8 bytes in addition to its content. A content header has 12 bytes before the
# properties of the message.
FRAME_OVERHEAD = 8 + 12
SHORT_REASON = 200  # the characters of a reason that is shortened to fit into the frame
# feedbus does not compute the size of a message that has only these headers, and no properties of
# the publisher. Such a message fits into every frame, because feedbus itself makes these headers.
OF_NEW_PACKS = frozenset({GENERATION, RECORD_COUNT})

_LENGTH = struct.Struct(">I")


def seal(message: Outgoing) -> Outgoing:
    """Return a sealed retry or dead letter: the original message is in its body.

    The sealed message itself has only the headers that feedbus added.

    Args:
        message: the retry or dead letter.
    """
    # The broker's headers about dead-lettering are from the original message, too.
    added = OF_FAILURES - {DEATHS_BEFORE}
    published_headers = {
        name: value for name, value in message.headers.items() if name not in OF_FAILURES
    } | message.headers.get(DEATHS_BEFORE, {})
    properties = write_properties(
        {
            **message.properties,
            "content_type": message.content_type,
            "content_encoding": message.content_encoding,
            "application_headers": published_headers or None,
        }
    )
    return replace(
        message,
        body=_LENGTH.pack(len(properties)) + properties + message.body,
        content_type=SEALED,
        content_encoding=None,
        headers={name: value for name, value in message.headers.items() if name in added},
        properties={},
    )


def open_sealed(body: bytes) -> tuple[dict[str, Any], bytes, Sequence[str]]:
    """Return the original message that the body of a sealed message contains.

    Args:
        body: the body of the sealed message.

    Returns:
        The properties of the original message, its body, and an error text for each part that
        cannot be decoded. If the body does not have the three parts of a sealed message, the
        function returns it unchanged, with an error text.
    """
    try:
        (length,) = _LENGTH.unpack_from(body)
        properties, undecodable = read_properties(body[4 : 4 + length], 0)
    except (ValueError, IndexError, struct.error) as error:
        return {"content_type": SEALED}, body, [f"not a sealed message: {error}"]
    return properties, body[4 + length :], undecodable


def fit_properties(message: Outgoing, frame_bytes: int | None) -> Outgoing:
    """Return a message whose properties fit into one frame.

    The properties include the headers. If the properties of a retry, of a dead letter or of a
    waiting record do not fit, these steps make them smaller, until they fit:

    1. The traceback is left out.
    2. The message is sealed.
    3. The reason is shortened, and the errors of the fields are left out.

    Args:
        message: the message to publish.
        frame_bytes: the largest size of a frame, as agreed with the broker; None for no limit.

    Raises:
        UsageError: the properties do not fit, and the message is for another purpose.

    """
    if frame_bytes is None or (not message.properties and message.headers.keys() <= OF_NEW_PACKS):
        return message
    room = frame_bytes - FRAME_OVERHEAD
    size = _size(message)
    if size <= room:
        return message
    if ATTEMPT not in message.headers:  # Delivery opens only sealed messages with this header
        msg = f"cannot publish: expected at most {room} bytes of headers and properties, got {size}"
        raise UsageError(msg)
    if TRACEBACK in message.headers:
        headers = {name: value for name, value in message.headers.items() if name != TRACEBACK}
        return fit_properties(replace(message, headers=headers), frame_bytes)
    if message.content_type != SEALED:
        message = seal(message)
    if _size(message) > room:
        headers = dict(message.headers)
        if ERRORS in headers:
            headers[ERRORS] = json.dumps({"": ["left out: too large for the broker's frame"]})
        if REASON in headers:
            headers[REASON] = str(headers[REASON])[:SHORT_REASON]
        message = replace(message, headers=headers)
    return message


def _size(message: Outgoing) -> int:
    try:
        return len(write_properties(message.all_properties()))
    except ValueError as error:
        msg = f"cannot publish: {error}"
        raise UsageError(msg) from error
