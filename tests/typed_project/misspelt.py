"""A name that feedbus does not have is an error; --strict reports an ignore that is not needed."""

from feedbus import Rejekt  # type: ignore[attr-defined]
from feedbus.testing import TestSistem  # type: ignore[attr-defined]

__all__ = ["Rejekt", "TestSistem"]
