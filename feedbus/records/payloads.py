"""One record's payload: a JSON object, in bounds within which it can be written again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from feedbus.errors import InvalidBody
from feedbus.wire.nesting import deeper_than

BODY_LIMIT_BYTES = 4 * 1024 * 1024
DEEPEST = 200  # what can be read can be written again, whatever the stack is then
ERROR_CHARACTERS = 200
# By their usual names. Python has more, some of which take seconds for a few thousand characters.
ENCODINGS = {
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin-1", "latin1"), "latin-1"),
    **{name: name for name in ("utf-7", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le")},
    **{name: name for name in ("utf-32", "utf-32-be", "utf-32-le")},
    "utf7": "utf-7",
    "utf16": "utf-16",
    "utf32": "utf-32",
}


def encode_payload(payload: Mapping[str, Any]) -> bytes:
    """Return compact JSON; ValueError or TypeError for what JSON does not have."""
    try:
        return _write(payload, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can carry
        return _write(payload, ensure_ascii=True).encode()


def _write(payload: Mapping[str, Any], *, ensure_ascii: bool) -> str:
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=ensure_ascii, allow_nan=False)


def decode_payload(body: bytes, content_encoding: object = None) -> dict[str, Any]:
    """Return the JSON object in a body.

    Where a name stands twice in an object, the last value counts.

    Args:
        body: as delivered.
        content_encoding: how its text is encoded, as the message says.

    Raises:
        InvalidBody: it is something else, with what it is instead.

    """
    if content_encoding and content_encoding != "utf-8":
        body = _utf8(body, content_encoding)
    if len(body) > BODY_LIMIT_BYTES:
        text = f"expected at most {BODY_LIMIT_BYTES} bytes, got {len(body)}"
        raise InvalidBody({"": [text]})
    try:
        payload = json.loads(body.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise InvalidBody({"": [f"not UTF-8: {error.reason} at byte {error.start}"]}) from error
    except RecursionError as error:
        raise InvalidBody({"": ["not JSON that can be read: nested too deeply"]}) from error
    except ValueError as error:
        raise InvalidBody({"": [f"not JSON: {error}"]}) from error
    if body.count(b"[") + body.count(b"{") > DEEPEST and deeper_than(DEEPEST, payload):
        raise InvalidBody({"": [f"nested too deeply: more than {DEEPEST} levels"]})
    if not isinstance(payload, dict):
        raise InvalidBody({"": [f"expected a JSON object, got {type(payload).__name__}"]})
    return payload


def _utf8(body: bytes, content_encoding: object) -> bytes:
    """Return a body's text in UTF-8; an encoding that is not known here is taken for UTF-8."""
    codec = ENCODINGS.get(str(content_encoding).lower().replace("_", "-"))
    if codec is None or len(body) > BODY_LIMIT_BYTES:
        return body
    try:
        return body.decode(codec).encode()
    except UnicodeError as error:
        raise InvalidBody({"": [f"not text in {codec}: {error}"[:ERROR_CHARACTERS]]}) from error


def _refuse_constant(name: str) -> None:
    msg = f"{name} is no JSON number"
    raise ValueError(msg)


def _finite(digits: str) -> float:
    """Refuse what Python reads as infinite, for nothing could write that down again."""
    number = float(digits)
    if math.isinf(number):
        msg = f"{digits[:20]} is too large a number"
        raise ValueError(msg)
    return number
