"""The waiting records that handlers have now, and what was decided on each of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from feedbus.dispatch.waiting_messages import Arrival, Waiting
from feedbus.dispatch.waiting_record_copies import BLOCKED
from feedbus.dispatch.waiting_records import WaitingRecords
from feedbus.wire import Delivery


class TakenRecords:
    """The records that were taken from the waiting records of one consumer, to be handled.

    A record is taken, then handled, then settled. There are three results. The record has failed
    again. Or it was not run, because an earlier record of its key has failed again. Otherwise it is
    done.
    """

    def __init__(self, records: WaitingRecords[Arrival]) -> None:
        """Create the object; records are taken from these waiting records."""
        self._records = records
        self._taken: dict[tuple[str, int], Waiting] = {}
        self._failed_again: dict[Waiting, float] = {}  # when each record runs again
        self._not_run: set[Waiting] = set()
        # For each key, how many of its records have failed again or were not run.
        self._failures_by_key: Counter[str] = Counter()

    def take(
        self, now: float, max_records: int, is_suspected: Callable[[str], bool]
    ) -> list[Delivery]:
        """Return waiting records that run now; the caller then settles them.

        Args:
            now: the time in seconds since 1970.
            max_records: the largest number of records.
            is_suspected: called with a message id; returns whether that record must be taken alone.

        """
        deliveries: list[Delivery] = []
        for record in self._records.take(now, max_records, is_suspected):
            if record.arrival is not None:
                delivery = record.arrival.delivery
                self._taken[delivery.consumer_tag, delivery.tag] = record
                deliveries.append(delivery)
        return deliveries

    def record_of(self, delivery: Delivery) -> Waiting | None:
        """Return the waiting record of a delivery that take() has returned.

        The result is None if the delivery is not from a waiting queue.
        """
        return self._taken.get((delivery.consumer_tag, delivery.tag))

    def mark_failed_again(self, record: Waiting, due_at: float) -> None:
        """Register that a record failed again.

        Args:
            record: the record.
            due_at: when it may run, in seconds since 1970; infinity if its dead letter blocks its
                key.

        """
        self._failed_again[record] = due_at
        self._failures_by_key[record.key] += 1

    def mark_not_run(self, record: Waiting) -> None:
        """Register that a record was not run, because an earlier record of its key has failed."""
        self._not_run.add(record)
        self._failures_by_key[record.key] += 1

    def is_blocked(self, key: str) -> bool:
        """Whether a taken record of this key has failed again or was not run."""
        return self._failures_by_key.get(key, 0) > 0

    def finish(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Finish handled deliveries; return the deliveries to acknowledge in waiting queues.

        The messages of records that have failed again must be confirmed before this call.
        """
        acknowledgeable: list[Delivery] = []
        for delivery in deliveries:
            record = self._taken.pop((delivery.consumer_tag, delivery.tag), None)
            if record is None:
                continue
            if record in self._not_run:
                self._not_run.remove(record)
                self._failures_by_key[record.key] -= 1
                self._records.put_back(record)
                continue
            if record in self._failed_again:
                self._failures_by_key[record.key] -= 1
                due_at = self._failed_again.pop(record)
                self._records.mark_failed_again(
                    record, due_at, BLOCKED if due_at == math.inf else None
                )
            else:
                acknowledgeable += [each.delivery for each in self._records.remove_handled(record)]
            acknowledgeable.append(delivery)
        if self._failures_by_key:
            self._failures_by_key = +self._failures_by_key
        return acknowledgeable

    def put_back(self, deliveries: Sequence[Delivery]) -> None:
        """Put taken records back that were not handled; they wait again."""
        for delivery in deliveries:
            self._records.put_back(self._taken.pop((delivery.consumer_tag, delivery.tag)))

    def forget_queue(self, waiting_queue: str) -> None:
        """Forget the records of a waiting queue, which delivers them again."""
        for tags, record in [*self._taken.items()]:
            if record.queue == waiting_queue:
                del self._taken[tags]
                if record in self._not_run or record in self._failed_again:
                    self._not_run.discard(record)
                    self._failed_again.pop(record, None)
                    self._failures_by_key[record.key] -= 1

    def forget(self) -> None:
        """Forget all taken records: the broker delivers them again."""
        self._taken.clear()
        self._failed_again.clear()
        self._not_run.clear()
        self._failures_by_key.clear()
