"""Requests to release keys: the dead letters that block these keys were deleted.

With `block_on_dead`, a dead letter blocks its key: a message in a waiting queue is the waiting
record of the dead letter, and the later records of the key wait behind it. When dead letters are
deleted, a request is sent to each waiting queue.
"""

from __future__ import annotations

from collections.abc import Iterator

from feedbus.dispatch.waiting_record import WaitingRecord
from feedbus.dispatch.waiting_records import WaitingRecords
from feedbus.wire import Delivery
from feedbus.wire.constants import RELEASE


class KeyReleases:
    """Removes the waiting records of deleted dead letters, so that they no longer block their keys.

    A request contains the id of a dead letter, or stands for all dead letters of its waiting queue.
    `feedbus dead drop`, `feedbus dead purge` or a limit of dead letters has sent it.

    WaitingDeliveries has one KeyReleases object.
    """

    def __init__(self, records: WaitingRecords) -> None:
        """Start without requests.

        Args:
            records: the waiting records of the consumer.

        """
        self._records = records
        # Requests that arrived before the messages that block the keys; by the consumer tag of the
        # subscription to the waiting queue.
        self._early_requests: dict[str, list[Delivery]] = {}

    def apply(self, request: Delivery, queue: str) -> list[Delivery]:
        """Apply a request that has arrived; return the deliveries to acknowledge now, in order.

        A dead letter is sent before the message that blocks its key. If an operator drops the dead
        letter immediately, the request can arrive before this message. Then the request is kept
        until the message arrives.

        Args:
            request: the delivery of the request.
            queue: the waiting queue that has delivered it.

        """
        released = self.release(request, queue)
        if any(each.arrival is None for each in self._dead_letters(request, queue)):
            self._early_requests.setdefault(request.consumer_tag, []).append(request)
            return released
        return [*released, request]

    def apply_early(self, consumer_tag: str, queue: str) -> list[Delivery]:
        """Apply the kept requests again, because a message that blocks a key has arrived.

        Args:
            consumer_tag: the tag of the subscription to the waiting queue.
            queue: the waiting queue.

        Returns:
            The deliveries to acknowledge now, in order.

        """
        requests = self._early_requests.pop(consumer_tag, [])
        return [delivery for request in requests for delivery in self.apply(request, queue)]

    def release(self, request: Delivery, queue: str) -> list[Delivery]:
        """Release the keys that the dead letters of a request block.

        A key stays blocked if the message that blocks the key has not arrived yet.

        If the records of an old waiting queue are to be moved to a newer generation, this method is
        called before they are moved.

        Args:
            request: the delivery of the request.
            queue: the waiting queue that has delivered it. Each waiting queue gets its own request.

        Returns:
            The deliveries of the messages that blocked the keys. They must be acknowledged before
            the request. If the request were acknowledged first, the connection could be lost before
            they are acknowledged. Then they would be delivered again, but the request would not.

        """
        dead_letters = [
            (each, each.arrival.delivery)
            for each in self._dead_letters(request, queue)
            if each.arrival is not None
        ]
        for each, _ in dead_letters:
            self._records.remove(each)
        return [delivery for _, delivery in dead_letters]

    def _dead_letters(self, request: Delivery, queue: str) -> Iterator[WaitingRecord]:
        """Yield the waiting records of a request's dead letters.

        If the `arrival` of such a record is None, its message is on its way to the waiting queue.
        """
        message_id = str(request.headers[RELEASE])  # "" for all dead letters
        for record in self._records:
            for each in record.with_copies():
                if (
                    each.is_dead_letter
                    and each.queue == queue
                    and message_id in {"", each.message_id}
                ):
                    yield each

    def forget(self, consumer_tag: str) -> None:
        """Forget the kept requests of a subscription, when it ends.

        The broker delivers the requests again, because they were not acknowledged.

        Args:
            consumer_tag: the tag of the subscription to the waiting queue.

        """
        self._early_requests.pop(consumer_tag, None)

    def forget_all(self) -> None:
        """Forget all kept requests, when the connection ends: the broker delivers them again."""
        self._early_requests.clear()
