"""Routing keys as plain texts: the keys of a publisher are those that the consumer reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from feedbus.errors import UsageError
from feedbus.records.payloads import SIMPLE, unencodable_field

USUAL_KEYS = SIMPLE | {float}  # for values of these types, str() is the text of a key


def key_texts(values: Sequence[Any], column: str) -> Sequence[str]:
    """Return the routing keys for the values of a column.

    Args:
        values: the values that a publisher gave, or the values that a consumer has decoded. Both
            give the same keys.
        column: the name of the column, for errors.

    Raises:
        UsageError: JSON cannot represent a value.

    """
    usual = USUAL_KEYS.issuperset(map(type, values))
    return list(map(str, values)) if usual else [key_text(value, column) for value in values]


def key_text(value: object, column: str) -> str:
    """Return the routing key for a value of a column, such as "5" for 5.

    A publisher calls this with the given value, and a consumer with the value that it has decoded
    from the JSON of a pack. Both get the same key. str() alone is not enough: for an instance of a
    subclass of str, int or float, such as a member of an Enum, it can return another text, such as
    "Color.RED".

    Args:
        value: the value.
        column: the name of the column, for errors.

    Raises:
        UsageError: JSON cannot represent an item of a list or a dict.

    """
    if type(value) is str:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__repr__(value)
    if isinstance(value, list | tuple | dict):  # in JSON, a tuple is a list
        try:
            return str(json.loads(json.dumps(value)))
        except (TypeError, ValueError, RecursionError) as error:
            msg = f"cannot publish: {unencodable_field({column: value}) or error}"
            raise UsageError(msg) from error
    return float.__repr__(value) if isinstance(value, float) else str(value)


def plain_keys(keys: Sequence[str]) -> Sequence[str]:
    """Return routing keys of which none is an instance of a subclass of str.

    A member of an Enum that is also a str is equal to its text, but has another hash. So keys with
    the same text would go to different packs, which can overtake each other.

    Args:
        keys: the routing keys of some records. Items of other types are returned unchanged.

    """
    if set(map(type, keys)) == {str}:
        return keys
    return [str.__str__(key) if isinstance(key, str) else key for key in keys]
