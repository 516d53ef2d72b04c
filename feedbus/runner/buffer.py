"""Deliveries that have arrived and are not handled yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from feedbus.wire import Delivery
from feedbus.wire.constants import FENCE

# Called with deliveries in the order of their arrival, and with the number of their records.
# Returns positions in ascending order.
Choose = Callable[[Sequence[Delivery], int], Sequence[int]]


class Buffer:
    """Deliveries in the order of their arrival, with their arrival times and record counts.

    Their number is at most the prefetch.
    """

    def __init__(self) -> None:
        """Create an empty buffer."""
        self._deliveries: deque[Delivery] = deque()
        self._arrivals: deque[float] = deque()
        self.records = 0

    def __len__(self) -> int:
        """Count the deliveries."""
        return len(self._deliveries)

    def add(self, delivery: Delivery, arrived_at: float) -> None:
        """Append a delivery; arrived_at is a time of the monotonic clock."""
        self._deliveries.append(delivery)
        self._arrivals.append(arrived_at)
        self.records += delivery.record_count

    def clear(self) -> None:
        """Remove all deliveries: they returned to the broker with their channel."""
        self._deliveries.clear()
        self._arrivals.clear()
        self.records = 0

    def drop(self, consumer_tag: str) -> None:
        """Remove the deliveries of one consumer tag."""
        kept = [
            (delivery, arrived_at)
            for delivery, arrived_at in zip(self._deliveries, self._arrivals, strict=True)
            if delivery.consumer_tag != consumer_tag
        ]
        self.clear()
        for delivery, arrived_at in kept:
            self.add(delivery, arrived_at)

    def put_back(self, deliveries: Sequence[Delivery], arrived_at: float) -> None:
        """Put taken deliveries back into the buffer, in the order of their arrival."""
        for delivery in deliveries:
            later = (
                position
                for position, each in enumerate(self._deliveries)
                if each.consumer_tag == delivery.consumer_tag and each.tag > delivery.tag
            )
            position = next(later, len(self))
            self._deliveries.insert(position, delivery)
            self._arrivals.insert(position, arrived_at)
        self.records += sum(delivery.record_count for delivery in deliveries)

    def pick(self, choose: Choose, most: float) -> list[Delivery]:
        """Remove and return deliveries that a function chooses, at most the given number."""
        positions = choose(self._deliveries, self.records)[: int(max(min(most, len(self)), 0))]
        picked = [self._deliveries[position] for position in positions]
        for position in reversed(positions):
            del self._deliveries[position], self._arrivals[position]
        self.records -= sum(delivery.record_count for delivery in picked)
        return picked

    def holds_before(self, consumer_tag: str, tag: int) -> bool:
        """Whether the buffer has a delivery of a consumer tag before this delivery tag."""
        came = (each.tag for each in self._deliveries if each.consumer_tag == consumer_tag)
        return next(came, tag) < tag

    def holds(self, consumer_tag: str) -> bool:
        """Whether the buffer has a delivery of this consumer tag."""
        return any(each.consumer_tag == consumer_tag for each in self._deliveries)

    @property
    def first(self) -> Delivery:
        """The next delivery."""
        return self._deliveries[0]

    @property
    def at_fence(self) -> bool:
        """Whether the next delivery is marked as a fence, the end of its queue."""
        return bool(self._deliveries) and FENCE in self._deliveries[0].headers

    @property
    def oldest_at(self) -> float:
        """The time at which the next delivery arrived; the buffer must not be empty."""
        return self._arrivals[0]

    def pop(self) -> Delivery:
        """Remove and return the next delivery."""
        delivery = self._deliveries.popleft()
        self._arrivals.popleft()
        self.records -= delivery.record_count
        return delivery

    def take(
        self, records: int, deliveries: float, suspected: Callable[[str], bool]
    ) -> list[Delivery]:
        """Remove and return a batch, which ends before a fence.

        Args:
            records: the number of records after which the batch ends.
            deliveries: the largest number of deliveries.
            suspected: called with a message id; returns whether that message must be handled alone.

        """
        taken: list[Delivery] = []
        count = 0
        while self._deliveries and count < records and len(taken) < deliveries:
            alone = suspected(self._deliveries[0].message_id)
            if taken and (alone or self.at_fence):
                break
            taken.append(self.pop())
            count += taken[-1].record_count
            if alone:
                break
        return taken
