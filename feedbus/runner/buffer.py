"""Deliveries that have arrived and are not handled yet.

Among them can be fences: messages that mark the end of an old queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from feedbus.wire import Delivery
from feedbus.wire.constants import FENCE

# A function that chooses deliveries. It gets the deliveries in the order of their arrival, and the
# number of their records. It returns the indexes of the chosen ones, in ascending order.
Choose = Callable[[Sequence[Delivery], int], Sequence[int]]


@dataclass(slots=True)
class _Lane:
    """The deliveries from the queues of one generation.

    Attributes:
        generation_number: the number of the generation.
        deliveries: the deliveries, in the order of their arrival.
        arrivals: when each delivery arrived, as times of the monotonic clock.
        records: the number of records in the deliveries.

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
    def next_is_fence(self) -> bool:
        return bool(self.deliveries) and FENCE in self.deliveries[0].headers


class Buffer:
    """Deliveries of one consumer, in the order of their arrival, until they are handled.

    The prefetch limits the number of deliveries from each queue. While a consumer also reads queues
    of older generations, the deliveries of each generation are in a separate lane. The lanes are
    used in rotation, so that new records do not wait for the backlog of an old queue. The lanes of
    later generations can be excluded for a time: exclude_generations_after(). A method with a
    delivery or a consumer tag as its argument uses the lane of that subscription. Another method
    uses the current lane, except where its docstring names other lanes.

    A run has one buffer. The inline system of the tests has one for each consumer.
    """

    def __init__(self) -> None:
        """Create an empty buffer, with one lane."""
        self._current_lane = _Lane()
        self._lanes = [self._current_lane]  # the newest generation first
        # The lane of each consumer tag, if there are several lanes.
        self._lane_by_tag: dict[str, _Lane] = {}
        # The lanes of generations after this one are excluded; with None, no lane is excluded.
        self._last_generation_number: int | None = None

    def __len__(self) -> int:
        """Count the deliveries of all lanes that are not excluded."""
        if not self._lane_by_tag:
            return len(self._current_lane.deliveries)
        return sum(len(each.deliveries) for each in self._included_lanes)

    @property
    def records(self) -> int:
        """The number of records in all lanes that are not excluded."""
        if not self._lane_by_tag:
            return self._current_lane.records
        return sum(each.records for each in self._included_lanes)

    # -- lanes -----------------------------------------------------------------------------------

    def assign_lane(self, consumer_tag: str, generation_number: int) -> None:
        """From now on, put deliveries with this consumer tag into the lane of this generation.

        This method is called when the consumer subscribes to a queue, and reads queues of several
        generations.

        Args:
            consumer_tag: the consumer tag of the subscription.
            generation_number: the number of the queue's generation.

        """
        lanes = [each for each in self._lanes if each.generation_number == generation_number]
        if not lanes:
            if not self._lane_by_tag:  # the first lane has no generation yet
                lanes = [self._current_lane]
                self._current_lane.generation_number = generation_number
            else:
                lanes = [_Lane(generation_number)]
                self._lanes.append(lanes[0])
                self._lanes.sort(key=lambda each: -each.generation_number)
        self._lane_by_tag[consumer_tag] = lanes[0]

    @property
    def has_lanes(self) -> bool:
        """Whether the deliveries of each generation are in a separate lane."""
        return bool(self._lane_by_tag)

    @property
    def in_old_lane(self) -> bool:
        """Whether the current lane has the deliveries of an old generation of the ring.

        Batches of old queues have another size.
        """
        return self._current_lane is not self._lanes[0]

    def exclude_generations_after(self, generation_number: int | None) -> None:
        """Exclude the lanes of generations later than this one; with None, exclude no lane.

        No delivery is taken from an excluded lane.

        This method is called while too many records of newer generations wait for old queues.

        Args:
            generation_number: the number of the latest generation that is not excluded.

        """
        self._last_generation_number = generation_number
        if self._lane_by_tag and not (
            self._is_included(self._current_lane) and self._current_lane.deliveries
        ):
            self.next_lane()

    def next_lane(self) -> None:
        """Go to the next lane that has deliveries and is not excluded, if there is one.

        This method is called before each batch, so that the lanes take turns.
        """
        if not self._lane_by_tag:
            return
        index = self._lanes.index(self._current_lane) + 1
        for lane in (*self._lanes[index:], *self._lanes[:index]):
            if lane.deliveries and self._is_included(lane):
                self._current_lane = lane
                return

    def go_to_lane_without_fence(self) -> None:
        """If the next delivery is a fence, go to a lane whose next delivery is not a fence.

        This method is called when the fence cannot be processed yet. If there is no such lane, the
        current lane stays.
        """
        for lane in (
            self._included_lanes if self._lane_by_tag and self._current_lane.next_is_fence else ()
        ):
            if lane.deliveries and not lane.next_is_fence:
                self._current_lane = lane
                return

    @property
    def _included_lanes(self) -> list[_Lane]:
        return [each for each in self._lanes if self._is_included(each)]

    def _is_included(self, lane: _Lane) -> bool:
        return (
            self._last_generation_number is None
            or lane.generation_number <= self._last_generation_number
        )

    def _lane_for(self, consumer_tag: str) -> _Lane:
        return self._lane_by_tag.get(consumer_tag, self._current_lane)

    # -- deliveries ------------------------------------------------------------------------------

    def add(self, delivery: Delivery, arrived_at: float) -> None:
        """Append a delivery that has arrived to its lane.

        Args:
            delivery: the delivery. Its consumer tag selects the lane.
            arrived_at: when it arrived, as a time of the monotonic clock in seconds.

        """
        lane = self._lane_for(delivery.consumer_tag)
        lane.deliveries.append(delivery)
        lane.arrivals.append(arrived_at)
        lane.records += delivery.record_count
        if lane is not self._current_lane and not (
            self._current_lane.deliveries and self._is_included(self._current_lane)
        ):
            self.next_lane()

    def clear(self) -> None:
        """Remove all deliveries, and use a single lane from now on; called when a connection ends.

        The channels of the deliveries are closed, so the broker delivers the messages again.
        """
        self._current_lane = _Lane()
        self._lanes = [self._current_lane]
        self._lane_by_tag = {}
        self._last_generation_number = None

    def remove(self, consumer_tag: str) -> None:
        """Remove the deliveries of one subscription.

        This method is called when the consumer stops reading a queue.

        Args:
            consumer_tag: the consumer tag of the subscription.

        """
        lane = self._lane_for(consumer_tag)
        remaining = [
            (delivery, arrived_at)
            for delivery, arrived_at in zip(lane.deliveries, lane.arrivals, strict=True)
            if delivery.consumer_tag != consumer_tag
        ]
        lane.deliveries = deque(delivery for delivery, _ in remaining)
        lane.arrivals = deque(arrived_at for _, arrived_at in remaining)
        lane.records = sum(delivery.record_count for delivery in lane.deliveries)
        self._leave_empty_lane()

    def put_back(self, deliveries: Sequence[Delivery], arrived_at: float) -> None:
        """Put taken deliveries back into their lanes, before later deliveries of their queues.

        This method is called if an outage has prevented the handling of the deliveries.

        Args:
            deliveries: the deliveries.
            arrived_at: the arrival time of all of them, as a time of the monotonic clock.

        """
        for delivery in deliveries:
            lane = self._lane_for(delivery.consumer_tag)
            later = (
                index
                for index, each in enumerate(lane.deliveries)
                if each.consumer_tag == delivery.consumer_tag and each.tag > delivery.tag
            )
            index = next(later, len(lane.deliveries))
            lane.deliveries.insert(index, delivery)
            lane.arrivals.insert(index, arrived_at)
            lane.records += delivery.record_count
        self._leave_empty_lane()

    def pick(self, choose: Choose, max_deliveries: float) -> list[Delivery]:
        """Remove and return deliveries that a function chooses, at most the given number.

        SmallDeliveries uses it to take small deliveries that are behind large ones.

        Args:
            choose: called with the deliveries of the current lane in order, and the total number
                of their records. It returns the indexes of the deliveries to take, in ascending
                order.
            max_deliveries: the largest number of deliveries to take.

        """
        lane = self._current_lane
        indexes = choose(lane.deliveries, lane.records)
        indexes = indexes[: int(max(min(max_deliveries, len(lane.deliveries)), 0))]
        picked = [lane.deliveries[index] for index in indexes]
        for index in reversed(indexes):
            del lane.deliveries[index], lane.arrivals[index]
        lane.records -= sum(delivery.record_count for delivery in picked)
        self._leave_empty_lane()
        return picked

    def has_before(self, consumer_tag: str, tag: int) -> bool:
        """Whether a delivery in the buffer arrived before a taken delivery of its subscription.

        This is asked before a batch is acknowledged. If the result is True, the last delivery of
        the batch cannot be acknowledged together with all earlier ones.

        Args:
            consumer_tag: the consumer tag of the subscription.
            tag: the delivery tag of the taken delivery, the last one of the batch.

        """
        deliveries = self._lane_for(consumer_tag).deliveries
        tags = (each.tag for each in deliveries if each.consumer_tag == consumer_tag)
        return next(tags, tag) < tag

    def has_deliveries_of(self, consumer_tag: str) -> bool:
        """Whether the buffer has a delivery of this subscription.

        This method is called before an old queue is deleted.

        Args:
            consumer_tag: the consumer tag of the subscription.

        """
        deliveries = self._lane_for(consumer_tag).deliveries
        return any(each.consumer_tag == consumer_tag for each in deliveries)

    @property
    def next_delivery(self) -> Delivery:
        """The next delivery of the current lane; it stays in the buffer.

        The buffer must not be empty.
        """
        return self._current_lane.deliveries[0]

    @property
    def next_is_fence(self) -> bool:
        """Whether the next delivery is marked as a fence: the end of an old queue."""
        return self._current_lane.next_is_fence

    @property
    def oldest_at(self) -> float:
        """When the oldest delivery of all lanes arrived; the buffer must not be empty.

        The value is a time of the monotonic clock in seconds.
        """
        if not self._lane_by_tag:
            return self._current_lane.arrivals[0]
        return min(each.arrivals[0] for each in self._lanes if each.arrivals)

    def pop(self) -> Delivery:
        """Remove and return the next delivery of the current lane; the buffer must not be empty."""
        delivery = self._current_lane.pop()
        if self._lane_by_tag:
            self._leave_empty_lane()
        return delivery

    def take(
        self, max_records: int, max_deliveries: float, is_suspected: Callable[[str], bool]
    ) -> list[Delivery]:
        """Remove and return a batch of the next deliveries.

        The batch ends before a delivery that is marked as a fence. But the first delivery is taken
        even if it is marked: the caller has found that it is an ordinary message of another
        program.

        Args:
            max_records: the number of records after which the batch ends.
            max_deliveries: the largest number of deliveries.
            is_suspected: a function that gets a message id. It returns whether this message may
                have ended a process. Such a message must be handled alone.

        """
        lane = self._current_lane
        batch: list[Delivery] = []
        count = 0
        while lane.deliveries and count < max_records and len(batch) < max_deliveries:
            suspected = is_suspected(lane.deliveries[0].message_id)
            if batch and (suspected or lane.next_is_fence):
                break
            batch.append(lane.pop())
            count += batch[-1].record_count
            if suspected:
                break
        self._leave_empty_lane()
        return batch

    def _leave_empty_lane(self) -> None:
        """If the current lane has no deliveries, go to another lane."""
        if self._lane_by_tag and not self._current_lane.deliveries:
            self.next_lane()
