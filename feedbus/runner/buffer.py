"""Deliveries that have arrived and are not handled yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from feedbus.wire import Delivery
from feedbus.wire.constants import FENCE

# A function that chooses deliveries. It gets the deliveries in the order of their arrival, and the
# number of their records. It returns the positions of the chosen ones, in ascending order.
Choose = Callable[[Sequence[Delivery], int], Sequence[int]]


@dataclass(slots=True)
class _Lane:
    """The deliveries from the queues of one generation.

    Attributes:
        generation_number: the number of its generation.
        deliveries: the deliveries, in the order of their arrival.
        arrivals: the time when each of them arrived.
        records: the number of their records.

    """

    generation_number: int = 0
    deliveries: deque[Delivery] = field(default_factory=deque)
    arrivals: deque[float] = field(default_factory=deque)
    records: int = 0

    def pop(self) -> Delivery:
        delivery = self.deliveries.popleft()
        self.arrivals.popleft()
        self.records -= delivery.record_count
        return delivery

    @property
    def at_fence(self) -> bool:
        return bool(self.deliveries) and FENCE in self.deliveries[0].headers


class Buffer:
    """Deliveries in the order of their arrival, with their arrival times and record counts.

    The number of deliveries is at most the prefetch. While a consumer also reads queues of older
    generations, the deliveries of each generation are in a separate lane. The lanes are used in
    rotation, so that new records do not wait for the backlog of an old queue. A method uses the
    current lane, except where its docstring names other lanes.
    """

    def __init__(self) -> None:
        """Create an empty buffer, with one lane."""
        self._lane = _Lane()
        self._lanes = [self._lane]  # the newest generation first
        # The lane of each consumer tag, if there are several lanes.
        self._lane_of: dict[str, _Lane] = {}
        # The lanes of generations after this one are excluded; with None, no lane is.
        self._last_generation_number: int | None = None

    def __len__(self) -> int:
        """Count the deliveries of all lanes that are not excluded."""
        if not self._lane_of:
            return len(self._lane.deliveries)
        return sum(len(each.deliveries) for each in self._open)

    @property
    def records(self) -> int:
        """The number of records in all lanes that are not excluded."""
        if not self._lane_of:
            return self._lane.records
        return sum(each.records for each in self._open)

    # -- lanes -----------------------------------------------------------------------------------

    def divide(self, consumer_tag: str, generation_number: int) -> None:
        """From now on, put deliveries with this consumer tag into the lane of this generation."""
        found = [each for each in self._lanes if each.generation_number == generation_number]
        if not found:
            if not self._lane_of:  # the first lane has no generation yet
                found = [self._lane]
                self._lane.generation_number = generation_number
            else:
                found = [_Lane(generation_number)]
                self._lanes.append(found[0])
                self._lanes.sort(key=lambda each: -each.generation_number)
        self._lane_of[consumer_tag] = found[0]

    @property
    def divided(self) -> bool:
        """Whether the deliveries of generations are in separate lanes."""
        return bool(self._lane_of)

    @property
    def behind(self) -> bool:
        """Whether the current lane has the deliveries of an old generation."""
        return self._lane is not self._lanes[0]

    def exclude_later(self, generation_number: int | None) -> None:
        """Exclude the lanes of generations later than this one; with None, exclude no lane."""
        self._last_generation_number = generation_number
        if self._lane_of and not (self._is_open(self._lane) and self._lane.deliveries):
            self.next_lane()

    def next_lane(self) -> None:
        """Go to the next lane that has deliveries and is not excluded."""
        if not self._lane_of:
            return
        index = self._lanes.index(self._lane) + 1
        for lane in (*self._lanes[index:], *self._lanes[:index]):
            if lane.deliveries and self._is_open(lane):
                self._lane = lane
                return

    def pass_over_fence(self) -> None:
        """If the next delivery is a fence, go to a lane whose next delivery is not a fence."""
        for lane in self._open if self._lane_of and self._lane.at_fence else ():
            if lane.deliveries and not lane.at_fence:
                self._lane = lane
                return

    @property
    def _open(self) -> list[_Lane]:
        return [each for each in self._lanes if self._is_open(each)]

    def _is_open(self, lane: _Lane) -> bool:
        return (
            self._last_generation_number is None
            or lane.generation_number <= self._last_generation_number
        )

    def _of(self, consumer_tag: str) -> _Lane:
        return self._lane_of.get(consumer_tag, self._lane) if self._lane_of else self._lane

    # -- deliveries ------------------------------------------------------------------------------

    def add(self, delivery: Delivery, arrived_at: float) -> None:
        """Append a delivery to its lane; arrived_at is a time of the monotonic clock."""
        lane = self._of(delivery.consumer_tag) if self._lane_of else self._lane
        lane.deliveries.append(delivery)
        lane.arrivals.append(arrived_at)
        lane.records += delivery.record_count
        if lane is not self._lane and not (self._lane.deliveries and self._is_open(self._lane)):
            self.next_lane()

    def clear(self) -> None:
        """Remove all deliveries, and use a single lane from now on.

        The end of the channels of the deliveries has returned them to the broker.
        """
        self._lane = _Lane()
        self._lanes = [self._lane]
        self._lane_of = {}
        self._last_generation_number = None

    def drop(self, consumer_tag: str) -> None:
        """Remove the deliveries of one consumer tag."""
        lane = self._of(consumer_tag)
        kept = [
            (delivery, arrived_at)
            for delivery, arrived_at in zip(lane.deliveries, lane.arrivals, strict=True)
            if delivery.consumer_tag != consumer_tag
        ]
        lane.deliveries = deque(delivery for delivery, _ in kept)
        lane.arrivals = deque(arrived_at for _, arrived_at in kept)
        lane.records = sum(delivery.record_count for delivery in lane.deliveries)
        self._leave_empty()

    def put_back(self, deliveries: Sequence[Delivery], arrived_at: float) -> None:
        """Put taken deliveries back into their lanes, in order; arrived_at is used for all."""
        for delivery in deliveries:
            lane = self._of(delivery.consumer_tag)
            later = (
                position
                for position, each in enumerate(lane.deliveries)
                if each.consumer_tag == delivery.consumer_tag and each.tag > delivery.tag
            )
            position = next(later, len(lane.deliveries))
            lane.deliveries.insert(position, delivery)
            lane.arrivals.insert(position, arrived_at)
            lane.records += delivery.record_count
        self._leave_empty()

    def pick(self, choose: Choose, most: float) -> list[Delivery]:
        """Remove and return deliveries that a function chooses, at most the given number."""
        lane = self._lane
        positions = choose(lane.deliveries, lane.records)
        positions = positions[: int(max(min(most, len(lane.deliveries)), 0))]
        picked = [lane.deliveries[position] for position in positions]
        for position in reversed(positions):
            del lane.deliveries[position], lane.arrivals[position]
        lane.records -= sum(delivery.record_count for delivery in picked)
        self._leave_empty()
        return picked

    def holds_before(self, consumer_tag: str, tag: int) -> bool:
        """Whether the buffer has a delivery of a subscription with a lower delivery tag."""
        deliveries = self._of(consumer_tag).deliveries
        came = (each.tag for each in deliveries if each.consumer_tag == consumer_tag)
        return next(came, tag) < tag

    def holds(self, consumer_tag: str) -> bool:
        """Whether the buffer has a delivery of this consumer tag."""
        deliveries = self._of(consumer_tag).deliveries
        return any(each.consumer_tag == consumer_tag for each in deliveries)

    @property
    def first(self) -> Delivery:
        """The next delivery."""
        return self._lane.deliveries[0]

    @property
    def at_fence(self) -> bool:
        """Whether the next delivery is marked as a fence, the end of its queue."""
        return self._lane.at_fence

    @property
    def oldest_at(self) -> float:
        """The time at which the oldest delivery of all lanes arrived; there must be one."""
        if not self._lane_of:
            return self._lane.arrivals[0]
        return min(each.arrivals[0] for each in self._lanes if each.arrivals)

    def pop(self) -> Delivery:
        """Remove and return the next delivery."""
        delivery = self._lane.pop()
        if self._lane_of:
            self._leave_empty()
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
        lane = self._lane
        taken: list[Delivery] = []
        count = 0
        while lane.deliveries and count < records and len(taken) < deliveries:
            alone = suspected(lane.deliveries[0].message_id)
            if taken and (alone or lane.at_fence):
                break
            taken.append(lane.pop())
            count += taken[-1].record_count
            if alone:
                break
        self._leave_empty()
        return taken

    def _leave_empty(self) -> None:
        """If the current lane has no deliveries, go to another lane."""
        if self._lane_of and not self._lane.deliveries:
            self.next_lane()
