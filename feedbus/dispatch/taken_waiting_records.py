"""The waiting records that handlers have now, and the result of each of them.

A waiting record has failed, or waits for an earlier record of its key. Its message is in a waiting
queue. When its turn comes, the record is taken: it is chosen to be handled now. There are three
results:

- handled: the record has succeeded, was dropped, or has become a dead letter that does not block
  its key. The record no longer waits. Its message in the waiting queue is acknowledged.
- failed again: the record is to be tried again, or has become a dead letter that blocks its key. A
  new message is sent for the record, and the old message is acknowledged.
- not run: an earlier record of the key has failed again, so no handler gets the record. The record
  waits again, and its message stays in the waiting queue.

Example: A1 and A2 have one key, and are taken together. A1 fails again. So the key is blocked, and
A2 is not run. finish() returns the delivery of A1 only: the delivery of A2 must not be
acknowledged.

After a change of shards, feedbus moves waiting records to the waiting queues of the newer
generation. While a record is moved, the old queue and the new queue both contain a message of the
record. The message in the newer queue is a *copy*. A second message of the record that arrives in
the same queue while a handler has the record is a copy, too. When the record is handled, its copies
are acknowledged, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from feedbus.dispatch.waiting_record import WaitingRecord
from feedbus.dispatch.waiting_records import WaitingRecords
from feedbus.wire import Delivery

Result = Literal["handled", "failed again", "not run"]


@dataclass(slots=True)
class Taken:
    """A waiting record that was taken to be handled, and the result.

    Attributes:
        record: the record.
        result: "failed again", "not run" (because the key is blocked), or "handled". The value is
            "handled" until another result is registered.
        due_at: if the record has failed again, when it may be handled, in seconds since 1970;
            otherwise 0.

    """

    record: WaitingRecord
    result: Result = "handled"
    due_at: float = 0.0


class TakenRecords:
    """The records that were taken from the waiting records of one consumer, to be handled.

    WaitingDeliveries has one TakenRecords object.
    """

    def __init__(self, records: WaitingRecords) -> None:
        """Create the object.

        Args:
            records: the waiting records. take() takes records from them.

        """
        self._records = records
        self._taken: dict[tuple[str, int], Taken] = {}  # by consumer tag and delivery tag
        # For each key, how many of the taken records have failed again or were not run.
        self._failures_by_key: Counter[str] = Counter()

    def take(
        self, now: float, max_records: int, is_suspected: Callable[[str], bool]
    ) -> list[Delivery]:
        """Return the deliveries of waiting records to handle now.

        When a delivery is handled, the caller passes it to finish(). If a delivery cannot be
        handled, the caller passes it to put_back().

        Args:
            now: the time in seconds since 1970.
            max_records: the largest number of records.
            is_suspected: a function that gets a message id. It returns whether this message may
                have ended a process. Such a message must be handled alone.

        """
        deliveries: list[Delivery] = []
        for record in self._records.take(now, max_records, is_suspected):
            if record.arrival is not None:
                delivery = record.arrival.delivery
                self._taken[delivery.consumer_tag, delivery.tag] = Taken(record)
                deliveries.append(delivery)
        return deliveries

    def record_of(self, delivery: Delivery) -> WaitingRecord | None:
        """Return the record of a delivery that take() has returned; None for other deliveries.

        OrderDecisions uses the result: a record that waits again keeps its position.

        Args:
            delivery: a delivery of a waiting queue, or of any other queue.

        """
        taken = self._taken.get((delivery.consumer_tag, delivery.tag))
        return None if taken is None else taken.record

    def mark_failed_again(self, delivery: Delivery, due_at: float) -> None:
        """Register that the record of a delivery has failed again.

        finish() then lets the record wait again. OrderDecisions calls this.

        Args:
            delivery: the delivery, which take() has returned.
            due_at: when the record may be handled, in seconds since 1970. The value is infinity if
                the record became a dead letter that blocks the key.

        """
        self._set_result(delivery, "failed again", due_at)

    def mark_not_run(self, delivery: Delivery) -> None:
        """Register that the record of a delivery is not handled, because its key is blocked.

        finish() then lets the record wait again.

        Args:
            delivery: the delivery, which take() has returned.

        """
        self._set_result(delivery, "not run")

    def is_blocked(self, key: str) -> bool:
        """Whether a taken record of this key has failed again or was not run.

        If so, the later taken records of the key are not run.

        Args:
            key: the ordering key as a text, as in WaitingRecord.key.

        """
        return self._failures_by_key.get(key, 0) > 0

    def finish(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Finish handled deliveries; return the deliveries to acknowledge in waiting queues.

        A record can have further messages in waiting queues, its copies. The result also contains
        the deliveries of copies that are no longer needed. It contains no delivery whose record was
        not run. Deliveries that take() has not returned are ignored.

        Before this call, the broker must have confirmed the new messages of records that have
        failed again.

        Args:
            deliveries: deliveries that were handled.

        """
        acknowledgeable: list[Delivery] = []
        for delivery in deliveries:
            taken = self._remove(delivery.consumer_tag, delivery.tag)
            if taken is None:
                continue
            if taken.result == "not run":
                self._records.put_back(taken.record)
                continue
            if taken.result == "failed again":
                arrivals = self._records.mark_failed_again(taken.record, taken.due_at)
            else:
                arrivals = self._records.remove_handled(taken.record)
            acknowledgeable += [*(arrival.delivery for arrival in arrivals), delivery]
        return acknowledgeable

    def put_back(self, deliveries: Sequence[Delivery]) -> None:
        """Let the records of these deliveries wait again, because they were not handled.

        Deliveries that take() has not returned are ignored.

        Args:
            deliveries: deliveries that were not handled.

        """
        for delivery in deliveries:
            taken = self._remove(delivery.consumer_tag, delivery.tag)
            if taken is not None:
                self._records.put_back(taken.record)

    def forget_queue(self, waiting_queue: str) -> None:
        """Forget the records of a waiting queue, when the consumer stops reading the queue.

        The broker delivers the unacknowledged messages of the records again.

        Args:
            waiting_queue: the name of the waiting queue on the broker.

        """
        for tags, taken in [*self._taken.items()]:
            if taken.record.queue == waiting_queue:
                self._remove(*tags)

    def forget(self) -> None:
        """Forget all taken records, when the connection ends: the broker delivers them again."""
        self._taken.clear()
        self._failures_by_key.clear()

    def _set_result(self, delivery: Delivery, result: Result, due_at: float = 0.0) -> None:
        taken = self._taken[delivery.consumer_tag, delivery.tag]
        if taken.result == "handled":  # a record whose result is set twice is counted once
            self._failures_by_key[taken.record.key] += 1
        taken.result, taken.due_at = result, due_at

    def _remove(self, consumer_tag: str, delivery_tag: int) -> Taken | None:
        taken = self._taken.pop((consumer_tag, delivery_tag), None)
        if taken is not None and taken.result != "handled":
            self._failures_by_key[taken.record.key] -= 1
            if not self._failures_by_key[taken.record.key]:
                del self._failures_by_key[taken.record.key]
        return taken
