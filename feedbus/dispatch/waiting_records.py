"""The records that wait for an earlier record of their key: their order, and when they may run."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator
from typing import Generic

from feedbus.dispatch.awaited_queues import AwaitedQueues
from feedbus.dispatch.waiting_record_copies import (
    BLOCKED,
    POSITIONS_PER_GENERATION,
    Arrival,
    WaitingRecord,
    position_of,
)


class WaitingRecords(Generic[Arrival]):
    """The waiting records of one consumer. It does no I/O and has no clock: its owner calls it.

    Each record is a message in a waiting queue on the broker. The message is published before the
    record is acknowledged in its own queue. If the record fails again, its new message is published
    before the old message is acknowledged. So after a crash, a record can be in the waiting queue
    twice, or its own queue can deliver it again. These cases are recognised here:

    - two messages of one queue with the same position and the same id are one record, and the later
      attempt counts;
    - in queues of two generations, the message in the newer one is a copy of the record;
    - a record that its own queue delivers again has the id of a record that waited when reading
      began; it is a repetition.

    A key is blocked from the time when its first record is added until its last record is done. A
    record of an older generation's queue is not blocked by records of newer generations.

    Attributes:
        awaited_queues: the queues of older generations that records wait for.

    """

    def __init__(self) -> None:
        """Start without records."""
        self.awaited_queues = AwaitedQueues()
        # The records of each key, in the order of their positions.
        self._records_by_key: dict[str, list[WaitingRecord[Arrival]]] = {}
        # A heap of the first record of each key: when it may run, its position, and the key. Some
        # entries are out of date.
        self._heads: list[tuple[float, int, str]] = []
        self._count = 0
        self._last_positions: dict[int, int] = {}  # the last position of each generation
        # The records that waited when reading began: the number of the generation whose queue
        # delivered the record first, and the id of the record.
        self._ids_at_start: set[tuple[int, str]] = set()

    def __len__(self) -> int:
        """Count the records that wait."""
        return self._count

    def __iter__(self) -> Iterator[WaitingRecord[Arrival]]:
        """Yield the records; each key stays in order."""
        for key_records in self._records_by_key.values():
            yield from key_records

    @property
    def failed_count(self) -> int:
        """How many of the records have failed, and do not only wait for others."""
        return sum(0 < record.due_at < math.inf for record in self)

    def find_dead_letter(self, key: str, message_id: str) -> WaitingRecord[Arrival] | None:
        """Return the dead letter with this id that blocks this key (`block_on_dead`), or None."""
        for record in self._records_by_key.get(key, ()):
            if record.attempt == BLOCKED and record.message_id == message_id:
                return record
        return None

    def find_dead_letters(self, message_id: str) -> list[WaitingRecord[Arrival]]:
        """Return the dead letters that block a key and have this id; "" stands for any id."""
        return [
            each
            for record in self
            for each in record.with_copies()
            if each.attempt == BLOCKED and message_id in {"", each.message_id}
        ]

    def next_position(self, generation_number: int = 0) -> int:
        """Return a position after all positions of a generation, before all later generations."""
        position = (
            self._last_positions.get(
                generation_number, generation_number * POSITIONS_PER_GENERATION
            )
            + 1
        )
        self._last_positions[generation_number] = position
        return position

    def blocks(self, key: str, generation_number: int = 0) -> bool:
        """Whether a record that arrives now must wait for other records of its key.

        Args:
            key: the ordering key.
            generation_number: the number of the generation whose queue delivers the record.

        """
        key_records = self._records_by_key.get(key)
        return (
            key_records is not None
            and key_records[0].position < (generation_number + 1) * POSITIONS_PER_GENERATION
        )

    def add(self, record: WaitingRecord[Arrival]) -> None:
        """Add a record whose message is being sent to the queue."""
        generation_number = record.position // POSITIONS_PER_GENERATION
        self._last_positions[generation_number] = max(
            self._last_positions.get(generation_number, 0), record.position
        )
        key_records = self._records_by_key.setdefault(record.key, [])
        insort(key_records, record, key=position_of)
        self._count += 1
        self.awaited_queues.update(record.awaited_queues, 1)
        self._add_head(key_records)

    def forget_deleted_queues(self, queues: Collection[str]) -> None:
        """Register that queues were deleted: records no longer wait for them."""
        if self.awaited_queues.queues.isdisjoint(queues):
            return
        for key_records in self._records_by_key.values():
            for record in key_records:
                self.awaited_queues.update(record.awaited_queues, -1)
                for each in record.with_copies():
                    each.awaited_queues = each.awaited_queues.difference(queues)
                self.awaited_queues.update(record.awaited_queues, 1)
            self._add_head(key_records)

    def add_arrived(self, record: WaitingRecord[Arrival]) -> list[Arrival]:
        """Add a record whose message was delivered; return the deliveries to acknowledge.

        Args:
            record: the record, with its arrival.

        """
        # The search begins at the end, because most records belong there: a key can have tens of
        # thousands of records.
        for existing in reversed(self._records_by_key.get(record.key, [])):
            if existing.position < record.position:
                break
            if existing.position == record.position and existing.message_id == record.message_id:
                return self._add_copy(existing, record)
        self.add(record)
        return []

    def _add_copy(
        self, existing: WaitingRecord[Arrival], record: WaitingRecord[Arrival]
    ) -> list[Arrival]:
        """Register another message of a known record; return the deliveries to acknowledge."""
        if record.generation_number < existing.generation_number:
            self._replace(existing, record)
            record.copy = existing
            return []
        for each in existing.with_copies():
            if each.queue == record.queue:
                return self._replace_arrival(each, record)
        existing.add_copy(record)
        return []

    def _replace(self, existing: WaitingRecord[Arrival], record: WaitingRecord[Arrival]) -> None:
        """Put another message of a record into the position of the known message."""
        key_records = self._records_by_key[existing.key]
        key_records[key_records.index(existing)] = record
        self.awaited_queues.update(existing.awaited_queues, -1)
        self.awaited_queues.update(record.awaited_queues, 1)
        self._add_head(key_records)

    def _replace_arrival(
        self, existing: WaitingRecord[Arrival], record: WaitingRecord[Arrival]
    ) -> list[Arrival]:
        """Register another message of a known record; return the message that it replaces."""
        if record.replaces(existing):
            old = existing.arrival
            existing.attempt, existing.due_at = record.attempt, record.due_at
            existing.arrival = record.arrival
            self._add_head(self._records_by_key[existing.key])
        else:
            old = record.arrival
        return [] if old is None else [old]

    def mark_complete(self) -> None:
        """Register that all messages that waited when reading began have arrived."""
        self._ids_at_start |= {
            (record.position // POSITIONS_PER_GENERATION, record.message_id)
            for record in self
            if record.has_own_id and record.attempt != BLOCKED
        }

    @property
    def is_idle(self) -> bool:
        """Whether no record waits now, and none waited when reading began."""
        return not self._records_by_key and not self._ids_at_start

    def is_repetition(self, generation_number: int, message_id: str) -> bool:
        """Whether a redelivered record from its own queue is one that waits or waited.

        A waiting record of a newer generation is another message with the same id. It must not
        replace a record of an older queue, because it can be behind later records of its key.

        Args:
            generation_number: the number of the generation whose queue delivers the record.
            message_id: the id of the record.

        """
        return (generation_number, message_id) in self._ids_at_start

    def records_in(self, queue: str) -> list[WaitingRecord[Arrival]]:
        """Return the records and copies whose messages are in a queue, in order."""
        records = (each for record in self for each in record.with_copies() if each.queue == queue)
        return sorted(records, key=position_of)

    def next_due_at(self) -> float:
        """Return when the next record may run, in seconds since 1970; infinity if none waits."""
        while self._heads:
            due_at, position, key = self._heads[0]
            key_records = self._records_by_key.get(key)
            if (
                key_records
                and (key_records[0].due_at, key_records[0].position) == (due_at, position)
                and key_records[0].is_ready
            ):
                return due_at
            heapq.heappop(self._heads)
        return math.inf

    def take(
        self, now: float, max_records: int, is_suspected: Callable[[str], bool] = lambda _: False
    ) -> list[WaitingRecord[Arrival]]:
        """Return records that run now: their time has come, or they wait only for these records.

        The caller then passes each record to remove_handled(), put_back() or mark_failed_again().
        Until then no other record of its key is taken.

        Args:
            now: the time in seconds since 1970.
            max_records: the largest number of records.
            is_suspected: called with a message id; returns whether that record must be taken alone.

        """
        records: list[WaitingRecord[Arrival]] = []
        while len(records) < max_records and self.next_due_at() <= now:
            key_records = self._records_by_key[self._heads[0][2]]
            if records and is_suspected(key_records[0].message_id):
                break
            heapq.heappop(self._heads)
            for record in key_records:
                must_stop = len(records) >= max_records or (
                    records and is_suspected(record.message_id)
                )
                if must_stop or not record.is_ready or record.due_at > now:
                    break
                record.is_taken = True
                records.append(record)
                if is_suspected(record.message_id):
                    return records
        return records

    def remove_handled(self, record: WaitingRecord[Arrival]) -> list[Arrival]:
        """Register that a record no longer waits; return its copies, which are to be acknowledged.

        The next record of its key may run then.
        """
        copies = [each for each in record.with_copies() if each is not record]
        record.copy = None
        self.remove(record)
        return [each.arrival for each in copies if each.arrival is not None]

    def remove(self, record: WaitingRecord[Arrival]) -> None:
        """Register that a record has left its queue without being handled.

        Its copy in a newer queue takes its position.
        """
        key_records = self._records_by_key[record.key]
        position = bisect_left(key_records, record.position, key=position_of)
        while record not in {*key_records[position].with_copies()}:
            position += 1
        first = key_records[position]
        if first is not record:
            first.remove_copy(record)
        elif record.copy is not None:
            self._replace(record, record.copy)
        else:
            del key_records[position]
            self._count -= 1
            self.awaited_queues.update(record.awaited_queues, -1)
            if key_records:
                self._add_head(key_records)
            else:
                del self._records_by_key[record.key]
        record.copy = None

    def put_back(self, record: WaitingRecord[Arrival]) -> None:
        """Register that a record was not run, because an earlier record of its key has failed."""
        record.is_taken = False
        self._add_head(self._records_by_key[record.key])

    def mark_failed_again(
        self, record: WaitingRecord[Arrival], due_at: float, attempt: int | None = None
    ) -> None:
        """Register that a record has failed again, and that its next message is being sent.

        Args:
            record: a record that take() has returned.
            due_at: when it is to run, in seconds since 1970.
            attempt: how often it has failed, once more than before by default.

        """
        record.attempt = record.attempt + 1 if attempt is None else attempt
        record.due_at, record.arrival, record.is_taken = due_at, None, False

    def forget_arrival(self, record: WaitingRecord[Arrival]) -> None:
        """Register that a message was returned to the broker, which delivers it again."""
        record.arrival = None

    def forget_queue(self, queue: str) -> None:
        """Remove the records whose messages are in a queue: the broker delivers them again."""
        for record in self.records_in(queue):
            self.remove(record)

    def forget(self) -> None:
        """Remove all records: the broker delivers them again."""
        self._records_by_key, self._heads, self._count = {}, [], 0
        self._ids_at_start = set()
        self.awaited_queues.clear()

    def _add_head(self, key_records: list[WaitingRecord[Arrival]]) -> None:
        if key_records and key_records[0].is_ready:
            heapq.heappush(
                self._heads, (key_records[0].due_at, key_records[0].position, key_records[0].key)
            )
