"""The records that waited when a consumer began to read.

With `order_by`, a failed record is published to the waiting queue, in which it waits for its next
attempt. Then the record is acknowledged in its own queue. If the process ends between these two
steps, the record is in both queues. The next process first reads the waiting queue completely, and
keeps the ids of its records. Then the own queue delivers the record again. The kept id shows that
this delivery is a repetition. So the delivery is acknowledged, and the record is handled when the
waiting queue delivers it.

Two kinds of ids are not kept:

- Derived ids: the publisher gave no id, and feedbus has derived one from the content. Another
  record with equal content has the same id.
- Ids of dead letters that block their keys. When such a dead letter is requeued, it has the same
  id, and must be handled.
"""

from __future__ import annotations

from collections.abc import Iterable

from feedbus.dispatch.positions import generation_of
from feedbus.dispatch.waiting_record import WaitingRecord


class RecordsAtStart:
    """The ids of the records that waited when the consumer began to read.

    With these ids, the consumer recognises a record that its queue delivers although the record is
    in the waiting queue already. WaitingDeliveries has one RecordsAtStart object.

    Attributes:
        ids: for each record, the number of the generation (the set of queues) whose queue delivered
            the record first, and the id of the record.

    """

    def __init__(self) -> None:
        """Start without records."""
        self.ids: set[tuple[int, str]] = set()

    def add(self, records: Iterable[WaitingRecord]) -> None:
        """Add the ids of records in a waiting queue that was read completely.

        Args:
            records: the waiting records. Dead letters are left out, and records whose ids feedbus
                has derived from their content, because other records can have the same ids.

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
        """Forget all ids, when the connection ends: the next connection reads the queue again."""
        self.ids.clear()
