"""Paths to values in a TOML document: the keys and indexes from the root to the value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KeyPath = tuple[str | int, ...]
MISSING = object()  # the result of lookup() for a path that the document does not have


def lookup(document: Any, path: KeyPath) -> Any:
    """Return the value at a path of a parsed TOML document, or MISSING.

    Args:
        document: the tables and arrays of the file, as tomllib returns them.
        path: the keys and indexes from the root to the value.

    Returns:
        The value; the object MISSING if the document has no value at the path.

    """
    found = document
    for step in path:
        if isinstance(found, Mapping):
            found = found.get(step, MISSING)
        elif isinstance(found, list) and isinstance(step, int) and step < len(found):
            found = found[step]
        else:
            return MISSING
    return found
