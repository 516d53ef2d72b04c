"""The exceptions for records that are not handled, because earlier records of their keys wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Waits(Exception):  # noqa: N818 -- clear without "Error"
    """A record is not handled, because an earlier record of its key waits."""


class Overtook(Waits):
    """A batch handler has handled records although earlier records of their keys had failed.

    Attributes:
        failed: the first failed record of each key: the delivery, and the record's index in it.

    """

    def __init__(self, failed: Sequence[tuple[Any, int]]) -> None:
        """Create the exception with the failed records."""
        super().__init__()
        self.failed = failed
