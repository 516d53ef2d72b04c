"""The exceptions for records that must wait, because earlier records of their keys wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class EarlierRecordWaits(Exception):  # noqa: N818 -- clear without "Error"
    """A record must wait, because an earlier record of its key waits.

    This exception is registered for the record like an exception of the handler. Usually, the
    handler was not called for the record. The record then waits, too, and no attempt is counted.
    """


class FailedRecordsOvertaken(EarlierRecordWaits):
    """A batch handler has handled records although earlier records of their keys failed.

    Here, a record has failed if its verdict blocks its key: if the record is to be tried again or,
    with `block_on_dead`, becomes a dead letter. The exception is raised after the call and within
    its transaction, so that the effects of the call are rolled back. The handler is then called
    again without the later records, which wait.

    Attributes:
        failed_records: the first failed record of each key: its decoded delivery, and the index of
            the record in the delivery.

    """

    def __init__(self, failed_records: Sequence[tuple[Any, int]]) -> None:
        """Create the exception with the failed records."""
        super().__init__()
        self.failed_records = failed_records
