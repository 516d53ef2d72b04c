"""The payload of one record: a JSON object, read from a body and written to a body.

Bodies that are too large or too deeply nested are refused. So feedbus can encode each payload that
it has decoded, for example for a retry.

A program can publish a mapping, or an instance of a class that handlers get as records.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Protocol, TypeAlias

import msgspec

from feedbus.errors import InvalidBody, UsageError
from feedbus.records.raw_payload import Raw
from feedbus.wire.nesting import deeper_than

BODY_LIMIT_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 200  # limit of nesting: a payload with more levels could be read, but not be written
ERROR_CHARACTERS = 200  # limit for a text of the message in an error
# The types whose values all JSON libraries write in the same way.
SIMPLE = frozenset({str, int, bool, type(None)})
# The usual names of encodings. Python knows more, but decoding a thousand characters can take
# seconds with some of them.
ENCODINGS = {
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin-1", "latin1"), "latin-1"),
    **{name: name for name in ("utf-7", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le")},
    **{name: name for name in ("utf-32", "utf-32-be", "utf-32-le")},
    "utf7": "utf-7",
    "utf16": "utf-16",
    "utf32": "utf-32",
}

PLAIN = (str, int, float, type(None))  # the types of values that are not dicts or lists


class DataclassInstance(Protocol):
    """An instance of a dataclass, including pydantic's dataclasses.

    It is a part of the type Payload, for type checkers.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]


class ModelInstance(Protocol):
    """An instance of a pydantic model.

    It is a part of the type Payload, for type checkers.
    """

    def model_dump(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the fields of the instance: a method of pydantic, for type checkers."""


Payload: TypeAlias = "Mapping[str, Any] | Raw | DataclassInstance | msgspec.Struct | ModelInstance"


def mapping_of(payload: Any) -> Mapping[str, Any] | None:
    """Return the fields of an instance by their names in JSON; None if an object has no fields.

    A mapping is returned unchanged.

    feedbus calls this for each payload that is published and is not a dict.

    Args:
        payload: an instance of a dataclass, a msgspec.Struct or a pydantic model; or a mapping.

    Raises:
        TypeError: a field's value has no form in JSON.

    """
    if isinstance(payload, Mapping):
        return payload
    if isinstance(payload, type):
        return None
    if isinstance(payload, Raw):
        return payload.fields()
    serializer = getattr(payload, "__pydantic_serializer__", None)
    if serializer is not None:
        fields_of_model = serializer.to_python(payload, mode="json", by_alias=True)
    elif hasattr(payload, "__dataclass_fields__") or hasattr(payload, "__struct_fields__"):
        if hasattr(payload, "__dataclass_fields__"):
            # If the instance has no value of its own for a field, getattr() returns the default in
            # the class. msgspec would leave out this field.
            names = [field.name for field in fields(payload)]
            payload = {name: getattr(payload, name) for name in names if hasattr(payload, name)}
        fields_of_model = msgspec.to_builtins(payload, str_keys=True)
    else:
        return None
    return fields_of_model if isinstance(fields_of_model, dict) else None


def unencodable_field(payload: Mapping[str, Any]) -> str:
    """Return an error text for the first field that JSON cannot represent; "" if there is none.

    feedbus calls this when the JSON encoder has refused a payload.

    Args:
        payload: the fields of the record.

    """
    for name, value in payload.items():
        reason = _why_not_encodable(value, str(name), 1)
        if reason:
            return f"field {reason}"
    return ""


def _why_not_encodable(value: object, where: str, depth: int) -> str:
    if isinstance(value, Mapping | list | tuple) and depth < MAX_DEPTH:
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, each in pairs:
            reason = _why_not_encodable(each, f"{where}.{name}", depth + 1)
            if reason:
                return reason
        return ""
    if isinstance(value, Mapping | list | tuple):
        return f"'{where[:ERROR_CHARACTERS]}' contains itself, or is nested too deeply"
    if not isinstance(value, PLAIN):
        advice = "write it as text, or publish an instance of a dataclass"
        shown = f"{value!r:.60} of type {type(value).__name__}"
        return f"'{where}': expected a value that JSON can represent, got {shown}; {advice}"
    try:
        _write({"": value}, ensure_ascii=True)
    except ValueError as error:
        reason = f"{type(value).__name__}: {error}"
        if isinstance(value, float):  # Python's own text does not name the value
            reason = f"expected a number that JSON can represent, got {value}"
        return f"'{where}': {reason}"
    return ""


_read = msgspec.json.Decoder().decode
_write_simple = msgspec.json.Encoder().encode


def encode_simple(payload: Mapping[str, Any]) -> bytes:
    """Return compact JSON of dicts, lists and values of the types SIMPLE, by msgspec.

    This function is faster than encode_payload(). The payload must not contain values of other
    types. For some of them, msgspec writes unexpected JSON, for example null for NaN.

    Args:
        payload: the fields of the record.

    """
    try:
        return _write_simple(payload)
    except (ValueError, OverflowError):  # half of a surrogate pair, or a long integer
        return encode_payload(payload)


def encode_payload(payload: Mapping[str, Any]) -> bytes:
    """Return a payload as compact JSON in UTF-8.

    Args:
        payload: the fields of the record.

    Raises:
        ValueError: a value has no form in JSON, such as NaN.
        TypeError: a value has a type that JSON lacks.

    """
    try:
        return _write(payload, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can contain it only as an escape
        return _write(payload, ensure_ascii=True).encode()


def payload_text(payload: Mapping[str, Any]) -> str:
    """Return a payload as compact JSON, as a text that UTF-8 can represent, for a database.

    Args:
        payload: the fields of the record.

    Raises:
        ValueError: a value has no form in JSON, such as NaN.
        TypeError: a value has a type that JSON lacks.

    """
    text = _write(payload, ensure_ascii=False)
    return text if text.isascii() else encode_payload(payload).decode()


def encode_record(payload: Mapping[str, Any]) -> bytes:
    """Return the body of a plain message: a payload as compact JSON in UTF-8.

    Args:
        payload: the fields of the record.

    Raises:
        UsageError: the payload cannot be published; the error names the field.

    """
    try:
        body = encode_payload(payload)
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"cannot publish: {unencodable_field(payload) or error}"
        raise UsageError(msg) from error
    if too_deep(body, payload):
        msg = f"cannot publish: {unencodable_field(payload)}"
        raise UsageError(msg)
    check_size(body)
    return body


def too_deep(body: bytes, payload: object, levels: int = MAX_DEPTH) -> bool:
    """Whether a payload has more than this number of levels.

    Args:
        body: the JSON of the payload, or of a message that contains the payload. Its brackets are
            counted first, because this takes less time than visiting the values of the payload.
        payload: the payload.
        levels: the largest allowed number.

    """
    return body.count(b"[") + body.count(b"{") > levels and deeper_than(levels, payload)


def check_size(body: bytes) -> None:
    """Raise UsageError if consumers would refuse a body because of its size."""
    if len(body) > BODY_LIMIT_BYTES:
        msg = (
            f"cannot publish: expected a body of at most {BODY_LIMIT_BYTES} bytes, got"
            f" {len(body)} bytes"
        )
        raise UsageError(msg)


def _write(payload: Mapping[str, Any], *, ensure_ascii: bool) -> str:
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=ensure_ascii, allow_nan=False)


def decode_payload(
    body: bytes, content_encoding: object = None, *, levels: int = MAX_DEPTH
) -> dict[str, Any]:
    """Return the JSON object in the body of a plain message, as a dict.

    If an object has a name twice, the last value is used.

    Args:
        body: the bytes of the message.
        content_encoding: the property of the message: the encoding of the body's text. None and an
            unknown encoding are treated as UTF-8.
        levels: the largest allowed number of levels.

    Raises:
        InvalidBody: the body is not a JSON object, is larger than BODY_LIMIT_BYTES, or has too many
            levels.

    """
    if content_encoding and content_encoding != "utf-8":
        body = _utf8(body, content_encoding)
    if len(body) > BODY_LIMIT_BYTES:
        text = f"expected at most {BODY_LIMIT_BYTES} bytes, got {len(body)}"
        raise InvalidBody({"": [text]})
    try:
        payload = _read(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        payload = _read_slowly(body)
    if too_deep(body, payload, levels):
        raise InvalidBody({"": [f"nested too deeply: more than {levels} levels"]})
    if not isinstance(payload, dict):
        raise InvalidBody({"": [f"expected a JSON object, got {type(payload).__name__}"]})
    return payload


def _read_slowly(body: bytes) -> Any:
    """Return the JSON value in a body that msgspec cannot read.

    For example, the body may contain half of a surrogate pair as an escape.

    Raises:
        InvalidBody: Python cannot read the body either; the error says why.

    """
    try:
        return json.loads(
            body.decode(), parse_constant=_refuse_constant, parse_float=_finite, parse_int=_integer
        )
    except UnicodeDecodeError as error:
        raise InvalidBody({"": [f"not UTF-8: {error.reason} at byte {error.start}"]}) from error
    except RecursionError as error:
        raise InvalidBody({"": ["not JSON that can be read: nested too deeply"]}) from error
    except ValueError as error:
        raise InvalidBody({"": [f"not JSON: {error}"]}) from error


def text_of(body: bytes, content_encoding: object = None) -> str:
    """Return the body of a message as a text.

    feedbus uses this for bodies with a text content type.

    Args:
        body: the bytes of the message.
        content_encoding: the property of the message: the encoding of the body's text. None and an
            unknown encoding are treated as UTF-8.

    Raises:
        InvalidBody: the body is not text in this encoding.

    """
    if content_encoding and content_encoding != "utf-8":
        body = _utf8(body, content_encoding)
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidBody({"": [f"not UTF-8: {error.reason} at byte {error.start}"]}) from error


def _utf8(body: bytes, content_encoding: object) -> bytes:
    """Return a body's text in UTF-8; with an unknown encoding, return the body unchanged.

    A body that is larger than BODY_LIMIT_BYTES is also returned unchanged: such a body is refused.

    Raises:
        InvalidBody: the body is not text in its encoding.

    """
    codec = ENCODINGS.get(str(content_encoding).lower().replace("_", "-"))
    if codec is None or len(body) > BODY_LIMIT_BYTES:
        return body
    try:
        return body.decode(codec).encode()
    except UnicodeError as error:
        raise InvalidBody({"": [f"not text in {codec}: {error}"[:ERROR_CHARACTERS]]}) from error


def _refuse_constant(name: str) -> None:
    msg = f"{name} is not a JSON number"
    raise ValueError(msg)


def _finite(digits: str) -> float:
    """Return the number; raise ValueError if Python reads it as infinity, which JSON lacks."""
    number = float(digits)
    if math.isinf(number):
        msg = f"{digits[:20]} is too large a number"
        raise ValueError(msg)
    return number


def _integer(digits: str) -> int:
    """Return the integer; raise ValueError if it has more digits than Python reads."""
    try:
        return int(digits)
    except ValueError as error:
        msg = f"{digits[:20]}, of {len(digits)} digits, is too large a number"
        raise ValueError(msg) from error
