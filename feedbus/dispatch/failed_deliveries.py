"""Deliveries with failed records, in the concurrent mode: when their messages may be sent."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from feedbus.dispatch.concurrent_records import UnfinishedDelivery
from feedbus.dispatch.decoded_deliveries import DecodedDelivery


class FailedDeliveries:
    """Deliveries with records that have failed or that must wait; each key stays in order.

    The failed record of a key must be in the waiting queue before the later records of the key.
    Suppose that a later record was sent to this queue first, and that the process then ended. The
    failed record would be delivered again, behind the later one.

    ConcurrentCalls has one FailedDeliveries object.
    """

    def __init__(self) -> None:
        """Start without deliveries."""
        self._deliveries: list[UnfinishedDelivery] = []  # in the order of their arrival

    def add(self, delivery: UnfinishedDelivery, keys: Iterable[Hashable]) -> None:
        """Add records of a delivery that have failed, or that must wait for a failed record.

        Args:
            delivery: the delivery; it may have been added before.
            keys: the ordering keys of the records. Without `order_by`, the only key is None.

        """
        if not delivery.is_failed:
            delivery.is_failed = True
            self._deliveries.append(delivery)
            self._deliveries.sort(key=lambda each: each.number)
        delivery.failed_keys.update(keys)

    def take_finished(self) -> list[DecodedDelivery]:
        """Return the deliveries whose retries and dead letters may be sent now, in order.

        All records of such a delivery have ended. No earlier delivery with one of its failed keys
        is left. Each delivery is returned once.
        """
        earlier_keys: set[Hashable] = set()
        finished: list[DecodedDelivery] = []
        unfinished: list[UnfinishedDelivery] = []
        for delivery in self._deliveries:
            if delivery.unfinished_records or not earlier_keys.isdisjoint(delivery.failed_keys):
                unfinished.append(delivery)
                earlier_keys |= delivery.failed_keys - {None}  # None: a queue without `order_by`
            else:
                finished.append(delivery.decoded)
        self._deliveries = unfinished
        return finished

    def forget(self) -> None:
        """Forget all deliveries, when the connection ends."""
        for delivery in self._deliveries:
            delivery.is_failed = False
        self._deliveries = []
