"""Blocked keys: a record of the key has failed, so later records of the key must wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feedbus.dispatch.decoded_deliveries import Decoded, InvalidRecord
from feedbus.dispatch.decoder import Decoder
from feedbus.dispatch.failure_policy import FailurePolicy
from feedbus.dispatch.ordered_retries import OrderedRetries
from feedbus.dispatch.waiting_record_exceptions import Waits
from feedbus.errors import Reject, Retry
from feedbus.records import Records

Row = tuple[Decoded, int]  # a delivery, and the index of one of its records


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
        self._stopping = Retry | Reject if block_on_dead else Retry

    @property
    def ordered(self) -> bool:
        """Whether records wait for earlier records of their keys."""
        return self._retries is not None

    def key(self, arrived: Decoded, row: int) -> Any:
        """Return a record's ordering key, or None if the queue has no `order_by`."""
        return self._decoder.key(arrived, row)

    def waits(self, arrived: Decoded, row: int) -> bool:
        """Whether a record must wait, because an earlier record of its key failed in this batch."""
        if self._retries is None or not self._retries.unsettled:
            return False
        return self.must_wait(arrived, row)

    def waits_in(self, records: Records, index: int) -> bool:
        """Return the result of waits() for a record of a batch."""
        if self._retries is None or not self._retries.unsettled:
            return False
        return self.must_wait(*origin(records, index))

    def any_waits(self, records: Records) -> bool:
        """Whether waits() is true for any record of a batch."""
        if self._retries is None or not self._retries.unsettled:
            return False
        return any(self.must_wait(*origin(records, index)) for index in range(len(records)))

    def must_wait(self, arrived: Decoded, row: int) -> bool:
        """Whether a record must wait, because an earlier record of its key has failed."""
        if self._retries is None:
            return False
        return self._retries.must_wait(arrived.delivery, arrived.pack, row)

    def defer(self, arrived: Decoded, row: int) -> None:
        """Let a record wait for earlier records of its key."""
        self._decoder.fail(arrived, row, Waits())

    def decide(self, invalid: InvalidRecord) -> None:
        """Decide on a record that no handler gets; if its key is blocked, let it wait instead."""
        if invalid.decision is None and self.waits(invalid.arrived, invalid.row):
            self.defer(invalid.arrived, invalid.row)
        else:
            self._decoder.decide(invalid)

    def expect_repetition(self, arrived: Decoded) -> None:
        """Register that a delivery with failed records will be handled again."""
        if self._retries is not None and arrived.decisions:
            self._retries.repetition_expected = True

    def overtaken_failures(self, records: Records) -> list[Row]:
        """Return the failed records of a batch that were overtaken by later records of their keys.

        A failed record is overtaken if a later record of its key was handled. If none is, the
        result is empty. Otherwise the result has the first failed record of each blocked key.
        """
        verdicts = records.batch.verdicts
        if self._retries is None or not any(
            isinstance(each, self._stopping) for each in verdicts.values()
        ):
            return []
        stopped: dict[Any, Row] = {}
        overtaken = False
        for index in range(len(records.batch)):
            arrived, row = origin(records, index)
            key, verdict = self._decoder.key(arrived, row), verdicts.get(index)
            if key in stopped:
                overtaken |= verdict is None
            elif verdict is not None:
                decision = self._failure_policy.decide(arrived.delivery, arrived.pack, row, verdict)
                if self._retries.stops(decision):
                    stopped[key] = arrived, row
        return [*stopped.values()] if overtaken else []

    def behind(self, records: Records, failed: Sequence[Row]) -> set[int]:
        """Return the indexes of the records that come after failed records of their keys."""
        firsts = {(id(arrived), row) for arrived, row in failed}
        stopped: set[Any] = set()
        found: set[int] = set()
        for index in range(len(records)):
            arrived, row = origin(records, index)
            key = self._decoder.key(arrived, row)
            if key in stopped:
                found.add(index)
            elif (id(arrived), row) in firsts:
                stopped.add(key)
        return found


def origin(records: Records, index: int) -> Row:
    """Return the delivery of a record of a batch, and the index of the record in the delivery."""
    number, row = records.batch.find(index)
    arrived = records.batch.origins[number]
    assert isinstance(arrived, Decoded)  # noqa: S101 -- for the type checker
    return arrived, records.batch.chunks[number].rows[row]
