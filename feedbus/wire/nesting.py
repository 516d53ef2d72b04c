"""Check that payloads and headers do not have too many levels of nested values.

Code that reads or writes nested values recursively fails if they have too many levels.
"""

from __future__ import annotations

from typing import Any

CONTAINERS = (dict, list, tuple)
SCALARS = frozenset({str, int, float, bool, type(None)})


def deeper_than(levels: int, value: object) -> bool:
    """Whether a value has more than this number of levels of dicts, lists or tuples.

    A payload is checked when it is published, and when its body is decoded. The headers of a
    message are checked when the embedded broker stores the message.

    Args:
        levels: the largest allowed number. A dict without inner dicts or lists has one level.
        value: the decoded value, such as a payload.

    """
    level: list[Any] = [value] if isinstance(value, CONTAINERS) else []
    for _ in range(levels):
        inner = [each.values() if isinstance(each, dict) else each for each in level]
        # Most containers contain only scalars. The first condition skips them in a short time.
        level = [
            each
            for values in inner
            if not SCALARS.issuperset(map(type, values))
            for each in values
            if isinstance(each, CONTAINERS)
        ]
        if not level:
            return False
    return bool(level)
