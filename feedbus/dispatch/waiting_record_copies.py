"""A waiting record, and its copies in the waiting queues of newer generations.

If the waiting queues of two generations contain a record, the message in the newer queue is a copy.
The record is being moved, or a crash has interrupted the move. The record waits in the older queue.
If it leaves that queue without being handled, its copy takes its position. If it is handled, its
copy is acknowledged too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Arrival = TypeVar("Arrival")

BLOCKED = -1  # the attempt of a record that is a dead letter
POSITIONS_PER_GENERATION = 2**40  # positions for the records of one generation's queues
NO_QUEUES: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class WaitingRecord(Generic[Arrival]):
    """A record that failed and will run again, or that waits for such a record of its key.

    Attributes:
        key: the ordering key.
        position: records of one key run in the order of their positions; records of other keys can
            have the same position. The positions of a generation's records are higher than the
            positions of all earlier generations.
        message_id: the id of the record.
        has_own_id: whether the publisher gave the id, so that no other record has it.
        attempt: how often the record has failed; BLOCKED if it is a dead letter that blocks its
            key.
        due_at: the earliest time of its attempt, in seconds since 1970; 0 if it only waits for
            other records.
        queue: the waiting queue that contains its message.
        arrival: the delivery of its message; None if the message is being sent or was returned.
        is_taken: whether the record was taken to be handled, and its result is not known yet.
        awaited_queues: the queues of older generations that must be deleted before the record may
            run.
        generation_number: the number of the generation whose waiting queue contains its message.
        copy: the same record in the waiting queue of a newer generation.

    """

    key: str
    position: int
    message_id: str
    has_own_id: bool = True
    attempt: int = 0
    due_at: float = 0.0
    queue: str = ""
    arrival: Arrival | None = None
    is_taken: bool = False
    awaited_queues: frozenset[str] = NO_QUEUES
    generation_number: int = 0
    copy: WaitingRecord[Arrival] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the record may run as soon as the time `due_at` has come."""
        return self.arrival is not None and not self.is_taken and not self.awaited_queues

    def with_copies(self) -> Iterator[WaitingRecord[Arrival]]:
        """Yield the record and its copies, the message of the oldest generation first."""
        each: WaitingRecord[Arrival] | None = self
        while each is not None:
            yield each
            each = each.copy

    def add_copy(self, copy: WaitingRecord[Arrival]) -> None:
        """Add a copy after the copies of the same and of older generations."""
        before = [
            each for each in self.with_copies() if each.generation_number <= copy.generation_number
        ][-1]
        before.copy, copy.copy = copy, before.copy

    def remove_copy(self, copy: WaitingRecord[Arrival]) -> None:
        """Remove one copy; the others stay."""
        before = next(each for each in self.with_copies() if each.copy is copy)
        before.copy = copy.copy

    def replaces(self, existing: WaitingRecord[Arrival]) -> bool:
        """Whether this message of a record replaces a known message in the same queue."""
        return self.attempt > existing.attempt or (
            self.attempt == existing.attempt and existing.arrival is None
        )


def position_of(record: WaitingRecord[Arrival]) -> int:
    """Return the position of a record among the records of its key."""
    return record.position
