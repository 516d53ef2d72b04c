"""Packs: many records in the body of one message; a plain message is a pack of one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Self, TypeVar

from feedbus.errors import InvalidBody
from feedbus.records.ids import MAX_ORDINAL, ORIGIN_BYTES, Ids, pick
from feedbus.records.key_texts import key_text, key_texts, plain_keys
from feedbus.records.payloads import (
    ERROR_CHARACTERS,
    MAX_DEPTH,
    SIMPLE,
    decode_payload,
    encode_payload,
    encode_simple,
    too_deep,
)
from feedbus.wire.constants import PACK, SHORT_TEXT_BYTES

MAX_EXPANDED_BYTES = 256 * 1024 * 1024  # limit for all records of a pack, as plain messages
NAME_CHARACTERS = 60  # limit for a name in the text of an error
# The levels of a pack. Its `{"columns": {name: [value, …]}}` has two levels more than a record.
# `{"shared": {name: value}}` has one level more.
PACK_LEVELS = MAX_DEPTH + 2
KINDS: Mapping[type, str] = {dict: "a JSON object", list: "a list"}

Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class Pack:
    """The records of a message before they are validated.

    Each decoded delivery has one Pack object; a plain message makes a pack with one record. Each
    call of a publishing method makes one or more packs.

    Attributes:
        ids: the message id of each record.
        keys_or_column: a list with the routing key of each record; or, as a text, the name of the
            column that contains the routing keys.
        shared: maps each field that has one value in all records to this value.
        columns: the other fields. Each is mapped to a list with one value per record.

    """

    ids: Ids
    keys_or_column: Sequence[str] | str
    shared: Mapping[str, Any]
    columns: Mapping[str, Sequence[Any]]

    @classmethod
    def numbered(
        cls,
        origin: str,
        keys_or_column: Sequence[str] | str,
        shared: Mapping[str, Any],
        columns: Mapping[str, Sequence[Any]],
    ) -> Self:
        """Return a pack of records whose ids are numbered from 0.

        The n-th record has the id `origin-n`, where n begins at 0. The pack is for records that a
        bus publishes.

        Args:
            origin: the beginning of all ids.
            keys_or_column: a list with the routing key of each record; or, as a text, the name of
                the column that contains the routing keys.
            shared: maps each field that has one value in all records to this value.
            columns: the other fields. Each is mapped to a list with one value per record.

        """
        if isinstance(keys_or_column, str):
            count = len(columns[keys_or_column])
        else:
            count, keys_or_column = len(keys_or_column), plain_keys(keys_or_column)
        return cls(Ids(origin, range(count)), keys_or_column, shared, columns)

    def __len__(self) -> int:
        """Count the records."""
        return len(
            self.columns[self.keys_or_column]
            if isinstance(self.keys_or_column, str)
            else self.keys_or_column
        )

    @property
    def keys(self) -> Sequence[str]:
        """The routing key of each record."""
        if isinstance(self.keys_or_column, str):
            return key_texts(self.columns[self.keys_or_column], self.keys_or_column)
        return self.keys_or_column

    def key(self, index: int) -> str:
        """Return the routing key of one record.

        Args:
            index: the index of the record in the pack.

        """
        if isinstance(self.keys_or_column, str):
            return key_text(self.columns[self.keys_or_column][index], self.keys_or_column)
        return self.keys_or_column[index]

    def select(self, indexes: Sequence[int]) -> Pack:
        """Return a pack of the records at these indexes, in this order.

        Args:
            indexes: indexes in this pack.

        """
        if isinstance(indexes, range) and indexes == range(len(self)):
            return self
        columns = {name: pick(values, indexes) for name, values in self.columns.items()}
        keys_or_column = (
            self.keys_or_column
            if isinstance(self.keys_or_column, str)
            else pick(self.keys_or_column, indexes)
        )
        return Pack(self.ids.select(indexes), keys_or_column, self.shared, columns)

    def payload(self, index: int) -> dict[str, Any]:
        """Return the payload of one record, a new dict of its fields, as in a plain message.

        Args:
            index: the index of the record in the pack.

        """
        varying = {name: values[index] for name, values in self.columns.items()}
        return {**self.shared, **varying}

    def encode(self) -> bytes:
        """Return the body of the pack: JSON, in which shared fields are stored once.

        If a column contains the routing keys, the body has only the name of the column as `keys`.

        Raises:
            ValueError: a value has no form in JSON, such as NaN, or a record has too many levels.
            TypeError: a value has a type that JSON lacks.

        """
        origins, origin_indexes = _distinct_origins(self.ids.origins)
        simple = SIMPLE.issuperset(map(type, self.shared.values())) and all(
            SIMPLE.issuperset(map(type, values)) for values in self.columns.values()
        )
        encode = encode_simple if simple else encode_payload
        body = encode(
            {
                "origins": origins,
                "owners": origin_indexes,
                "ordinals": _as_list(self.ids.ordinals or ()),
                "keys": self.keys_or_column
                if isinstance(self.keys_or_column, str)
                else _shared_keys(self.keys_or_column),
                "shared": self.shared,
                "columns": {name: _as_list(values) for name, values in self.columns.items()},
            }
        )
        if not simple and (
            too_deep(body, self.shared) or too_deep(body, self.columns, PACK_LEVELS - 1)
        ):
            msg = f"nested too deeply: more than {MAX_DEPTH} levels"
            raise ValueError(msg)
        return body


def _distinct_origins(origins: str | Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the different origins, and a list with the index of each record's origin.

    The second list is empty if there is only one origin.
    """
    if isinstance(origins, str):
        return [origins], []
    indexes = {origin: index for index, origin in enumerate(dict.fromkeys(origins))}
    origin_indexes = [indexes[origin] for origin in origins] if len(indexes) > 1 else []
    return list(indexes), origin_indexes


def _as_list(values: Sequence[Any]) -> Sequence[Any]:
    return values if isinstance(values, list | tuple) else list(values)


def _shared_keys(keys: Sequence[str]) -> Sequence[str]:
    """Return the routing keys for the body: a single one if all are equal."""
    return list(keys) if len(set(keys)) > 1 else [keys[0]]


def decode(
    body: bytes,
    content_type: str | None,
    message_id: str,
    key: str,
    content_encoding: object = None,
) -> Pack:
    """Return the records in a message's body, and check that each can become a plain message.

    The dispatch calls this for each delivery with a JSON body.

    Args:
        body: the bytes of the message.
        content_type: PACK for a pack; a body of any other type is read as one JSON object.
        message_id: the id of the record, if the message is a plain message.
        key: the routing key of the record, if the message is a plain message.
        content_encoding: the property of the message: the encoding of the body's text.

    Raises:
        InvalidBody: the body does not match its content type, or its records cannot be published
            one by one: they are too large together, or have invalid routing keys or ids.

    """
    if content_type != PACK:
        return pack_of_one(message_id, key, decode_payload(body, content_encoding))
    payload = decode_payload(body, content_encoding, levels=PACK_LEVELS)
    try:
        pack = _pack(payload)
    except ValueError as error:
        raise InvalidBody({"": [f"not a pack: {error}"[:ERROR_CHARACTERS]]}) from error
    if too_deep(body, pack.shared):
        raise InvalidBody({"": [f"nested too deeply: more than {MAX_DEPTH} levels"]})
    if expands_too_far(len(body), pack):
        text = f"not a pack: its {len(pack)} records would be more than {MAX_EXPANDED_BYTES} bytes"
        raise InvalidBody({"": [text]})
    return pack


def expands_too_far(body_bytes: int, pack: Pack) -> bool:
    """Whether the records of a pack would have more than MAX_EXPANDED_BYTES as plain messages.

    Each plain message would repeat the shared fields. So their size is multiplied by the number of
    records. The other fields are not counted, because they have about the same size in the pack.

    If the result is true, a publisher divides the pack, and a consumer refuses it.

    Args:
        body_bytes: the size of the pack's body.
        pack: the decoded pack.

    """
    count = len(pack)
    if body_bytes * count <= MAX_EXPANDED_BYTES:
        return False
    return count * len(encode_payload(pack.shared)) > MAX_EXPANDED_BYTES


def pack_of_one(message_id: str, key: str, payload: Mapping[str, Any]) -> Pack:
    """Return a pack with one record, as a plain message contains it.

    publish() calls this, and decode() for a plain message.

    Args:
        message_id: the id of the record.
        key: the routing key of the record.
        payload: the fields of the record.

    """
    plain_key = key if type(key) is str else str.__str__(key)
    return Pack(Ids.of(message_id), [plain_key], payload, {})


def _pack(payload: Mapping[str, Any]) -> Pack:
    """Return the pack that a decoded body contains.

    Raises:
        ValueError: the body is not a pack; the text says which of its values is wrong, and why.

    """
    columns: Mapping[str, Any] = _value_of(payload, "columns", dict)
    origins = _value_of(payload, "origins", list)
    origin_indexes = _value_of(payload, "owners", list)
    ordinals = _value_of(payload, "ordinals", list)
    for name, values in columns.items():
        if not isinstance(values, list) or len(values) != len(ordinals):
            _check_type(list, values, f"columns: '{name[:NAME_CHARACTERS]}'")
            _refuse_length(f"columns: '{name[:NAME_CHARACTERS]}'", values, ordinals)
    ids = _ids(origins, origin_indexes, ordinals)
    keys_or_column = _keys_or_column(payload, columns, len(ids))
    pack = Pack(ids, keys_or_column, _value_of(payload, "shared", dict), columns)
    if not len(pack):
        msg = "keys: expected at least one key, got none"
        raise ValueError(msg)
    if len(pack) != len(ids):
        _refuse_length("keys", pack.keys, ordinals)
    return pack


def _refuse_length(where: str, values: Sequence[Any], ordinals: Sequence[int]) -> NoReturn:
    msg = f"{where}: expected {len(ordinals)} values, one for each ordinal, got {len(values)}"
    raise ValueError(msg)


def _value_of(payload: Mapping[str, Any], name: str, kind: type[Kind]) -> Kind:
    if name not in payload:
        msg = f"{name}: missing"
        raise ValueError(msg)
    return _check_type(kind, payload[name], name)


def _check_type(kind: type[Kind], value: object, where: str) -> Kind:
    if not isinstance(value, kind):
        msg = f"{where}: expected {KINDS[kind]}, got {type(value).__name__}"
        raise ValueError(msg)  # noqa: TRY004 -- the body is invalid
    return value


def _ids(origins: list[Any], origin_indexes: list[Any], ordinals: list[Any]) -> Ids:
    if not origins or set(map(type, origins)) != {str}:
        msg = "origins: expected at least one text"
        raise ValueError(msg)
    if any(_utf8_bytes(origin, "origins") > ORIGIN_BYTES for origin in origins):
        msg = f"origins: a text has more than {ORIGIN_BYTES} bytes"
        raise ValueError(msg)
    if any("\0" in origin for origin in origins):
        msg = "origins: a text contains NUL"
        raise ValueError(msg)
    _check_integers("ordinals", ordinals, MAX_ORDINAL)
    if not origin_indexes:
        return Ids(origins[0], ordinals)
    _check_integers("owners", origin_indexes, len(origins) - 1)
    if len(origin_indexes) != len(ordinals):
        _refuse_length("owners", origin_indexes, ordinals)
    return Ids([origins[index] for index in origin_indexes], ordinals)


def _check_integers(where: str, numbers: list[Any], limit: int) -> None:
    if numbers and (set(map(type, numbers)) != {int} or min(numbers) < 0 or max(numbers) > limit):
        msg = f"{where}: expected integers from 0 to {limit}"
        raise ValueError(msg)


def _keys_or_column(
    payload: Mapping[str, Any], columns: Mapping[str, list[Any]], count: int
) -> list[str] | str:
    """Return the routing key of each record, or the name of the column that contains them.

    A body can have a single key for all records. A column without values gives an empty list.

    Args:
        payload: the decoded body of a pack.
        columns: the columns of the pack.
        count: the number of records.

    Raises:
        ValueError: there is no such column, or a key is not valid.

    """
    keys = payload.get("keys")
    if isinstance(keys, str):
        if keys not in columns:
            msg = f"keys: there is no column '{keys[:NAME_CHARACTERS]}'"
            raise ValueError(msg)
        column = columns[keys]
        if not _short_numbers(column):
            _check_keys([str(value) for value in column])
        return keys if column else []
    texts = [str(key) for key in _value_of(payload, "keys", list)]
    _check_keys(texts)
    return texts * count if len(texts) == 1 else texts


def _short_numbers(column: list[Any]) -> bool:
    """Whether all values of a column are numbers whose texts are short.

    Most columns of routing keys contain such numbers. They need no further check.
    """
    try:
        short: bool = min(column) >= -MAX_ORDINAL and max(column) <= MAX_ORDINAL
    except (TypeError, ValueError):  # the column has texts, or has no values
        return False
    return short


def _check_keys(keys: list[str]) -> None:
    """Raise ValueError for routing keys that AMQP cannot carry."""
    if _utf8_bytes("".join(keys), "keys") > SHORT_TEXT_BYTES and any(
        len(key.encode()) > SHORT_TEXT_BYTES for key in keys
    ):
        msg = f"keys: a record's key has more than {SHORT_TEXT_BYTES} bytes"
        raise ValueError(msg)


def _utf8_bytes(text: str, where: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        msg = f"{where}: a text contains half of a surrogate pair"
        raise ValueError(msg) from error
