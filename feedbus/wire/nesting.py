"""Check how deeply tables and arrays are nested."""

from __future__ import annotations

from itertools import chain


def deeper_than(levels: int, value: object) -> bool:
    """Whether a value has more than this number of levels of dicts, lists or tuples."""
    level = [value] if isinstance(value, dict | list | tuple) else []
    for _ in range(levels):
        inner = chain.from_iterable(
            each.values() if isinstance(each, dict) else each for each in level
        )
        level = [each for each in inner if isinstance(each, dict | list | tuple)]
        if not level:
            return False
    return bool(level)
