"""What travels in a message's body: a pack of records, of which a plain message has one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from feedbus.errors import InvalidBody
from feedbus.records.ids import Ids, pick
from feedbus.wire.constants import PACK

BODY_LIMIT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pack:
    """Records as they are on the wire, before validation.

    Attributes:
        ids: the message id of each record.
        keyed: the routing key of each record, or the name of the column whose texts they are.
        shared: field to the value that all records have.
        columns: field to one value a record.

    """

    ids: Ids
    keyed: Sequence[str] | str
    shared: Mapping[str, Any]
    columns: Mapping[str, Sequence[Any]]

    @classmethod
    def numbered(
        cls,
        origin: str,
        keyed: Sequence[str] | str,
        shared: Mapping[str, Any],
        columns: Mapping[str, Sequence[Any]],
    ) -> Self:
        """Return a pack of records whose ids count on from 0."""
        count = len(columns[keyed] if isinstance(keyed, str) else keyed)
        return cls(Ids(origin, range(count)), keyed, shared, columns)

    def __len__(self) -> int:
        """Count the records."""
        return len(self.columns[self.keyed] if isinstance(self.keyed, str) else self.keyed)

    @property
    def keys(self) -> Sequence[str]:
        """The routing key of each record."""
        if isinstance(self.keyed, str):
            return list(map(str, self.columns[self.keyed]))
        return self.keyed

    def key(self, index: int) -> str:
        """Return the routing key of one record."""
        if isinstance(self.keyed, str):
            return str(self.columns[self.keyed][index])
        return self.keyed[index]

    def select(self, indexes: Sequence[int]) -> Pack:
        """Return a pack of these records alone, in this order."""
        if isinstance(indexes, range) and indexes == range(len(self)):
            return self
        columns = {name: pick(values, indexes) for name, values in self.columns.items()}
        keyed = self.keyed if isinstance(self.keyed, str) else pick(self.keyed, indexes)
        return Pack(self.ids.select(indexes), keyed, self.shared, columns)

    def payload(self, index: int) -> dict[str, Any]:
        """Return one record as a plain message would carry it."""
        varying = {name: values[index] for name, values in self.columns.items()}
        return {**self.shared, **varying}

    def encode(self) -> bytes:
        """Return the body; keys that are a column's texts are not stored again."""
        origins, owners = _distinct(self.ids.origins)
        return encode_payload(
            {
                "origins": origins,
                "owners": owners,
                "ordinals": _list(self.ids.ordinals or ()),
                "keys": self.keyed if isinstance(self.keyed, str) else _once(self.keyed),
                "shared": self.shared,
                "columns": {name: _list(values) for name, values in self.columns.items()},
            }
        )


def _distinct(origins: str | Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the different origins, and for each record whose it is where they are several."""
    if isinstance(origins, str):
        return [origins], []
    places = {origin: place for place, origin in enumerate(dict.fromkeys(origins))}
    owners = [places[origin] for origin in origins] if len(places) > 1 else []
    return list(places), owners


def _list(values: Sequence[Any]) -> Sequence[Any]:
    return values if isinstance(values, list | tuple) else list(values)


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
        ids = _ids(payload["origins"], payload["owners"], payload["ordinals"])
        keyed = _keyed(payload["keys"], columns, len(ids))
        pack = Pack(ids, keyed, dict(payload["shared"]), columns)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidBody({"": [f"not a pack: {type(error).__name__} {error}"]}) from error
    lengths = {len(ids), *(len(values) for values in columns.values())}
    if lengths != {len(pack)} or not len(pack):
        raise InvalidBody({"": ["not a pack: its columns differ in length"]})
    return pack


def single(message_id: str, key: str, payload: Mapping[str, Any]) -> Pack:
    """Return the pack of a plain message; its id may say where in another pack it was."""
    return Pack(Ids.of(message_id), [key], payload, {})


def _ids(origins: list[str], owners: list[int], ordinals: list[int]) -> Ids:
    for numbers in (owners, ordinals):
        if numbers and (set(map(type, numbers)) != {int} or min(numbers) < 0):
            msg = f"no ordinals: {numbers!r}"
            raise ValueError(msg)
    if set(map(type, origins)) != {str}:
        msg = f"no origins: {origins!r}"
        raise ValueError(msg)
    if not owners:
        return Ids(origins[0], list(ordinals))
    if len(owners) != len(ordinals):
        msg = "owners and ordinals differ in length"
        raise ValueError(msg)
    return Ids([origins[owner] for owner in owners], list(ordinals))


def _keyed(keys: str | list[str], columns: Mapping[str, list[Any]], count: int) -> list[str] | str:
    if isinstance(keys, str):
        return keys if columns[keys] else []
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
