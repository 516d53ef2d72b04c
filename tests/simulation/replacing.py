"""Give an attribute another value for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, attribute: str, value: Any) -> Iterator[None]:
    """Give an attribute another value within the block."""
    before = owner.__dict__.get(attribute)  # None if it is inherited
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, attribute)
        else:
            setattr(owner, attribute, before)
