"""Blocked keys: a record of the key has failed, so later records of the key must wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feedbus.dispatch.decoded_deliveries import DecodedDelivery, InvalidRecord
from feedbus.dispatch.decoder import Decoder
from feedbus.dispatch.failure_policy import FailurePolicy
from feedbus.dispatch.ordered_retries import OrderedRetries
from feedbus.dispatch.waiting_record_exceptions import EarlierRecordWaits
from feedbus.errors import Reject, Retry
from feedbus.records import Records

RecordLocation = tuple[DecodedDelivery, int]  # a delivery, and the index of one of its records


class BlockedKeys:
    """The keys of records that have failed in the deliveries that are handled now."""

    def __init__(
        self,
        decoder: Decoder,
        failure_policy: FailurePolicy,
        retries: OrderedRetries | None,
        *,
        block_on_dead: bool,
    ) -> None:
        """Start without blocked keys.

        Args:
            decoder: returns the keys of records, and adds the decisions on failed records.
            failure_policy: returns the decision on a record that has failed.
            retries: the waiting records; None if the queue has no `order_by`.
            block_on_dead: whether dead letters block their keys.

        """
        self._decoder = decoder
        self._failure_policy = failure_policy
        self._retries = retries
        self._blocking_exceptions = Retry | Reject if block_on_dead else Retry

    @property
    def has_order(self) -> bool:
        """Whether records wait for earlier records of their keys."""
        return self._retries is not None

    def key(self, decoded: DecodedDelivery, row: int) -> Any:
        """Return a record's ordering key, or None if the queue has no `order_by`."""
        return self._decoder.key(decoded, row)

    def is_blocked(self, decoded: DecodedDelivery, row: int) -> bool:
        """Whether a record must wait, because an earlier record of its key failed in this batch."""
        if self._retries is None or not self._retries.has_unconfirmed:
            return False
        return self.must_wait(decoded, row)

    def is_blocked_in(self, records: Records, index: int) -> bool:
        """Return the result of is_blocked() for a record of a batch."""
        if self._retries is None or not self._retries.has_unconfirmed:
            return False
        return self.must_wait(*locate(records, index))

    def any_blocked(self, records: Records) -> bool:
        """Whether is_blocked() is true for any record of a batch."""
        if self._retries is None or not self._retries.has_unconfirmed:
            return False
        return any(self.must_wait(*locate(records, index)) for index in range(len(records)))

    def must_wait(self, decoded: DecodedDelivery, row: int) -> bool:
        """Whether a record must wait, because an earlier record of its key has failed."""
        if self._retries is None:
            return False
        return self._retries.must_wait(decoded.delivery, decoded.pack, row)

    def defer(self, decoded: DecodedDelivery, row: int) -> None:
        """Let a record wait for earlier records of its key."""
        self._decoder.fail(decoded, row, EarlierRecordWaits())

    def decide(self, invalid: InvalidRecord) -> None:
        """Decide on a record that no handler gets; if its key is blocked, let it wait instead."""
        if invalid.decision is None and self.is_blocked(invalid.decoded, invalid.row):
            self.defer(invalid.decoded, invalid.row)
        else:
            self._decoder.decide(invalid)

    def expect_repetition(self, decoded: DecodedDelivery) -> None:
        """Register that a delivery with failed records will be handled again."""
        if self._retries is not None and decoded.decisions:
            self._retries.repetition_expected = True

    def find_overtaken(self, records: Records) -> list[RecordLocation]:
        """Return the failed records of a batch that were overtaken by later records of their keys.

        A failed record is overtaken if a later record of its key was handled. If none is, the
        result is empty. Otherwise the result has the first failed record of each blocked key.
        """
        verdicts = records.batch.verdicts
        if self._retries is None or not any(
            isinstance(each, self._blocking_exceptions) for each in verdicts.values()
        ):
            return []
        first_failures: dict[Any, RecordLocation] = {}
        overtaken = False
        for index in range(len(records.batch)):
            decoded, row = locate(records, index)
            key, verdict = self._decoder.key(decoded, row), verdicts.get(index)
            if key in first_failures:
                overtaken |= verdict is None
            elif verdict is not None:
                decision = self._failure_policy.decide(decoded.delivery, decoded.pack, row, verdict)
                if self._retries.blocks_key(decision):
                    first_failures[key] = decoded, row
        return [*first_failures.values()] if overtaken else []

    def find_later(self, records: Records, failed_records: Sequence[RecordLocation]) -> set[int]:
        """Return the indexes of the records that come after failed records of their keys."""
        failed_rows = {(id(decoded), row) for decoded, row in failed_records}
        failed_keys: set[Any] = set()
        later_indexes: set[int] = set()
        for index in range(len(records)):
            decoded, row = locate(records, index)
            key = self._decoder.key(decoded, row)
            if key in failed_keys:
                later_indexes.add(index)
            elif (id(decoded), row) in failed_rows:
                failed_keys.add(key)
        return later_indexes


def locate(records: Records, index: int) -> RecordLocation:
    """Return the delivery of a record of a batch, and the index of the record in the delivery."""
    number, row = records.batch.find(index)
    decoded = records.batch.origins[number]
    assert isinstance(decoded, DecodedDelivery)  # noqa: S101 -- for the type checker
    return decoded, records.batch.chunks[number].rows[row]
