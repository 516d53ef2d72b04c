"""Check that payloads and headers do not have too many levels of nested values.

Code that reads or writes nested values recursively fails if they have too many levels.
"""

from __future__ import annotations

from itertools import chain


def deeper_than(levels: int, value: object) -> bool:
    """Whether a value has more than this number of levels of dicts, lists or tuples.

    A payload is checked when its body is decoded, and the headers of a message when the embedded
    broker stores the message.

    Args:
        levels: the largest allowed number. A dict without inner dicts or lists has one level.
        value: the decoded value, such as a payload.

    """
    level = [value] if isinstance(value, dict | list | tuple) else []
    for _ in range(levels):
        inner = chain.from_iterable(
            each.values() if isinstance(each, dict) else each for each in level
        )
        level = [each for each in inner if isinstance(each, dict | list | tuple)]
        if not level:
            return False
    return bool(level)
