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
        awaited: the queues of older generations that records wait for.

    """

    def __init__(self) -> None:
        """Start without records."""
        self.awaited = AwaitedQueues()
        # The records of each key, in the order of their positions.
        self._lines: dict[str, list[WaitingRecord[Arrival]]] = {}
        # A heap of the first record of each key: when it may run, its position, and the key. Some
        # entries are out of date.
        self._heads: list[tuple[float, int, str]] = []
        self._count = 0
        self._last_positions: dict[int, int] = {}  # the last position of each generation
        self._read: set[str] = set()  # the ids of records that waited when reading began

    def __len__(self) -> int:
        """Count the records that wait."""
        return self._count

    def __iter__(self) -> Iterator[WaitingRecord[Arrival]]:
        """Yield the records; each key stays in order."""
        for line in self._lines.values():
            yield from line

    @property
    def failed(self) -> int:
        """How many of the records have failed, and do not only wait for others."""
        return sum(0 < record.due_at < math.inf for record in self)

    def blocked(self, key: str, message_id: str) -> WaitingRecord[Arrival] | None:
        """Return the dead letter that has this id and blocks this key, or None."""
        for record in self._lines.get(key, ()):
            if record.attempt == BLOCKED and record.message_id == message_id:
                return record
        return None

    def released(self, message_id: str) -> list[WaitingRecord[Arrival]]:
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
        line = self._lines.get(key)
        return (
            line is not None
            and line[0].position < (generation_number + 1) * POSITIONS_PER_GENERATION
        )

    def add(self, record: WaitingRecord[Arrival]) -> None:
        """Add a record whose message is being sent to the queue."""
        generation_number = record.position // POSITIONS_PER_GENERATION
        self._last_positions[generation_number] = max(
            self._last_positions.get(generation_number, 0), record.position
        )
        line = self._lines.setdefault(record.key, [])
        insort(line, record, key=position_of)
        self._count += 1
        self.awaited.count(record.awaited, 1)
        self._add_head(line)

    def ended(self, queues: Collection[str]) -> None:
        """Register that queues were deleted: records no longer wait for them."""
        if self.awaited.queues.isdisjoint(queues):
            return
        for line in self._lines.values():
            for record in line:
                self.awaited.count(record.awaited, -1)
                for each in record.with_copies():
                    each.awaited = each.awaited.difference(queues)
                self.awaited.count(record.awaited, 1)
            self._add_head(line)

    def arrived(self, record: WaitingRecord[Arrival]) -> list[Arrival]:
        """Add a record whose message was delivered; return the deliveries to acknowledge.

        Args:
            record: the record, with its arrival.

        """
        # The search begins at the end, because most records belong there: a key can have tens of
        # thousands of records.
        for known in reversed(self._lines.get(record.key, [])):
            if known.position < record.position:
                break
            if known.position == record.position and known.message_id == record.message_id:
                return self._also(known, record)
        self.add(record)
        return []

    def _also(self, known: WaitingRecord[Arrival], record: WaitingRecord[Arrival]) -> list[Arrival]:
        """Register another message of a known record; return the deliveries to acknowledge."""
        if record.generation_number < known.generation_number:
            self._replace(known, record)
            record.copy = known
            return []
        for each in known.with_copies():
            if each.queue == record.queue:
                return self._again(each, record)
        known.add_copy(record)
        return []

    def _replace(self, known: WaitingRecord[Arrival], record: WaitingRecord[Arrival]) -> None:
        """Put another message of a record into the position of the known message."""
        line = self._lines[known.key]
        line[line.index(known)] = record
        self.awaited.count(known.awaited, -1)
        self.awaited.count(record.awaited, 1)
        self._add_head(line)

    def _again(
        self, known: WaitingRecord[Arrival], record: WaitingRecord[Arrival]
    ) -> list[Arrival]:
        """Register another message of a known record; return the message that it replaces."""
        if record.replaces(known):
            old = known.arrival
            known.attempt, known.due_at = record.attempt, record.due_at
            known.arrival = record.arrival
            self._add_head(self._lines[known.key])
        else:
            old = record.arrival
        return [] if old is None else [old]

    def began(self) -> None:
        """Register that all messages that waited when reading began have arrived."""
        self._read |= {
            record.message_id for record in self if record.identified and record.attempt != BLOCKED
        }

    @property
    def idle(self) -> bool:
        """Whether no record waits now, and none waited when reading began."""
        return not self._lines and not self._read

    def is_repetition(self, message_id: str) -> bool:
        """Whether a record from its own queue is a repetition of one that waits or waited."""
        return message_id in self._read

    def of_queue(self, queue: str) -> list[WaitingRecord[Arrival]]:
        """Return the records and copies whose messages are in a queue, in order."""
        found = (each for record in self for each in record.with_copies() if each.queue == queue)
        return sorted(found, key=position_of)

    def next_due(self) -> float:
        """Return when the next record may run, in seconds since 1970; infinity if none waits."""
        while self._heads:
            due_at, position, key = self._heads[0]
            line = self._lines.get(key)
            if line and (line[0].due_at, line[0].position) == (due_at, position) and line[0].ready:
                return due_at
            heapq.heappop(self._heads)
        return math.inf

    def take(
        self, now: float, most: int, alone: Callable[[str], bool] = lambda _: False
    ) -> list[WaitingRecord[Arrival]]:
        """Return records that run now: their time has come, or they wait only for these records.

        The caller then passes each record to handled(), stays() or again(). Until then no other
        record of its key is taken.

        Args:
            now: the time in seconds since 1970.
            most: the largest number of records.
            alone: called with a message id; returns whether that record must be taken alone.

        """
        taken: list[WaitingRecord[Arrival]] = []
        while len(taken) < most and self.next_due() <= now:
            line = self._lines[self._heads[0][2]]
            if taken and alone(line[0].message_id):
                break
            heapq.heappop(self._heads)
            for record in line:
                several = len(taken) >= most or (taken and alone(record.message_id))
                if several or not record.ready or record.due_at > now:
                    break
                record.taken = True
                taken.append(record)
                if alone(record.message_id):
                    return taken
        return taken

    def handled(self, record: WaitingRecord[Arrival]) -> list[Arrival]:
        """Register that a record no longer waits; return its copies, which are to be acknowledged.

        The next record of its key may run then.
        """
        copies = [each for each in record.with_copies() if each is not record]
        record.copy = None
        self.left(record)
        return [each.arrival for each in copies if each.arrival is not None]

    def left(self, record: WaitingRecord[Arrival]) -> None:
        """Register that a record has left its queue without being handled.

        Its copy in a newer queue takes its position.
        """
        line = self._lines[record.key]
        position = bisect_left(line, record.position, key=position_of)
        while record not in {*line[position].with_copies()}:
            position += 1
        first = line[position]
        if first is not record:
            first.remove_copy(record)
        elif record.copy is not None:
            self._replace(record, record.copy)
        else:
            del line[position]
            self._count -= 1
            self.awaited.count(record.awaited, -1)
            if line:
                self._add_head(line)
            else:
                del self._lines[record.key]
        record.copy = None

    def stays(self, record: WaitingRecord[Arrival]) -> None:
        """Register that a record was not run, because an earlier record of its key has failed."""
        record.taken = False
        self._add_head(self._lines[record.key])

    def again(
        self, record: WaitingRecord[Arrival], due_at: float, attempt: int | None = None
    ) -> None:
        """Register that a record has failed again, and that its next message is being sent.

        Args:
            record: a record that take() has returned.
            due_at: when it is to run, in seconds since 1970.
            attempt: how often it has failed, once more than before by default.

        """
        record.attempt = record.attempt + 1 if attempt is None else attempt
        record.due_at, record.arrival, record.taken = due_at, None, False

    def given_back(self, record: WaitingRecord[Arrival]) -> None:
        """Register that a message was returned to the broker, which delivers it again."""
        record.arrival = None

    def drop(self, queue: str) -> None:
        """Remove the records whose messages are in a queue: the broker delivers them again."""
        for record in self.of_queue(queue):
            self.left(record)

    def forget(self) -> None:
        """Remove all records: the broker delivers them again."""
        self._lines, self._heads, self._count = {}, [], 0
        self._read = set()
        self.awaited.clear()

    def _add_head(self, line: list[WaitingRecord[Arrival]]) -> None:
        if line and line[0].ready:
            heapq.heappush(self._heads, (line[0].due_at, line[0].position, line[0].key))
