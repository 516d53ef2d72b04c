"""Paths into a document: the keys and numbers from its root to a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Path = tuple[str | int, ...]
MISSING = object()


def lookup(document: Any, path: Path) -> Any:
    """Return what the document holds at path, or MISSING."""
    found = document
    for step in path:
        if isinstance(found, Mapping):
            found = found.get(step, MISSING)
        elif isinstance(found, list) and isinstance(step, int) and step < len(found):
            found = found[step]
        else:
            return MISSING
    return found
