"""Check how deeply tables and arrays are nested."""

from __future__ import annotations

from itertools import chain


def deeper_than(most: int, value: object) -> bool:
    """Whether dicts and lists are nested more deeply than a limit."""
    level = [value] if isinstance(value, dict | list | tuple) else []
    for _ in range(most):
        inner = chain.from_iterable(
            each.values() if isinstance(each, dict) else each for each in level
        )
        level = [each for each in inner if isinstance(each, dict | list | tuple)]
        if not level:
            return False
    return bool(level)
