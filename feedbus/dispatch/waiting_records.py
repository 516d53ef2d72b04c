"""The records that wait for an earlier record of their key: their order, and when they are due."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Arrival = TypeVar("Arrival")


BLOCKED = -1  # the attempt of a record that is a dead letter
PLACES_OF_TURN = 2**40  # positions for the records of one generation's queues
NOTHING: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class WaitingRecord(Generic[Arrival]):
    """A record that failed and will run again, or that waits for such a record of its key.

    Attributes:
        key: the ordering key.
        place: records of one key run in the order of their places; records of other keys can have
            the same place. The places of a generation's records are behind those of all earlier
            generations.
        message_id: the id of the record.
        identified: whether the publisher gave the id, so that no other record has it.
        attempt: how often it has failed; BLOCKED if it is a dead letter that blocks its key.
        due_at: the earliest time of its attempt, in seconds since 1970; 0 if it only waits for
            others.
        queue: the waiting queue that contains its message.
        arrival: the delivery of its message; None if the message is being sent or was returned.
        awaited: the queues of older generations that must be deleted before the record may run.
        turn: the number of the generation whose waiting queue contains its message.
        copy: the same record in the waiting queue of a newer generation.

    """

    key: str
    place: int
    message_id: str
    identified: bool = True
    attempt: int = 0
    due_at: float = 0.0
    queue: str = ""
    arrival: Arrival | None = None
    taken: bool = False
    awaited: frozenset[str] = NOTHING
    turn: int = 0
    copy: WaitingRecord[Arrival] | None = None


class WaitingRecords(Generic[Arrival]):
    """The waiting records of one consumer. It does no I/O and has no clock: its owner calls it.

    Each of them is a message in a waiting queue on the broker. The message is put there before the
    record is acknowledged in its own queue. If the record fails again, its new message is put there
    before the old message is acknowledged. So after a crash, a record can be in the waiting queue
    twice, or its own queue can deliver it again. Both cases are recognised here:

    - two messages of one queue with one place and one id are one record, and the later attempt
      counts;
    - in queues of two generations, the message in the newer one is a copy: the record is being
      moved, or a crash has interrupted the move. The record waits in the older queue. If it leaves
      that queue without being handled, its copy takes its position. If it is handled, its copy is
      acknowledged too;
    - a record that its own queue delivers again has the id of a record that waited when reading
      began; it is a repetition.

    A key is blocked from the time when a record of it is added until the last one is done. A record
    of an older generation's queue is not blocked by records of newer ones.
    """

    def __init__(self) -> None:
        """Start without records."""
        self._lines: dict[str, list[WaitingRecord[Arrival]]] = {}
        self._heads: list[tuple[float, int, str]] = []  # some are out of date
        self._count = 0
        self._last_places: dict[int, int] = {}  # by turn
        self._read: set[str] = set()
        self._awaited: Counter[str] = Counter()  # the number of records for each queue
        self.behind_old_queues = 0  # how many records wait for a queue

    def __len__(self) -> int:
        """Count the records that wait."""
        return self._count

    def __iter__(self) -> Iterator[WaitingRecord[Arrival]]:
        """Yield the records, those of one key in order."""
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
            for each in _with_copies(record)
            if each.attempt == BLOCKED and message_id in {"", each.message_id}
        ]

    def next_place(self, turn: int = 0) -> int:
        """Return a position after all others of a generation, and before those of later ones."""
        place = self._last_places.get(turn, turn * PLACES_OF_TURN) + 1
        self._last_places[turn] = place
        return place

    def blocks(self, key: str, turn: int = 0) -> bool:
        """Whether a record that arrives now must wait for others of its key.

        Args:
            key: the ordering key.
            turn: the number of the generation whose queue delivers the record.

        """
        line = self._lines.get(key)
        return line is not None and line[0].place < (turn + 1) * PLACES_OF_TURN

    def add(self, record: WaitingRecord[Arrival]) -> None:
        """Add a record whose message is being sent to the queue."""
        turn = record.place // PLACES_OF_TURN
        self._last_places[turn] = max(self._last_places.get(turn, 0), record.place)
        line = self._lines.setdefault(record.key, [])
        insort(line, record, key=_place)
        self._count += 1
        self._count_awaited(record, 1)
        self._look(line)

    @property
    def awaited(self) -> Collection[str]:
        """The queues that records wait for."""
        return self._awaited.keys()

    def ended(self, queues: Collection[str]) -> None:
        """Register that queues were deleted: records no longer wait for them."""
        if self._awaited.keys().isdisjoint(queues):
            return
        for line in self._lines.values():
            for record in line:
                self._count_awaited(record, -1)
                for each in _with_copies(record):
                    each.awaited = each.awaited.difference(queues)
                self._count_awaited(record, 1)
            self._look(line)

    def _count_awaited(self, record: WaitingRecord[Arrival], change: int) -> None:
        if record.awaited:
            self.behind_old_queues += change
            for queue in record.awaited:
                self._awaited[queue] += change
                if not self._awaited[queue]:
                    del self._awaited[queue]

    def arrived(self, record: WaitingRecord[Arrival]) -> list[Arrival]:
        """Add a record whose message was delivered; return the deliveries to acknowledge.

        Args:
            record: the record, with its arrival.

        """
        # From the end, because most belong there: a key can have tens of thousands of records.
        for known in reversed(self._lines.get(record.key, [])):
            if known.place < record.place:
                break
            if known.place == record.place and known.message_id == record.message_id:
                return self._also(known, record)
        self.add(record)
        return []

    def _also(self, known: WaitingRecord[Arrival], record: WaitingRecord[Arrival]) -> list[Arrival]:
        """Note another message of a known record; return the deliveries to acknowledge."""
        if record.turn < known.turn:
            self._replace(known, record)
            record.copy = known
            return []
        for each in _with_copies(known):
            if each.queue == record.queue:
                return self._again(each, record)
        before = [each for each in _with_copies(known) if each.turn <= record.turn][-1]
        before.copy, record.copy = record, before.copy
        return []

    def _replace(self, known: WaitingRecord[Arrival], record: WaitingRecord[Arrival]) -> None:
        """Put another message of a record into the position of a known one."""
        line = self._lines[known.key]
        line[line.index(known)] = record
        self._count_awaited(known, -1)
        self._count_awaited(record, 1)
        self._look(line)

    def _again(
        self, known: WaitingRecord[Arrival], record: WaitingRecord[Arrival]
    ) -> list[Arrival]:
        """Note another message of a known record; return the message that it replaces."""
        newer = record.attempt > known.attempt or (
            record.attempt == known.attempt and known.arrival is None
        )
        old, new = (known.arrival, record.arrival) if newer else (record.arrival, known.arrival)
        if newer:
            known.attempt, known.due_at, known.arrival = record.attempt, record.due_at, new
            self._look(self._lines[known.key])
        return [] if old is None else [old]

    def began(self) -> None:
        """Record that all messages that waited when reading began have arrived."""
        self._read |= {
            record.message_id for record in self if record.identified and record.attempt != BLOCKED
        }

    @property
    def idle(self) -> bool:
        """Whether no record waits now, and none waited when reading began."""
        return not self._lines and not self._read

    def is_repetition(self, message_id: str) -> bool:
        """Whether a record that its own queue delivers again is one that waits or waited."""
        return message_id in self._read

    def of_queue(self, queue: str) -> list[WaitingRecord[Arrival]]:
        """Return the records and copies whose messages are in a queue, in order."""
        found = (each for record in self for each in _with_copies(record) if each.queue == queue)
        return sorted(found, key=_place)

    def next_due(self) -> float:
        """Return when the next record may run, in seconds since 1970; infinity without any."""
        while self._heads:
            due_at, place, key = self._heads[0]
            line = self._lines.get(key)
            if line and (line[0].due_at, line[0].place) == (due_at, place) and _ready(line[0]):
                return due_at
            heapq.heappop(self._heads)
        return math.inf

    def take(
        self, now: float, most: int, alone: Callable[[str], bool] = lambda _: False
    ) -> list[WaitingRecord[Arrival]]:
        """Return records that run now: those that are due, and those that wait only for these.

        Each of them is to be given to handled(), stays() or again() afterwards; until then no other
        record of their keys is taken.

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
                if several or not _ready(record) or record.due_at > now:
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
        copies = [each for each in _with_copies(record) if each is not record]
        record.copy = None
        self.left(record)
        return [each.arrival for each in copies if each.arrival is not None]

    def left(self, record: WaitingRecord[Arrival]) -> None:
        """Register that a record has left its queue without being handled.

        Its copy in a newer queue takes its position.
        """
        line = self._lines[record.key]
        place = bisect_left(line, record.place, key=_place)
        while record not in {*_with_copies(line[place])}:
            place += 1
        first = line[place]
        if first is not record:  # it is a copy
            before = next(each for each in _with_copies(first) if each.copy is record)
            before.copy = record.copy
        elif record.copy is not None:
            self._replace(record, record.copy)
        else:
            del line[place]
            self._count -= 1
            self._count_awaited(record, -1)
            if line:
                self._look(line)
            else:
                del self._lines[record.key]
        record.copy = None

    def stays(self, record: WaitingRecord[Arrival]) -> None:
        """Register that a record was not run, because an earlier one has failed again."""
        record.taken = False
        self._look(self._lines[record.key])

    def again(
        self, record: WaitingRecord[Arrival], due_at: float, attempt: int | None = None
    ) -> None:
        """Register that a record has failed again, and that its next message is being sent.

        Args:
            record: returned by take().
            due_at: when it is to run.
            attempt: how often it has failed, once more than before by default.

        """
        record.attempt = record.attempt + 1 if attempt is None else attempt
        record.due_at, record.arrival, record.taken = due_at, None, False

    def given_back(self, record: WaitingRecord[Arrival]) -> None:
        """Record that a message was returned to the broker, which delivers it again."""
        record.arrival = None

    def drop(self, queue: str) -> None:
        """Remove the records whose messages are in a queue: the broker delivers them again."""
        for record in self.of_queue(queue):
            self.left(record)

    def forget(self) -> None:
        """Remove all records: the broker delivers them again."""
        self._lines, self._heads, self._count = {}, [], 0
        self._read = set()
        self._awaited, self.behind_old_queues = Counter(), 0

    def _look(self, line: list[WaitingRecord[Arrival]]) -> None:
        if line and _ready(line[0]):
            heapq.heappush(self._heads, (line[0].due_at, line[0].place, line[0].key))


def _place(record: WaitingRecord[Arrival]) -> int:
    return record.place


def _with_copies(record: WaitingRecord[Arrival]) -> Iterator[WaitingRecord[Arrival]]:
    each: WaitingRecord[Arrival] | None = record
    while each is not None:
        yield each
        each = each.copy


def _ready(record: WaitingRecord[Arrival]) -> bool:
    return record.arrival is not None and not record.taken and not record.awaited
