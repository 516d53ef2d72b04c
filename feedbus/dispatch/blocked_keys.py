"""The checks between the calls of handlers: must a record wait, because an earlier one has failed?

Before a batch is handled, the decoder has removed the records that must wait. But a record can fail
while the batch is handled. Then later records of its key in the same batch must wait, too. So the
modules that call handlers ask is_blocked() before each call, and pass a blocked record to defer().

Most batches have no failed record. So is_blocked() first looks at a flag.
"""

from __future__ import annotations

from typing import Any

from feedbus.dispatch.decoded_deliveries import DecodedDelivery, InvalidRecord
from feedbus.dispatch.decoder import Decoder
from feedbus.dispatch.order_decisions import OrderDecisions
from feedbus.dispatch.overtaken_records import locate
from feedbus.dispatch.waiting_record_exceptions import EarlierRecordWaits
from feedbus.records import Records


class BlockedKeys:
    """The keys of records that have failed in the deliveries that are handled now."""

    def __init__(self, decoder: Decoder, order_decisions: OrderDecisions | None) -> None:
        """Create the object.

        Args:
            decoder: returns the keys of records, and adds the decisions on failed records.
            order_decisions: decides which records wait; None if the queue has no `order_by`.

        """
        self._decoder = decoder
        self._waiting = None if order_decisions is None else order_decisions.waiting
        self._order_decisions = order_decisions

    @property
    def has_order(self) -> bool:
        """Whether records wait for earlier records of their keys."""
        return self._order_decisions is not None

    def key(self, decoded: DecodedDelivery, row: int) -> Any:
        """Return a record's ordering key, or None if the queue has no `order_by`."""
        return self._decoder.key(decoded, row)

    def is_blocked(self, decoded: DecodedDelivery, row: int) -> bool:
        """Whether a record must wait, because an earlier record of its key failed in this batch."""
        if self._waiting is None or not self._waiting.has_unconfirmed:
            return False
        return self.must_wait(decoded, row)

    def is_blocked_in(self, records: Records, index: int) -> bool:
        """Return the result of is_blocked() for a record of a batch."""
        if self._waiting is None or not self._waiting.has_unconfirmed:
            return False
        return self.must_wait(*locate(records, index))

    def any_blocked(self, records: Records) -> bool:
        """Whether is_blocked() is true for any record of a batch."""
        if self._waiting is None or not self._waiting.has_unconfirmed:
            return False
        return any(self.must_wait(*locate(records, index)) for index in range(len(records)))

    def must_wait(self, decoded: DecodedDelivery, row: int) -> bool:
        """Whether a record must wait, because an earlier record of its key has failed."""
        return self._order_decisions is not None and self._order_decisions.must_wait(decoded, row)

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
        if self._waiting is not None and decoded.decisions:
            self._waiting.repetition_expected = True
