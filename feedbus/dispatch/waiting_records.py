"""The waiting records of a consumer: their order, and when each is due.

A record waits for its next attempt, or for earlier records of its key. The records of a key are
handled in the order of their *positions*. A position is a number, which a record gets when it
begins to wait. A record that waits for its next attempt is *due* when the time of this attempt has
come. A record that only waits for earlier records has no such time, so it counts as due at once.
After a change of shards, a record also waits until the old queues of its key are deleted.

Example: the records A1 and A2 have the key A. A1 fails, and is to be tried again in one minute. So
OrderDecisions passes A1 to add(). From now on, the key is blocked: when A2 arrives, A2 is not
handled. A2 is passed to add(), too, and has a higher position. After one minute, take() returns A1
and A2 together. The caller handles A2 only if A1 does not fail again. If A1 fails again, A1 keeps
its position, and A2 is put back. The key is blocked until its last record is removed.

Each record is a message in a waiting queue on the broker. In these cases, a record has more than
one message, all with the same position and the same id:

- If a record fails again, a new message is sent, and then the old message is acknowledged. After a
  crash between these two steps, the queue contains both messages. When both have arrived, the
  message with the later attempt is kept, and the other one is acknowledged. But the second message
  can arrive while a handler has the record. Then it is kept, too, as a *copy*, until the handler
  has ended.
- After a change of shards, feedbus moves records to the waiting queues of the newer generation. A
  record is published to the newer queue, and then acknowledged in the older queue. Between these
  two steps, the message in the newer queue is a copy, too.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator
from operator import attrgetter

from feedbus.dispatch.awaited_queues import AwaitedQueues
from feedbus.dispatch.positions import Positions, generation_of
from feedbus.dispatch.waiting_record import (
    DEAD_LETTER_ATTEMPT,
    NO_QUEUES,
    Arrival,
    WaitingRecord,
)
from feedbus.metrics import WaitingCounts

position_of = attrgetter("position")


class WaitingRecords:
    """The waiting records of one consumer, in order, and when each is due.

    The class does no I/O and has no clock. WaitingDeliveries, the deliveries of the consumer's
    waiting queues, has one WaitingRecords object.

    Attributes:
        awaited_queues: the queues of older generations that records wait for.
        positions: returns the position of a new record.
        count: how many records wait.

    """

    def __init__(self) -> None:
        """Start without records."""
        self.awaited_queues = AwaitedQueues()
        self.positions = Positions()
        # The records of each key, in the order of their positions.
        self._records_by_key: dict[str, list[WaitingRecord]] = {}
        # A heap with an entry for the first record of each key, if the record may be handled as
        # soon as it is due (WaitingRecord.is_ready). An entry contains when the record is due, its
        # position, and its key. next_due_at() removes entries that are no longer valid.
        self._heads: list[tuple[float, int, str]] = []
        self.count = 0

    def __len__(self) -> int:
        """Count the records that wait."""
        return self.count

    def __iter__(self) -> Iterator[WaitingRecord]:
        """Yield the records; each key stays in order."""
        for key_records in self._records_by_key.values():
            yield from key_records

    def counts(self) -> WaitingCounts:
        """Count the records by what they wait for; dead letters that block a key are left out.

        The process writes the counts into its status file, for `feedbus status` and the metrics.

        Returns:
            Two numbers of records: those that only wait for earlier records of their keys, and
            those that have failed and wait for their next attempt.

        """
        # `due_at` is 0 if a record only waits for others, and infinity if it is a dead letter.
        due = [record.due_at for record in self if record.due_at]
        retrying = sum(each < math.inf for each in due)
        return WaitingCounts(waiting=self.count - len(due), retrying=retrying)

    def blocks(self, key: str, generation_number: int) -> bool:
        """Whether a record that arrives now must wait for waiting records of its key.

        Records of older generations are handled before records of newer generations. So the
        arriving record does not wait if the first waiting record of its key belongs to a newer
        generation. A record belongs to the generation whose queue delivered it first, also after it
        was moved. Its position is a number from the range of this generation.

        OrderDecisions asks this for records that the consumer's own queue delivers.

        Args:
            key: the ordering key as a text, as in WaitingRecord.key.
            generation_number: the number of the generation whose queue delivers the record.

        """
        key_records = self._records_by_key.get(key)
        return (
            key_records is not None and generation_of(key_records[0].position) <= generation_number
        )

    def find_dead_letter(self, key: str, message_id: str) -> WaitingRecord | None:
        """Return the dead letter with this id that blocks this key (`block_on_dead`), or None.

        OrderDecisions calls this for each record that arrives, because the record can be the
        requeued dead letter.

        Args:
            key: the ordering key as a text, as in WaitingRecord.key.
            message_id: the id of the dead letter.

        """
        for record in self._records_by_key.get(key, ()):
            if record.is_dead_letter and record.message_id == message_id:
                return record
        return None

    # -- records that begin or continue to wait ------------------------------------------------

    def add(self, record: WaitingRecord) -> None:
        """Add a record that is not among the waiting records yet.

        OrderDecisions calls this when a record begins to wait. The message of the record is then
        still to be sent to the waiting queue. When the waiting queue has delivered this message,
        WaitingDeliveries passes the delivered record to add_arrived(), which finds the record here.

        Args:
            record: the record, with a position.

        """
        self.positions.register(record.position)
        key_records = self._records_by_key.setdefault(record.key, [])
        insort(key_records, record, key=position_of)
        self.count += 1
        self.awaited_queues.update(record.awaited_queues, 1)
        self._add_head(key_records)

    def add_arrived(self, record: WaitingRecord) -> list[Arrival]:
        """Add a record that a waiting queue has delivered; return the deliveries to acknowledge.

        If a record with the same position and id is known, no second record is added: the delivery
        is a message of the known record. Most often, this is the message that was sent when the
        record began to wait or failed again.

        Args:
            record: the record, with its delivery.

        Returns:
            The deliveries to acknowledge, because another message of the same record is kept; often
            none.

        """
        known = self._find_known(record)
        if known is not None:
            return self._add_message(known, record)
        self.add(record)
        return []

    def knows(self, record: WaitingRecord) -> bool:
        """Whether a record with the position and the id of a delivered one is known.

        Args:
            record: the record that a waiting queue has delivered.

        """
        return self._find_known(record) is not None

    def _find_known(self, record: WaitingRecord) -> WaitingRecord | None:
        # The search begins at the end, because most records belong there: a key can have tens of
        # thousands of records.
        for known in reversed(self._records_by_key.get(record.key, [])):
            if known.position < record.position:
                break
            if known.position == record.position and known.message_id == record.message_id:
                return known
        return None

    def _add_message(self, known: WaitingRecord, message: WaitingRecord) -> list[Arrival]:
        """Add a message of a known record; return the deliveries to acknowledge.

        If the waiting queue has delivered two messages of the record, only one of them is kept. But
        if a handler has the record now, both are kept until the result of the handler is known.

        Args:
            known: the record.
            message: the message, which a waiting queue has delivered.

        """
        replaced: Arrival | None = None
        in_queue = [each for each in known.with_copies() if each.queue == message.queue]
        if in_queue and not in_queue[0].is_taken:
            replaced = in_queue[0].replace_arrival(message)
        else:
            key_records, index = self._find(known)
            self.awaited_queues.update(known.awaited_queues, -1)
            key_records[index] = known.with_message(message)
            self.awaited_queues.update(key_records[index].awaited_queues, 1)
        self._add_head(self._records_by_key[known.key])
        return [] if replaced is None else [replaced]

    def forget_deleted_queues(self, queues: Collection[str]) -> None:
        """Register that queues were deleted: records no longer wait for them.

        Args:
            queues: the names of the deleted queues, which belonged to older generations.

        """
        if self.awaited_queues.queues.isdisjoint(queues):
            return
        for key_records in self._records_by_key.values():
            for record in key_records:
                self.awaited_queues.update(record.awaited_queues, -1)
                for each in record.with_copies():
                    each.awaited_queues = each.awaited_queues.difference(queues)
                self.awaited_queues.update(record.awaited_queues, 1)
            self._add_head(key_records)

    # -- records that are handled --------------------------------------------------------------

    def next_due_at(self) -> float:
        """Return when the next record may be handled, in seconds since 1970.

        Only the first record of each key counts. The result is infinity if none of these records
        can be handled, for example because each of them is a dead letter or is in a handler now.
        """
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
    ) -> list[WaitingRecord]:
        """Return the records to handle now.

        These are due records that are the first of their keys. The next records of these keys
        follow, if they are due, too: they are handled after the first one.

        The caller then passes each record to remove_handled(), put_back() or mark_failed_again().
        Before that, no other record of the key is taken.

        Args:
            now: the time in seconds since 1970.
            max_records: the largest number of records.
            is_suspected: a function that gets a message id. It returns whether this message may
                have ended a process. Such a message must be handled alone.

        """
        records: list[WaitingRecord] = []
        while len(records) < max_records and self.next_due_at() <= now:
            key_records = self._records_by_key[heapq.heappop(self._heads)[2]]
            for record in key_records:
                must_be_alone = is_suspected(record.message_id)
                if (
                    len(records) >= max_records
                    or (must_be_alone and records)
                    or record.due_at > now
                    or not record.is_ready
                ):
                    break
                record.is_taken = True
                records.append(record)
                if must_be_alone:
                    return records
            if not key_records[0].is_taken:
                # The first record of this key must be handled alone, but records of other keys were
                # taken already. So this record is taken at a later call.
                self._add_head(key_records)
                break
        return records

    def remove_handled(self, record: WaitingRecord) -> list[Arrival]:
        """Remove a record that was handled, and its copies; return the deliveries of the copies.

        The caller acknowledges these deliveries, and the delivery of the record itself.

        Args:
            record: a record that take() has returned.

        """
        copies = [each for each in record.with_copies() if each is not record]
        record.copy = None
        self.remove(record)
        return [each.arrival for each in copies if each.arrival is not None]

    def put_back(self, record: WaitingRecord) -> None:
        """Register that a taken record was not handled, and waits again.

        Args:
            record: a record that take() has returned.

        """
        record.is_taken = False
        self._add_head(self._records_by_key[record.key])

    def mark_failed_again(self, record: WaitingRecord, due_at: float) -> list[Arrival]:
        """Register that a taken record has failed, and that its next message was sent.

        The next message is for the next attempt. If the record has become a dead letter, it is the
        message that blocks the key.

        Args:
            record: the record.
            due_at: when it is due, in seconds since 1970; infinity if its dead letter blocks the
                key.

        Returns:
            The deliveries to acknowledge in addition to the delivery that the handler had; often
            none. They belong to messages of the record that arrived while the handler had the
            record, and are no longer needed.

        """
        record.attempt = record.attempt + 1 if due_at < math.inf else DEAD_LETTER_ATTEMPT
        record.due_at, record.arrival, record.is_taken = due_at, None, False
        replaced: list[Arrival | None] = []
        for each in [*record.with_copies()][1:]:
            if each.queue == record.queue:
                record.without_message(each)
                # replace_arrival() keeps the message with the higher attempt. But a dead letter has
                # the lowest number, DEAD_LETTER_ATTEMPT. So if the record has become a dead letter,
                # a message for an attempt, which is older, must not be passed to replace_arrival().
                can_be_next = each.is_dead_letter == record.is_dead_letter
                replaced.append(record.replace_arrival(each) if can_be_next else each.arrival)
        if record.arrival is not None:
            self._add_head(self._records_by_key[record.key])
        return [arrival for arrival in replaced if arrival is not None]

    # -- records that leave their queues -------------------------------------------------------

    def records_in(self, queue: str) -> list[WaitingRecord]:
        """Return the records and copies whose messages are in this waiting queue, by position.

        Args:
            queue: the name of the waiting queue on the broker.

        """
        records = (each for record in self for each in record.with_copies() if each.queue == queue)
        return sorted(records, key=position_of)

    def remove(self, record: WaitingRecord) -> None:
        """Remove a message that has left its queue: a record, or one of its copies.

        For example, the record was handled, or was moved to another waiting queue. If the removed
        record has copies, its oldest copy becomes the record.

        Args:
            record: the object of this message: the record, or one of its copies.

        """
        key_records, index = self._find(record)
        known = key_records[index]
        remaining = known.without_message(record)
        if remaining is None:
            del key_records[index]
            self.count -= 1
        else:
            key_records[index] = remaining
        self.awaited_queues.update(known.awaited_queues, -1)
        self.awaited_queues.update(NO_QUEUES if remaining is None else remaining.awaited_queues, 1)
        if key_records:
            self._add_head(key_records)
        else:
            del self._records_by_key[record.key]

    def forget_queue(self, queue: str) -> None:
        """Remove the messages of a waiting queue, when the consumer stops reading the queue.

        The broker delivers the messages again, because they were not acknowledged.

        Args:
            queue: the name of the waiting queue on the broker.

        """
        for record in self.records_in(queue):
            self.remove(record)

    def forget(self) -> None:
        """Remove all records, when the connection ends: the broker delivers them again."""
        self._records_by_key, self._heads, self.count = {}, [], 0
        self.awaited_queues.clear()

    def _find(self, record: WaitingRecord) -> tuple[list[WaitingRecord], int]:
        """Return all records of a record's key, and the index of the record among them.

        Args:
            record: the record to find, or one of its copies.

        """
        key_records = self._records_by_key[record.key]
        index = bisect_left(key_records, record.position, key=position_of)
        while record not in key_records[index].with_copies():
            index += 1
        return key_records, index

    def _add_head(self, key_records: list[WaitingRecord]) -> None:
        """Add the first record of a key to the heap of next_due_at(), if the record is ready.

        A record is ready if it may be handled as soon as it is due: WaitingRecord.is_ready.

        Args:
            key_records: all records of the key, in the order of their positions.

        """
        if key_records[0].is_ready:
            heapq.heappush(
                self._heads, (key_records[0].due_at, key_records[0].position, key_records[0].key)
            )
