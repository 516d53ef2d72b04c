"""Check the arguments of publish(), publish_many() and publish_columns()."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from feedbus.errors import UsageError
from feedbus.records.payloads import mapping_of
from feedbus.wire.constants import SHORT_TEXT_BYTES
from feedbus.wire.derived_ids import is_id
from feedbus.wrong_argument import refuse

PAYLOAD = "a mapping, or an instance of a message type"
ORDER = "the order is exchange, payload, key"
SWAPPED = f"payload and key are swapped: {ORDER}"
PAIRS = "an iterable of (payload, key) pairs"


class _NoKey(str):
    """The type of NO_KEY, which is the argument `key` if the caller has given no routing key."""

    __slots__ = ()


NO_KEY: str = _NoKey()  # the default of `key`; it differs from "", which a caller can give as a key


def without_key(exchange: str, *, has_shards: bool) -> str:
    """Return "", the routing key of messages that are published without a key.

    The publishing methods call this if the caller has given no key.

    Args:
        exchange: the name of the exchange.
        has_shards: whether the exchange has shards.

    Raises:
        UsageError: the exchange has shards. Without keys, one shard would get all messages.

    """
    if has_shards:
        msg = (
            f"cannot publish to exchange '{exchange}' without a key, because the key selects the"
            ' shard: give a key, or key="" to send all messages to the same shard'
        )
        raise UsageError(msg)
    return ""


def check_record(
    exchange: object, payload: object, key: object, message_id: object = None
) -> Mapping[str, Any]:
    """Check the arguments of publish(), and return the payload as a mapping.

    Args:
        exchange: the argument `exchange`, which must be a text.
        payload: the payload: a mapping, an instance of a message type, or Raw.
        key: the routing key, which must be a text.
        message_id: the id of the record, a text or None.

    Raises:
        TypeError: an argument has a wrong type; the error names the expected and the given type.

    """
    if not isinstance(exchange, str):
        refuse("exchange", "str", exchange, ORDER)
    mapping = payload if isinstance(payload, dict) else _as_mapping("payload", payload, key, ORDER)
    if not isinstance(key, str):
        refuse("key", "str", key)
    if message_id is not None and not isinstance(message_id, str):
        refuse("message_id", "str or None", message_id)
    return mapping


def _as_mapping(name: str, payload: object, key: object, hint: str = "") -> Mapping[str, Any]:
    """Return a payload as a mapping, or raise TypeError with the expected and the given type.

    Args:
        name: the name of the argument, for the text of an error.
        payload: the payload.
        key: the argument after the payload. If this argument is a payload, and `payload` is a text,
            the error says that the two are swapped.
        hint: the advice at the end of the error's text, if no more exact advice is known.

    """
    try:
        mapping = mapping_of(payload)
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"{name}: {type(payload).__name__} has a field that JSON cannot represent: {error}"
        raise TypeError(msg) from error
    if mapping is None:
        if isinstance(payload, str) and mapping_of(key) is not None:
            hint = SWAPPED
        elif isinstance(payload, str | bytes):
            hint = "write Raw(…), for an exchange with content_type"
        elif isinstance(payload, Coroutine):
            payload.close()
            hint = "it was not awaited: write await"
        elif isinstance(payload, type):
            hint = "that is the class: publish an instance of it"
        refuse(name, PAYLOAD, payload, hint)
    return mapping


def check_many(exchange: object, pairs: object) -> None:
    """Check the arguments of publish_many() before the pairs are read.

    Args:
        exchange: the argument `exchange`, which must be a text.
        pairs: the argument `pairs`, which must be an iterable, and no mapping, text or bytes.

    Raises:
        TypeError: an argument has a wrong type; the error names the expected and the given type.

    """
    if not isinstance(exchange, str):
        refuse("exchange", "str", exchange)
    if isinstance(pairs, Mapping):
        refuse("pairs", PAIRS, pairs, "write [(payload, key)]")
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        refuse("pairs", PAIRS, pairs)


def as_mappings(pairs: Sequence[Any], first: int = 0) -> Sequence[tuple[Mapping[str, Any], str]]:
    """Return (payload, key) pairs in which each payload is converted to a mapping.

    publish_many() calls this, for some pairs at a time.

    Args:
        pairs: the pairs that publish_many() got, or some of them.
        first: the index of the first of them in the argument of publish_many(), for errors.

    Raises:
        TypeError: an item is not a pair, or a payload or a key has a wrong type.

    """
    mappings: list[tuple[Mapping[str, Any], str]] = []
    for number, pair in enumerate(pairs, start=first):
        name = f"pairs[{number}]"
        if not isinstance(pair, tuple | list) or len(pair) != 2:  # noqa: PLR2004 -- a pair
            refuse(name, "(payload, key)", pair)
        payload, key = pair
        mapping = _as_mapping(f"{name}: payload", payload, key)
        if not isinstance(key, str):
            refuse(f"{name}: key", "str", key)
        mappings.append((mapping, key))
    return mappings


def taken(
    pairs: Iterable[Any], remaining: Iterator[Any], first: int, limit: int | None = None
) -> list[Any]:
    """Return the next pairs of the argument of publish_many(), with copies of their payloads.

    A generator may yield the same dict again and again, with other values. So each payload is
    copied when the pair is taken; the values of its fields are not copied. The pairs of a list or a
    tuple cannot change while they are taken, so they are not copied.

    Args:
        pairs: the argument `pairs` of publish_many().
        remaining: the iterator over it.
        first: the index of the next pair, for errors.
        limit: the largest number of pairs; None for all.

    Raises:
        TypeError: an item is not a pair, or a payload or a key has a wrong type.

    """
    some = islice(remaining, limit)
    if isinstance(pairs, list | tuple):
        return list(some)
    return [
        (pair[0].copy(), pair[1])
        if type(pair) is tuple and len(pair) == 2 and type(pair[0]) is dict  # noqa: PLR2004 -- a pair
        else copied_pair(pair, number)
        for number, pair in enumerate(some, start=first)
    ]


def copied_pair(pair: Any, index: int) -> tuple[Mapping[str, Any], str]:
    """Return a pair of publish_many() whose payload is a new dict.

    Args:
        pair: the pair, of a payload and a routing key.
        index: the index of the pair in the argument of publish_many(), for errors.

    Raises:
        TypeError: the item is not a pair, or the payload or the key has a wrong type.

    """
    ((payload, key),) = as_mappings([pair], index)
    return dict(payload), key


def copied_list(values: Sequence[Any]) -> Sequence[Any]:
    """Return a copy of a list of values, or the values themselves if they cannot change."""
    return values if isinstance(values, tuple | range) else list(values)


def check_columns(exchange: object, columns: Any, keys: Any, shared: object) -> None:
    """Check the arguments of publish_columns(), except the values in the columns.

    Args:
        exchange: the argument `exchange`, which must be a text.
        columns: the argument `columns`, which must map names of fields to lists.
        keys: the argument `keys`: a list of routing keys, or the name of a column.
        shared: the argument `shared`: a mapping, or None.

    Raises:
        TypeError: an argument has a wrong type; the error names the expected and the given type.
        UsageError: a column is missing, or has more or fewer values than there are keys.

    """
    if not isinstance(exchange, str):
        refuse("exchange", "str", exchange)
    if not isinstance(columns, Mapping):
        refuse("columns", "a mapping of fields to sequences", columns)
    if not isinstance(keys, Sequence):
        refuse("keys", "a sequence of str, or the name of a column", keys)
    if shared is not None and not isinstance(shared, Mapping):
        refuse("shared", "a mapping of fields to values", shared)
    if isinstance(keys, str) and keys not in columns:
        msg = f"keys: expected the name of a column, got {keys!r:.60}"
        raise UsageError(msg)
    count = len(columns[keys] if isinstance(keys, str) else keys)
    for name, values in columns.items():
        if not is_list(values):
            refuse(f"columns[{name!r}]", "a list with one value for each record", values)
        if len(values) != count:
            msg = (
                f"columns: expected {count} values of '{name}', as many as keys, got {len(values)}"
            )
            raise UsageError(msg)


def is_list(values: object) -> bool:
    """Whether an argument is a list of values, such as a list, a tuple, a range or an array.

    Texts and bytes are not lists of values. Lists are recognised first, because the other checks
    take longer.
    """
    return type(values) is list or (
        not isinstance(values, str | bytes | Mapping)
        and hasattr(values, "__len__")
        and hasattr(values, "__getitem__")
    )


def check_id(message_id: str) -> None:
    """Raise UsageError if AMQP or the outbox cannot carry the message id of a single record.

    The limit is 254 bytes, one less than the limit of AMQP: if the record is sent as a pack, the
    message id of the pack is the id of the record and a "+".

    Args:
        message_id: the id.

    """
    if not is_id(f"{message_id}+"):
        msg = (
            "cannot publish: expected a message id in UTF-8 of 1 to 254 bytes, without NUL, got"
            f" {message_id[:50]!r}"
        )
        raise UsageError(msg)


def check_keys(keys: Sequence[str]) -> None:
    """Raise an error if AMQP or the outbox cannot carry a routing key.

    PostgreSQL cannot store the character NUL in a text, and SQLite cuts the text there.

    Args:
        keys: the routing keys of the records.

    Raises:
        TypeError: a key is not a text; the error names its index and type.
        UsageError: a key is not valid.

    """
    try:
        joined = "".join(keys)
    except TypeError:
        for number, key in enumerate(keys):
            if not isinstance(key, str):
                refuse(f"keys[{number}]", "str", key)
        raise
    is_plain = joined.isascii() and "\0" not in joined
    if is_plain and max(map(len, keys), default=0) <= SHORT_TEXT_BYTES:
        return
    for key in keys:
        if "\0" in key:
            msg = f"cannot publish: expected a routing key without NUL, got {key[:50]!r}"
            raise UsageError(msg)
        try:
            size = len(key.encode())
        except UnicodeEncodeError as error:
            msg = f"cannot publish: expected a routing key in UTF-8, got {key!r}"
            raise UsageError(msg) from error
        if size > SHORT_TEXT_BYTES:
            msg = (
                f"cannot publish: expected a routing key of at most {SHORT_TEXT_BYTES} bytes, got"
                f" {size} bytes"
            )
            raise UsageError(msg)
