"""Packs: the records in the body of a message; a plain message is a pack of one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from feedbus.errors import InvalidBody
from feedbus.records.ids import LARGEST_ORDINAL, Ids, pick
from feedbus.records.payloads import (
    ERROR_CHARACTERS,
    SIMPLE,
    decode_payload,
    encode_payload,
    encode_simple,
)
from feedbus.wire.constants import PACK, SHORT_TEXT_BYTES

EXPANDED_BYTES = 256 * 1024 * 1024  # of a pack's records, each as a message of its own
ORIGIN_BYTES = 150  # with an ordinal a message id

Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class Pack:
    """The records of a message before validation.

    Attributes:
        ids: the message id of each record.
        keyed: the routing key of each record, or the name of the column that contains them.
        shared: maps each field to the value that all records have.
        columns: maps each field to a list with one value per record.

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
        """Return a pack of records whose ids are numbered from 0."""
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
        """Return a pack of only these records, in this order."""
        if isinstance(indexes, range) and indexes == range(len(self)):
            return self
        columns = {name: pick(values, indexes) for name, values in self.columns.items()}
        keyed = self.keyed if isinstance(self.keyed, str) else pick(self.keyed, indexes)
        return Pack(self.ids.select(indexes), keyed, self.shared, columns)

    def payload(self, index: int) -> dict[str, Any]:
        """Return the payload of one record, as in a plain message."""
        varying = {name: values[index] for name, values in self.columns.items()}
        return {**self.shared, **varying}

    def encode(self) -> bytes:
        """Return the body; routing keys that are in a column are not stored a second time."""
        origins, owners = _distinct(self.ids.origins)
        simple = SIMPLE.issuperset(map(type, self.shared.values())) and all(
            SIMPLE.issuperset(map(type, values)) for values in self.columns.values()
        )
        encode = encode_simple if simple else encode_payload
        return encode(
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
    """Return the distinct origins and, if there are several, the index for each record."""
    if isinstance(origins, str):
        return [origins], []
    places = {origin: place for place, origin in enumerate(dict.fromkeys(origins))}
    owners = [places[origin] for origin in origins] if len(places) > 1 else []
    return list(places), owners


def _list(values: Sequence[Any]) -> Sequence[Any]:
    return values if isinstance(values, list | tuple) else list(values)


def _once(keys: Sequence[str]) -> Sequence[str]:
    return list(keys) if len(set(keys)) > 1 else [keys[0]]


def decode(
    body: bytes,
    content_type: str | None,
    message_id: str,
    key: str,
    content_encoding: object = None,
) -> Pack:
    """Return the records in a message's body; each can be published as a plain message.

    Args:
        body: the bytes of the message.
        content_type: PACK for a pack; all else is read as one JSON object.
        message_id: the id of a plain message.
        key: the routing key of a plain message.
        content_encoding: the property of the message: the encoding of the body's text.

    Raises:
        InvalidBody: the body does not match its content type, or its records cannot be published
            one by one: they are too many or too large, or their routing keys or ids are invalid.

    """
    payload = decode_payload(body, content_encoding)
    if content_type != PACK:
        return single(message_id, key, payload)
    try:
        columns = {name: _checked(list, values) for name, values in payload["columns"].items()}
        ids = _ids(payload["origins"], payload["owners"], payload["ordinals"])
        keyed = _keyed(payload["keys"], columns, len(ids))
        pack = Pack(ids, keyed, _checked(dict, payload["shared"]), columns)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        text = f"not a pack: {type(error).__name__} {error}"
        raise InvalidBody({"": [text[:ERROR_CHARACTERS]]}) from error
    lengths = {len(ids), *(len(values) for values in columns.values())}
    if lengths != {len(pack)} or not len(pack):
        raise InvalidBody({"": ["not a pack: its columns differ in length"]})
    if expands_too_far(len(body), pack):
        text = f"not a pack: its {len(pack)} records would be more than {EXPANDED_BYTES} bytes"
        raise InvalidBody({"": [text]})
    return pack


def expands_too_far(body_bytes: int, pack: Pack) -> bool:
    """Whether the records of a pack would have too many bytes as plain messages."""
    count = len(pack)
    if body_bytes * count <= EXPANDED_BYTES:
        return False
    return count * len(encode_payload(pack.shared)) > EXPANDED_BYTES


def single(message_id: str, key: str, payload: Mapping[str, Any]) -> Pack:
    """Return the pack of a plain message; its id may contain its index in another pack."""
    return Pack(Ids.of(message_id), [key], payload, {})


def _checked(kind: type[Kind], value: object) -> Kind:
    if not isinstance(value, kind):
        msg = f"expected a {kind.__name__}, got {type(value).__name__}"
        raise TypeError(msg)
    return value


def _ids(origins: list[str], owners: list[int], ordinals: list[int]) -> Ids:
    for numbers, most in ((owners, len(origins) - 1), (ordinals, LARGEST_ORDINAL)):
        _checked(list, numbers)
        if numbers and (
            set(map(type, numbers)) != {int} or min(numbers) < 0 or max(numbers) > most
        ):
            msg = "its ordinals or owners are not integers of 0 or more, or are too large"
            raise ValueError(msg)
    if set(map(type, _checked(list, origins))) != {str}:
        msg = "its origins are not texts"
        raise ValueError(msg)
    if any(len(origin.encode()) > ORIGIN_BYTES for origin in origins):
        msg = f"an origin of more than {ORIGIN_BYTES} bytes"
        raise ValueError(msg)
    if not owners:
        return Ids(origins[0], ordinals)
    if len(owners) != len(ordinals):
        msg = "owners and ordinals differ in length"
        raise ValueError(msg)
    return Ids([origins[owner] for owner in owners], ordinals)


def _keyed(keys: str | list[str], columns: Mapping[str, list[Any]], count: int) -> list[str] | str:
    if isinstance(keys, str):
        column = columns[keys]
        if not _short_numbers(column):
            _check_keys([str(value) for value in column])
        return keys if column else []
    texts = [str(key) for key in _checked(list, keys)]
    _check_keys(texts)
    return texts * count if len(texts) == 1 else texts


def _short_numbers(column: list[Any]) -> bool:
    """Whether a column's values are numbers of few digits, the most frequent kind of keys."""
    try:
        short: bool = min(column) >= -LARGEST_ORDINAL and max(column) <= LARGEST_ORDINAL
    except (TypeError, ValueError):  # texts or a mixture, or none
        return False
    return short


def _check_keys(keys: list[str]) -> None:
    """Raise ValueError for routing keys that AMQP cannot carry."""
    joined = "".join(keys).encode()
    if len(joined) > SHORT_TEXT_BYTES and any(len(key.encode()) > SHORT_TEXT_BYTES for key in keys):
        msg = f"a record's key has more than {SHORT_TEXT_BYTES} bytes"
        raise ValueError(msg)
