"""Find the failed records of a batch that were overtaken by later records of the same key.

A batch handler sets the verdict of each record. Example: a batch has the records A1 and A2 of one
key. The handler raises no exception, asks for a retry of A1, and handles A2. So A2 has overtaken
A1. The effects of this call are discarded. The handler is called again without A2, which waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feedbus.dispatch.decoded_deliveries import DecodedDelivery
from feedbus.dispatch.failure_policy import FailurePolicy
from feedbus.dispatch.queue_order import Order
from feedbus.errors import Reject, Retry
from feedbus.records import Records

RecordLocation = tuple[DecodedDelivery, int]  # a delivery, and the index of one of its records


class OvertakenRecords:
    """Finds the overtaken records of batches of one queue.

    A record is overtaken if its verdict blocks its key, but the batch handler has handled a later
    record of the key in the same call. A retry blocks the key. With `block_on_dead`, a dead
    letter blocks it, too. The dispatch of a consumer has one OvertakenRecords object.
    """

    def __init__(self, order: Order, policy: FailurePolicy, *, block_on_dead: bool) -> None:
        """Create the object.

        Args:
            order: determines the key of a record. Without `order_by`, find() finds no record.
            policy: returns the decision on a record that has failed.
            block_on_dead: whether dead letters block their keys.

        """
        self._order = order
        self._policy = policy
        self._block_on_dead = block_on_dead
        self._blocking_exceptions = Retry | Reject if block_on_dead else Retry

    def find(self, records: Records) -> list[RecordLocation]:
        """Return the first failed record of each key, if at least one record was overtaken.

        If no record was overtaken, the result is empty. If the result is not empty, the caller
        rolls back the transaction.

        HandlerCalls calls this within the transaction, after the handler has returned.

        Args:
            records: the records of a batch after the call of the handler, with their verdicts.

        """
        verdicts = records.batch.verdicts
        if not self._order.is_ordered or not any(
            isinstance(each, self._blocking_exceptions) for each in verdicts.values()
        ):
            return []
        first_failures: dict[Any, RecordLocation] = {}
        overtaken = False
        for index in range(len(records.batch)):
            location = locate(records, index)
            key, verdict = self._key(location), verdicts.get(index)
            if key in first_failures:
                overtaken |= verdict is None  # with a verdict, this record was not handled either
            elif verdict is not None and self._blocks_key(location, verdict):
                first_failures[key] = location
        return [*first_failures.values()] if overtaken else []

    def _blocks_key(self, location: RecordLocation, verdict: BaseException) -> bool:
        """Whether this verdict on a record lets the later records of its key wait."""
        decoded, row = location
        decision = self._policy.decide(decoded.delivery, decoded.pack, row, verdict)
        return decision.verdict == "retry" or (self._block_on_dead and decision.is_dead_letter)

    def find_later(self, records: Records, failed_records: Sequence[RecordLocation]) -> set[int]:
        """Return the indexes of the records that come after a failed record of the same key.

        The handler is called again without these records, which wait.

        Args:
            records: the records of the batch.
            failed_records: the result of find().

        """
        failed_rows = {(id(decoded), row) for decoded, row in failed_records}
        failed_keys: set[Any] = set()
        later_indexes: set[int] = set()
        for index in range(len(records)):
            decoded, row = location = locate(records, index)
            key = self._key(location)
            if key in failed_keys:
                later_indexes.add(index)
            elif (id(decoded), row) in failed_rows:
                failed_keys.add(key)
        return later_indexes

    def _key(self, location: RecordLocation) -> Any:
        decoded, row = location
        return self._order.key(decoded.delivery, decoded.pack, row)


def locate(records: Records, index: int) -> RecordLocation:
    """Return the delivery of a record of a batch, and the index of the record in the delivery.

    The decision on the record is added to this delivery.

    Args:
        records: the records of the batch.
        index: the index of the record in the batch.

    """
    number, row = records.batch.find(index)
    decoded = records.batch.deliveries[number]
    assert isinstance(decoded, DecodedDelivery)  # noqa: S101 -- for the type checker
    return decoded, records.batch.chunks[number].rows[row]
