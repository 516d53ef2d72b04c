"""Routing keys as plain texts: the keys of a publisher are those that the consumer reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from feedbus.records.payloads import SIMPLE

USUAL_KEYS = SIMPLE | {float}  # for values of these types, str() is the text of a key


def key_texts(values: Sequence[Any]) -> Sequence[str]:
    """Return the routing keys for the values of a column.

    Args:
        values: the values that a publisher gave, or the values that a consumer has decoded. Both
            give the same keys.

    """
    usual = USUAL_KEYS.issuperset(map(type, values))
    return list(map(str if usual else key_text, values))


def key_text(value: object) -> str:
    """Return the routing key for a value of a column, such as "5" for 5.

    A publisher calls this with the given value, and a consumer with the value that it has decoded
    from the JSON of a pack. Both get the same key. str() alone is not enough: for an instance of a
    subclass of str, int or float, such as a member of an Enum, it can return another text, such as
    "Color.RED".
    """
    if type(value) is str:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__repr__(value)
    if isinstance(value, list | tuple | dict):  # in JSON, a tuple is a list
        return str(json.loads(json.dumps(value)))
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
