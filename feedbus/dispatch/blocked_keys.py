"""The check before each call of a handler: must the record wait for a failed record of its key?

Before a batch is handled, the decoder removes the records that must wait. But a record can fail
while the batch is handled. Then the later records of its key in this batch must wait, too. So the
modules that call handlers use is_blocked() before each call, and pass a blocked record to defer().

Most batches have no failed record. So is_blocked() first looks at a flag, which is set when a
record fails or must wait, and is reset when the deliveries are settled.
"""

from __future__ import annotations

from typing import Any

from feedbus.dispatch.decoded_deliveries import DecodedDelivery, InvalidRecord
from feedbus.dispatch.decoder import Decoder
from feedbus.dispatch.order_decisions import OrderDecisions
from feedbus.dispatch.overtaken_in_batch import locate
from feedbus.dispatch.waiting_record_exceptions import EarlierRecordWaits
from feedbus.records import Records


class BlockedKeys:
    """The keys of records that have failed in the deliveries that are handled now.

    On a queue with `order_by`, the later records of such a key must wait: is_blocked() returns
    whether a record must wait, and defer() lets it wait. Without `order_by`, no record is blocked.

    Its methods get a record as its decoded delivery and `row`, the index of the record in the
    delivery. The dispatch of a consumer has one BlockedKeys object.
    """

    def __init__(self, decoder: Decoder, order_decisions: OrderDecisions | None) -> None:
        """Create the object.

        Args:
            decoder: returns the keys of records, and adds decisions to their deliveries.
            order_decisions: decides which records wait; None if the queue has no `order_by`.

        """
        self._decoder = decoder
        self._waiting = None if order_decisions is None else order_decisions.waiting
        self._order_decisions = order_decisions

    @property
    def has_order(self) -> bool:
        """Whether the queue has `order_by`, so that records wait for earlier ones of their keys."""
        return self._order_decisions is not None

    def key(self, decoded: DecodedDelivery, row: int) -> Any:
        """Return a record's ordering key, or None if the queue has no `order_by`.

        Records with the same ordering key are handled in order.

        Args:
            decoded: the delivery of the record.
            row: the index of the record in the delivery.

        """
        return self._decoder.key(decoded, row)

    def keys(self, decoded: DecodedDelivery) -> set[Any]:
        """Return the ordering keys of the records of a delivery; {None} without `order_by`.

        A record without a usable ordering key has no key in the result.

        Args:
            decoded: the delivery of the records.

        """
        return self._decoder.keys(decoded)

    def is_blocked(self, decoded: DecodedDelivery, row: int) -> bool:
        """Whether a record must wait, because an earlier record of its key has failed.

        Only failures after the last settlement of deliveries count. For earlier failures, the
        decoder has already checked whether the record must wait.

        The modules that call handlers ask this before each call.

        Args:
            decoded: the delivery of the record.
            row: the index of the record in the delivery.

        """
        if self._waiting is None or not self._waiting.has_unconfirmed:
            return False
        return self.must_wait(decoded, row)

    def is_blocked_in(self, records: Records, index: int) -> bool:
        """Whether a record of a batch must wait, because an earlier record of its key has failed.

        BatchCalls asks this before each call for one record.

        Args:
            records: the records of the batch.
            index: the index of the record in the batch.

        """
        if self._waiting is None or not self._waiting.has_unconfirmed:
            return False
        return self.must_wait(*locate(records, index))

    def any_blocked(self, records: Records) -> bool:
        """Whether any record of a batch must wait, because an earlier record of its key has failed.

        If none is blocked, the batch is handled by one call.

        Args:
            records: the records of the batch.

        """
        if self._waiting is None or not self._waiting.has_unconfirmed:
            return False
        return any(self.must_wait(*locate(records, index)) for index in range(len(records)))

    def must_wait(self, decoded: DecodedDelivery, row: int) -> bool:
        """Whether a record must wait, because an earlier record of its key waits or has failed.

        The concurrent mode uses this method in place of is_blocked(), which ignores failures before
        the last settlement of deliveries. In the concurrent mode, a record can be decoded before
        such a failure and called after the settlement.

        Args:
            decoded: the delivery of the record.
            row: the index of the record in the delivery.

        """
        return self._order_decisions is not None and self._order_decisions.must_wait(decoded, row)

    def defer(self, decoded: DecodedDelivery, row: int) -> None:
        """Let a record wait for earlier records of its key: add this decision to its delivery.

        The modules that call handlers do this with each blocked record.

        Args:
            decoded: the delivery of the record. The decision is added to the delivery.
            row: the index of the record in the delivery.

        """
        self._decoder.fail(decoded, row, EarlierRecordWaits())

    def decide(self, invalid: InvalidRecord) -> None:
        """Decide on a record that no handler gets, when the earlier records have been handled.

        The record becomes a dead letter. If its key is blocked, the record waits for the earlier
        records instead. But a delivery that cannot be decoded becomes a dead letter although its
        key is blocked.

        Args:
            invalid: the record, such as one whose fields have wrong types. Its delivery gets the
                decision.

        """
        if invalid.decision is None and self.is_blocked(invalid.decoded, invalid.row):
            self.defer(invalid.decoded, invalid.row)
        else:
            self._decoder.decide(invalid)

    def expect_repetition(self, decoded: DecodedDelivery) -> None:
        """If records of a delivery have failed, register that the delivery will be handled again.

        SingleCalls calls this when an outage has interrupted the handling of the delivery. The
        failed records are registered as waiting, but no messages were sent for them. So they would
        block their keys for ever. For this reason, the runner connects again after the outage: it
        forgets these records, and reads the waiting queues from their start.

        Args:
            decoded: the delivery.

        """
        if self._waiting is not None and decoded.decisions:
            self._waiting.repetition_expected = True
