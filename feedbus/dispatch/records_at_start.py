"""The records that waited when a consumer began to read.

A failed record is published to the waiting queue, and is then acknowledged in its own queue. If the
process ends between these two steps, the record is in both queues. The next process first reads the
waiting queue completely, and keeps the ids of its records. When the own queue then delivers the
record again, its id is among them. So this delivery is a repetition: it is acknowledged, and the
record is handled from the waiting queue.

Only ids that publishers have given are kept: other records can have the same derived id. The ids of
dead letters that block their keys are not kept: when such a dead letter is requeued, it has the
same id, and must be handled.
"""

from __future__ import annotations

from collections.abc import Iterable

from feedbus.dispatch.positions import generation_of
from feedbus.dispatch.waiting_record import WaitingRecord


class RecordsAtStart:
    """The records that waited when reading began.

    Attributes:
        ids: for each record, the number of the generation whose queue delivered it first, and the
            id of the record.

    """

    def __init__(self) -> None:
        """Start without records."""
        self.ids: set[tuple[int, str]] = set()

    def add(self, records: Iterable[WaitingRecord]) -> None:
        """Add the records of a waiting queue that was read completely."""
        self.ids |= {
            (generation_of(record.position), record.message_id)
            for record in records
            if record.has_own_id and not record.is_dead_letter
        }

    def contain(self, generation_number: int, message_id: str) -> bool:
        """Whether a record waited that first came from a queue of this generation.

        A waiting record of another generation with this id is another message.
        """
        return (generation_number, message_id) in self.ids

    def clear(self) -> None:
        """Remove all records."""
        self.ids.clear()
