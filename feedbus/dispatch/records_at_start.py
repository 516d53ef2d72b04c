"""The records that waited when a consumer began to read.

A failed record is published to the waiting queue, and is then acknowledged in its own queue. If the
process ends between these two steps, the record is in both queues. The next process first reads the
waiting queue completely, and keeps the ids of the records in it. Then the own queue delivers the
record again. Because its id was kept, this delivery is a repetition: it is acknowledged, and the
record is handled from the waiting queue.

Two kinds of ids are not kept:

- ids that feedbus has derived from the content, because the publisher gave none: another record can
  have the same derived id;
- ids of dead letters that block their keys: when such a dead letter is requeued, it has the same
  id, and must be handled.
"""

from __future__ import annotations

from collections.abc import Iterable

from feedbus.dispatch.positions import generation_of
from feedbus.dispatch.waiting_record import WaitingRecord


class RecordsAtStart:
    """The ids of the records that waited when the consumer began to read.

    With them, the consumer recognises a record that its queue delivers although the record is in
    the waiting queue already. WaitingDeliveries has one RecordsAtStart object.

    Attributes:
        ids: for each record, the number of the generation whose queue delivered it first, and the
            id of the record.

    """

    def __init__(self) -> None:
        """Start without records."""
        self.ids: set[tuple[int, str]] = set()

    def add(self, records: Iterable[WaitingRecord]) -> None:
        """Add the ids of records in a waiting queue that was read completely.

        Args:
            records: the waiting records. Derived ids and ids of dead letters are left out.

        """
        self.ids |= {
            (generation_of(record.position), record.message_id)
            for record in records
            if record.has_own_id and not record.is_dead_letter
        }

    def contain(self, generation_number: int, message_id: str) -> bool:
        """Whether a record with this id waited, and came first from a queue of this generation.

        A waiting record of another generation with this id is another message.

        Args:
            generation_number: the number of the generation whose queue has delivered the record.
            message_id: the id of the record.

        """
        return (generation_number, message_id) in self.ids

    def clear(self) -> None:
        """Forget all ids; called when the connection ends."""
        self.ids.clear()
