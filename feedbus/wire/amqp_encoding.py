"""AMQP's properties and header tables: any content can be read and written back unchanged.

py-amqp's own reader raises an error for a timestamp that datetime cannot represent, and for a text
that is not UTF-8. This module keeps such values in a special form:

- A property, a name of a header or a routing key that is not UTF-8 becomes a text in which its
  invalid bytes are lone surrogates ("surrogateescape").
- The value of a header that is not UTF-8 stays `bytes`.
- A timestamp that datetime cannot represent becomes a Timestamp.
- A table or array that is nested too deeply becomes an Unread.

For each of these, an error text is added to the list of undecodable parts. The only exception is a
value of a header that stays `bytes`.
"""

from __future__ import annotations

import calendar
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from feedbus.wire.constants import SHORT_TEXT_BYTES

DEEPEST = 32  # the most levels of tables and arrays in a header that are decoded
MAX_INT32 = 2**31 - 1

Kind = Literal["text", "table", "octet", "long"]

# The properties in the order of their encoding. The first property has the highest bit of the
# flags.
PROPERTIES: tuple[tuple[str, Kind], ...] = (
    ("content_type", "text"),
    ("content_encoding", "text"),
    ("application_headers", "table"),
    ("delivery_mode", "octet"),
    ("priority", "octet"),
    ("correlation_id", "text"),
    ("reply_to", "text"),
    ("expiration", "text"),
    ("message_id", "text"),
    ("timestamp", "long"),
    ("type", "text"),
    ("user_id", "text"),
    ("app_id", "text"),
    ("cluster_id", "text"),
)
_FLAGGED = tuple((1 << 15 - place, name, kind) for place, (name, kind) in enumerate(PROPERTIES))

_NUMBERS = {
    ord(letter): struct.Struct(f">{code}")
    for letter, code in zip("bBsUuIilLfd", "bBhhHiIqqfd", strict=True)
}
_SHORT, _LONG, _LONG_LONG = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
_DECIMAL = struct.Struct(">Bi")
_TEXT, _BYTES, _FLAG, _TIME, _FIXED_POINT, _TABLE, _ARRAY, _VOID = b"SxtTDFAV"


class Timestamp(int):
    """A time in a header that datetime cannot represent, as seconds since 1970.

    read_properties() makes it, so that write_properties() writes the same value back.
    """


class ByteArray(bytes):
    """The value of a header, if its type in AMQP is byte array.

    If the value of a header is plain `bytes`, its type in AMQP is text, and it is not UTF-8.
    """


class Unread(bytes):
    """A table or array in a header that is nested too deeply: more than 32 levels.

    It contains the letter of its type and its encoded bytes, which write_properties() writes back.
    """


def read_properties(buffer: bytes, at: int) -> tuple[dict[str, Any], list[str]]:
    """Decode the properties of a message, including its headers; called for each delivered message.

    Args:
        buffer: the bytes of a content header.
        at: the index in the buffer at which the flags of the properties begin.

    Returns:
        The properties by name, and an error text for each part that cannot be decoded.

    Raises:
        ValueError: the bytes are not valid AMQP. They can also cause IndexError or struct.error.
    """
    found: dict[str, Any] = {}
    undecodable: list[str] = []
    (flags,) = _SHORT.unpack_from(buffer, at)
    at += 2
    for bit, name, kind in _FLAGGED:
        if not flags & bit:
            continue
        if kind == "text":
            end = at + 1 + buffer[at]
            found[name] = _text(buffer[at + 1 : end], name, undecodable)
            at = end
        elif kind == "table":
            (size,) = _LONG.unpack_from(buffer, at)
            found[name] = _read_table(buffer, at + 4, at + 4 + size, undecodable, 0)
            at += 4 + size
        elif kind == "octet":
            found[name] = buffer[at]
            at += 1
        else:
            (found[name],) = _LONG_LONG.unpack_from(buffer, at)
            at += 8
    return found, undecodable


def read_text(buffer: bytes, at: int, name: str, undecodable: list[str]) -> tuple[str, int]:
    """Decode a short text, which begins with its length.

    Args:
        buffer: the bytes of a frame.
        at: the index in the buffer at which the text begins.
        name: what the text is, such as "the routing key".
        undecodable: gets an error text with that name if the text is not UTF-8.

    Returns:
        The text, and the index after it. Bytes that are not UTF-8 are lone surrogates in the text.

    """
    end = at + 1 + buffer[at]
    return _text(buffer[at + 1 : end], name, undecodable), end


def _text(raw: bytes, name: str, undecodable: list[str]) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        undecodable.append(f"{name} is not UTF-8: {raw!r}")
        return raw.decode(errors="surrogateescape")


def _read_table(
    buffer: bytes, at: int, end: int, undecodable: list[str], depth: int
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while at < end:
        name, at = read_text(buffer, at, "the name of a header", undecodable)
        found[name], at = _read_value(buffer, at, name, undecodable, depth)
    return found


def _read_value(  # noqa: C901, PLR0911 -- one return per type
    buffer: bytes, at: int, name: str, undecodable: list[str], depth: int
) -> tuple[Any, int]:
    letter = buffer[at]
    at += 1
    number = _NUMBERS.get(letter)
    if number is not None:
        return number.unpack_from(buffer, at)[0], at + number.size
    if letter == _VOID:
        return None, at
    if letter == _FLAG:
        return buffer[at] != 0, at + 1
    if letter == _TIME:
        (seconds,) = _LONG_LONG.unpack_from(buffer, at)
        return _moment(seconds, name, undecodable), at + 8
    if letter == _FIXED_POINT:
        scale, digits = _DECIMAL.unpack_from(buffer, at)
        return Decimal(f"{digits}e-{scale}"), at + 5  # exact, in any decimal context
    (size,) = _LONG.unpack_from(buffer, at)
    start, end = at + 4, at + 4 + size
    if letter == _TEXT:
        raw = buffer[start:end]
        try:
            return raw.decode(), end
        except UnicodeDecodeError:
            return raw, end
    if letter == _BYTES:
        return ByteArray(buffer[start:end]), end
    if letter not in {_TABLE, _ARRAY}:
        msg = f"header {name!r} has a type that AMQP does not define: {chr(letter)!r}"
        raise ValueError(msg)
    if depth >= DEEPEST:
        undecodable.append(f"header {name!r} is nested too deeply: more than {DEEPEST} levels")
        return Unread(buffer[at - 1 : end]), end
    if letter == _TABLE:
        return _read_table(buffer, start, end, undecodable, depth + 1), end
    values = []
    while start < end:
        value, start = _read_value(buffer, start, name, undecodable, depth + 1)
        values.append(value)
    return values, end


def _moment(seconds: int, name: str, undecodable: list[str]) -> datetime | Timestamp:
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):
        undecodable.append(f"header {name!r} is not a valid time: {seconds} seconds after 1970")
        return Timestamp(seconds)


def write_properties(properties: Mapping[str, Any]) -> bytes:
    """Return the encoded properties; their flags come first.

    Raises:
        ValueError: AMQP cannot represent a value, or a text property or the name of a header has
            more than 255 bytes.

    """
    flags, written = 0, [b""]
    for bit, name, kind in _FLAGGED:
        value = properties.get(name)
        if value is None:
            continue
        flags |= bit
        if kind == "text":
            written.append(_write_text(value, name))
        elif kind == "table":
            written.append(_sized(_write_table(value)))
        elif kind == "octet":
            written.append(_octet(value, name))
        else:
            written.append(_packed(_LONG_LONG, value, name))
    written[0] = _SHORT.pack(flags)
    return b"".join(written)


def _octet(value: Any, name: str) -> bytes:
    if isinstance(value, int) and 0 <= value <= 255:  # noqa: PLR2004 -- an octet
        return bytes((value,))
    msg = f"{name}: expected an integer from 0 to 255, got {value!r}"
    raise ValueError(msg)


def _packed(number: struct.Struct, value: Any, name: str) -> bytes:
    try:
        return number.pack(value)
    except struct.error as error:
        msg = f"{name}: {value!r} is not a number that AMQP can represent: {error}"
        raise ValueError(msg) from error


def _write_text(value: Any, name: str) -> bytes:
    raw = value if isinstance(value, bytes) else _encoded(str(value))
    if len(raw) > SHORT_TEXT_BYTES:
        msg = f"{name}: expected at most {SHORT_TEXT_BYTES} bytes, got {len(raw)} bytes"
        raise ValueError(msg)
    return bytes((len(raw),)) + raw


def _encoded(text: str) -> bytes:
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can contain
        return text.encode(errors="surrogatepass")


def _sized(raw: bytes) -> bytes:
    return _LONG.pack(len(raw)) + raw


def _write_table(table: Mapping[str, Any]) -> bytes:
    written: list[bytes] = []
    for name, value in table.items():
        written += _write_text(name, "the name of a header"), _write_value(value, name)
    return b"".join(written)


def _write_value(value: Any, name: str) -> bytes:  # noqa: PLR0911, C901 -- one return per type
    if isinstance(value, str):
        return b"S" + _sized(_encoded(value))
    if isinstance(value, bool):
        return b"t\x01" if value else b"t\x00"
    if isinstance(value, Timestamp):
        return b"T" + _packed(_LONG_LONG, value, name)
    if isinstance(value, int):
        letter = "I" if -MAX_INT32 <= value <= MAX_INT32 else "l"
        return letter.encode() + _packed(_NUMBERS[ord(letter)], value, name)
    if value is None:
        return b"V"
    if isinstance(value, Mapping):
        return b"F" + _sized(_write_table(value))
    if isinstance(value, list | tuple):
        return b"A" + _sized(b"".join(_write_value(each, name) for each in value))
    if isinstance(value, float):
        return b"d" + _packed(_NUMBERS[ord("d")], value, name)
    if isinstance(value, datetime):
        seconds = int(calendar.timegm(value.utctimetuple()))
        return b"T" + _packed(_LONG_LONG, seconds, name)
    if isinstance(value, Unread):
        return bytes(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return (b"x" if isinstance(value, ByteArray) else b"S") + _sized(bytes(value))
    if isinstance(value, Decimal):
        return b"D" + _write_decimal(value, name)
    msg = f"header {name!r}: AMQP has no type for {type(value).__name__}"
    raise ValueError(msg)


def _write_decimal(value: Decimal, name: str) -> bytes:
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or exponent > 0:
        raise ValueError(_wrong_decimal(value, name))
    number = int("".join(map(str, digits)))
    sign = -1 if value.is_signed() else 1
    try:
        return _DECIMAL.pack(-exponent, sign * number)
    except struct.error as error:
        raise ValueError(_wrong_decimal(value, name)) from error


def _wrong_decimal(value: Decimal, name: str) -> str:
    return (
        f"header {name!r}: expected a decimal with at most 255 decimal places, whose digits without"
        f" the point are an integer of at most 32 bits, got {value}"
    )
