"""Check what a caller passes to publish(), publish_many() and publish_columns()."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from feedbus.errors import UsageError
from feedbus.wrong_argument import refuse

ORDER = "the order is exchange, payload, key"
PAIRS = "an iterable of (payload, key) pairs"


def check_record(exchange: object, payload: object, key: object, message_id: object = None) -> None:
    """Check the arguments of publish().

    Raises:
        TypeError: one has a wrong type; the text names it, what was expected and what was given.

    """
    if not isinstance(exchange, str):
        refuse("exchange", "str", exchange, ORDER)
    if not isinstance(payload, dict) and not isinstance(payload, Mapping):
        swapped = isinstance(payload, str) and isinstance(key, Mapping)
        hint = f"payload and key are swapped: {ORDER}" if swapped else ORDER
        refuse("payload", "a mapping of fields to values", payload, hint)
    if not isinstance(key, str):
        refuse("key", "str", key)
    if message_id is not None and not isinstance(message_id, str):
        refuse("message_id", "str or None", message_id)


def check_many(exchange: object, pairs: object) -> None:
    """Check the arguments of publish_many() before the pairs are read.

    Raises:
        TypeError: as check_record().

    """
    if not isinstance(exchange, str):
        refuse("exchange", "str", exchange)
    if isinstance(pairs, Mapping):
        refuse("pairs", PAIRS, pairs, "write [(payload, key)]")
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        refuse("pairs", PAIRS, pairs)


def refuse_pairs(pairs: Sequence[Any], first: int = 0) -> None:
    """Name the pair that cannot be published; return when each is a payload and a key.

    Args:
        pairs: what could not be put into packs.
        first: the number of the first of them in what the caller gave.

    Raises:
        TypeError: as check_record().

    """
    for number, pair in enumerate(pairs, start=first):
        name = f"pairs[{number}]"
        if not isinstance(pair, tuple | list) or len(pair) != 2:  # noqa: PLR2004 -- a pair
            refuse(name, "(payload, key)", pair)
        payload, key = pair
        if not isinstance(payload, Mapping):
            swapped = isinstance(payload, str) and isinstance(key, Mapping)
            hint = "payload and key are swapped: the payload comes first" if swapped else ""
            refuse(f"{name}: payload", "a mapping of fields to values", payload, hint)
        if not isinstance(key, str):
            refuse(f"{name}: key", "str", key)


def check_columns(exchange: object, columns: Any, keys: Any, shared: object) -> None:
    """Check the arguments of publish_columns(), but for what each column holds.

    Raises:
        TypeError: as check_record().
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
        if len(values) != count:
            msg = (
                f"columns: expected {count} values of '{name}', as many as keys, got {len(values)}"
            )
            raise UsageError(msg)


def refuse_keys(keys: Iterable[object]) -> None:
    """Name the routing key that is no text; return when all are.

    Raises:
        TypeError: as check_record().

    """
    for number, key in enumerate(keys):
        if not isinstance(key, str):
            refuse(f"keys[{number}]", "str", key)
