"""The records that are handled at the same time, and the results of their calls."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from feedbus.dispatch.decoded_deliveries import DecodedDelivery, InvalidRecord
from feedbus.dispatch.publications import Publications
from feedbus.dispatch.wrapped_handlers import WrappedHandler
from feedbus.records import Records


@dataclass(slots=True, eq=False)
class UnfinishedDelivery:
    """A delivery some of whose records are not handled yet, in the concurrent mode.

    Attributes:
        decoded: the delivery.
        number: the deliveries are numbered in the order of their arrival.
        unfinished_records: how many of its records are unfinished.
        failed_keys: the keys of its records that have failed, or that must wait for a failed
            record. If the decoder has decided on some of its records, the set contains all keys of
            the delivery. A record without a usable key has no key in the set.
        is_failed: whether the delivery was added to the FailedDeliveries, because one of its
            records has failed, is invalid or must wait.

    """

    decoded: DecodedDelivery
    number: int
    unfinished_records: int = 0
    failed_keys: set[Hashable] = field(default_factory=set)
    is_failed: bool = False


@dataclass(slots=True, eq=False)
class RecordCall:
    """A record that a handler must handle, and the result of its call.

    Attributes:
        key: the ordering key; None if the queue has no `order_by`.
        delivery: the delivery of the record.
        row: the index of the record in the delivery.
        wrapped: the handler of the record, with the middleware.
        records: the record as the handler gets it, as a batch of one.
        started_at: when the call started, in seconds of the monotonic clock; 0 before the start.
        seconds: the duration of the call; 0 before its end.
        publications: the messages that the handler published; None before the end of the call, and
            if the call raised an exception.
        error: the exception of the call, or of sending its messages; None if there is none.
        has_ended: whether the call has ended.
        is_classified: whether HandlerCalls.classify_error() has returned the error.
        is_known_as_slow: whether a crash was counted against the slow messages after the call had
            started. Then SlowCalls ignores the call, so that no crash is counted twice.

    """

    key: Hashable
    delivery: UnfinishedDelivery
    row: int
    wrapped: WrappedHandler
    records: Records
    started_at: float = 0.0
    seconds: float = 0.0
    publications: Publications | None = None
    error: BaseException | None = None
    has_ended: bool = False
    is_classified: bool = False
    is_known_as_slow: bool = False

    @property
    def message_id(self) -> str:
        """The id of the delivered message that contains the record."""
        return self.delivery.decoded.delivery.message_id


@dataclass(slots=True, eq=False)
class DeferredInvalidRecord:
    """An invalid record, which no handler gets, until the earlier records of its key have ended.

    When they have ended, the decision on the record is made, such as a dead letter. The class is
    used in the concurrent mode.

    Attributes:
        key: the ordering key; None if the queue has no `order_by`.
        delivery: the delivery of the record.
        record: the invalid record.

    """

    key: Hashable
    delivery: UnfinishedDelivery
    record: InvalidRecord
