"""The exceptions for records that must wait, because earlier records of their keys wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class EarlierRecordWaits(Exception):  # noqa: N818 -- clear without "Error"
    """A record is not handled, because an earlier record of its key waits.

    feedbus raises it internally in place of a call of the handler. The record then waits, too, and
    no attempt is counted.
    """


class FailedRecordsOvertaken(EarlierRecordWaits):
    """A batch handler has handled records although earlier records of their keys had failed.

    It is raised in the transaction after the call, so that the effects of the call are rolled back.
    The handler is then called again without the later records, which wait.

    Attributes:
        failed_records: the first failed record of each key: its decoded delivery, and the index of
            the record in the delivery.

    """

    def __init__(self, failed_records: Sequence[tuple[Any, int]]) -> None:
        """Create the exception with the failed records."""
        super().__init__()
        self.failed_records = failed_records
