"""What travels in a message's body: a pack of records, of which a plain message has one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feedbus.errors import InvalidBody

JSON = "application/json"
PACK = "application/vnd.feedbus.pack+json"
Ordinal = int | str
ORDINAL = re.compile(r"(0|[1-9][0-9]*)(\.[1-9][0-9]*)*", re.ASCII)
BODY_LIMIT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pack:
    """Records as they are on the wire, before validation.

    Attributes:
        origin: what the records' ids start with.
        ordinals: the end of each record's id, such as 5 or "5.2" for what the record 5 caused
            beside another; None for a plain message, whose id is origin.
        keys: the routing key of each record.
        shared: field to the value that all records have.
        columns: field to one value a record.

    """

    origin: str
    ordinals: Sequence[Ordinal] | None
    keys: Sequence[str]
    shared: Mapping[str, Any]
    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        """Count the records."""
        return len(self.keys)

    @property
    def ids(self) -> list[str]:
        """The message id of each record."""
        return [self.record_id(index) for index in range(len(self.keys))]

    def select(self, indexes: Sequence[int]) -> Pack:
        """Return a pack of these records alone, in this order."""
        columns = {name: [values[i] for i in indexes] for name, values in self.columns.items()}
        ordinals = None if self.ordinals is None else [self.ordinals[i] for i in indexes]
        keys = [self.keys[i] for i in indexes]
        return Pack(self.origin, ordinals, keys, self.shared, columns)

    def record_id(self, index: int) -> str:
        """Return the message id of one record."""
        return self.origin if self.ordinals is None else f"{self.origin}-{self.ordinals[index]}"

    def payload(self, index: int) -> dict[str, Any]:
        """Return one record as a plain message would carry it."""
        varying = {name: values[index] for name, values in self.columns.items()}
        return {**self.shared, **varying}

    def encode(self) -> bytes:
        """Return the body; keys equal to a column's text are not stored again."""
        keyed = next(
            (
                name
                for name, values in self.columns.items()
                if all(map(str.__eq__, map(str, values), self.keys))
            ),
            None,
        )
        keys: object = keyed if keyed is not None else _once(self.keys)
        return encode_payload(
            {
                "origin": self.origin,
                "ordinals": self.ordinals,
                "keys": keys,
                "shared": self.shared,
                "columns": self.columns,
            }
        )


def _once(keys: Sequence[str]) -> Sequence[str]:
    return list(keys) if len(set(keys)) > 1 else [keys[0]]


def encode_payload(payload: Mapping[str, Any]) -> bytes:
    """Return compact JSON; ValueError or TypeError for what JSON does not have."""
    try:
        return _write(payload, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can carry
        return _write(payload, ensure_ascii=True).encode()


def _write(payload: Mapping[str, Any], *, ensure_ascii: bool) -> str:
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=ensure_ascii, allow_nan=False)


def decode(body: bytes, content_type: str | None, message_id: str, key: str) -> Pack:
    """Return the records of a message's body.

    Args:
        body: as delivered.
        content_type: PACK for a pack; all else is read as one JSON object.
        message_id: the id of a plain message.
        key: the routing key of a plain message.

    Raises:
        InvalidBody: the body is not what its content type says.

    """
    payload = decode_payload(body)
    if content_type != PACK:
        return single(message_id, key, payload)
    try:
        columns = {str(name): list(values) for name, values in payload["columns"].items()}
        ordinals = [_ordinal(ordinal) for ordinal in payload["ordinals"]]
        pack = Pack(
            str(payload["origin"]),
            ordinals,
            _keys(payload["keys"], columns, len(ordinals)),
            dict(payload["shared"]),
            columns,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidBody({"": [f"not a pack: {type(error).__name__} {error}"]}) from error
    lengths = {len(ordinals), *(len(values) for values in columns.values())}
    if not pack.keys or lengths != {len(pack)}:
        raise InvalidBody({"": ["not a pack: its columns differ in length"]})
    return pack


def single(message_id: str, key: str, payload: Mapping[str, Any]) -> Pack:
    """Return the pack of a plain message; its id may say where in another pack it was."""
    origin, dash, ordinal = message_id.rpartition("-")
    if dash and ORDINAL.fullmatch(ordinal):
        return Pack(origin, [_ordinal(ordinal)], [key], payload, {})
    return Pack(message_id, None, [key], payload, {})


def _ordinal(told: object) -> Ordinal:
    if type(told) is int:
        return told
    if not (isinstance(told, str) and ORDINAL.fullmatch(told)):
        msg = f"no ordinal: {told!r}"
        raise ValueError(msg)
    return told if "." in told else int(told)


def _keys(keys: str | list[str], columns: Mapping[str, list[Any]], count: int) -> list[str]:
    if isinstance(keys, str):
        return [str(value) for value in columns[keys]]
    if len(keys) == 1:
        return [str(keys[0])] * count
    return [str(key) for key in keys]


def decode_payload(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body, or raise InvalidBody saying what it is instead."""
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
    if not isinstance(payload, dict):
        raise InvalidBody({"": [f"expected a JSON object, got {type(payload).__name__}"]})
    return payload


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
