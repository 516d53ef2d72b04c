"""The deliveries of the waiting queues of one consumer, from their arrival to their settlement.

A consumer with `order_by` reads each of its queues together with a waiting queue. A delivery of a
waiting queue is one of these:

- a waiting record. It is kept until it is due, and until the earlier records of its key are
  handled;
- a requeued dead letter (`block_on_dead`). It is handled before all waiting records;
- a request to release keys, because their dead letters were dropped.

The runner passes each delivery to add(). It calls take() to get the deliveries to handle now. After
the handling it calls finish(), and acknowledges the deliveries that finish() returns. A delivery
that was not handled goes to put_back().

If a connection or a subscription ends, the broker delivers the messages again. So they are
forgotten here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from feedbus.clock import NANOSECONDS, Clock
from feedbus.dispatch.queue_order import Order
from feedbus.dispatch.records_at_start import RecordsAtStart
from feedbus.dispatch.requeued_dead_letters import RequeuedDeadLetters
from feedbus.dispatch.taken_waiting_records import TakenRecords
from feedbus.dispatch.waiting_messages import decode_waiting_message
from feedbus.dispatch.waiting_record import NO_QUEUES, Arrival
from feedbus.dispatch.waiting_records import WaitingRecords
from feedbus.generations.predecessors import Predecessors
from feedbus.wire import Delivery
from feedbus.wire.constants import RELEASE, REQUEUED


@dataclass(frozen=True, slots=True)
class OrderedQueue:
    """The queue of a subscription: a queue with `order_by`, or its waiting queue.

    Attributes:
        waiting_queue: the name of the waiting queue.
        generation_number: the number of the generation that the queue belongs to.

    """

    waiting_queue: str
    generation_number: int


class WaitingDeliveries:
    """The waiting records and requeued dead letters that a consumer has received.

    Attributes:
        records: the waiting records.
        records_at_start: the records that waited when reading began.
        taken_records: the waiting records that handlers have now.
        requeued_dead_letters: the requeued dead letters.
        predecessors: the queues of older generations; None if none exists.
        has_unconfirmed: whether there are messages for waiting queues that the broker has not
            confirmed yet.
        repetition_expected: whether a delivery with failed records will be handled again. Some of
            its failed records may already be in a waiting queue.

    """

    def __init__(self, order: Order, clock: Clock) -> None:
        """Start without deliveries.

        Args:
            order: determines the key of a record.
            clock: determines when records are due.

        """
        self.records = WaitingRecords()
        self.records_at_start = RecordsAtStart()
        self.taken_records = TakenRecords(self.records)
        self.requeued_dead_letters = RequeuedDeadLetters()
        self.predecessors: Predecessors | None = None
        self.has_unconfirmed = self.repetition_expected = False
        self._order = order
        self._clock = clock
        self._queues: dict[str, OrderedQueue] = {}  # by the consumer tag of the subscription
        self._early_releases: list[Delivery] = []  # see _apply()

    # -- subscriptions -------------------------------------------------------------------------

    def add_subscription(
        self, consumer_tag: str, waiting_queue: str, generation_number: int
    ) -> None:
        """Register the subscription to a queue or to its waiting queue; see OrderedQueue."""
        self._queues[consumer_tag] = OrderedQueue(waiting_queue, generation_number)

    def queue_of(self, delivery: Delivery) -> OrderedQueue:
        """Return the queue that has delivered a message."""
        return self._queues[delivery.consumer_tag]

    def awaited_queues(self, delivery: Delivery, routing_key: str) -> frozenset[str]:
        """Return the older queues that can still contain earlier records of a record's key."""
        if self.predecessors is None:
            return NO_QUEUES
        generation_number = self.queue_of(delivery).generation_number
        return self.predecessors.queues_before(generation_number, routing_key)

    def mark_complete(self) -> None:
        """Register that all messages that waited when reading began have arrived."""
        self.records_at_start.add(self.records)

    def forget_subscription(self, consumer_tag: str) -> None:
        """Forget the deliveries of a waiting queue: they are delivered again."""
        waiting_queue = self._queues[consumer_tag].waiting_queue
        self.taken_records.forget_queue(waiting_queue)
        self.records.forget_queue(waiting_queue)
        self.requeued_dead_letters.forget(consumer_tag)
        self._early_releases = [
            each for each in self._early_releases if each.consumer_tag != consumer_tag
        ]

    def forget(self) -> None:
        """Forget all deliveries and subscriptions: the broker delivers the messages again."""
        self.records.forget()
        self.records_at_start.clear()
        self.taken_records.forget()
        self.requeued_dead_letters.forget_all()
        self._early_releases.clear()
        self.has_unconfirmed = self.repetition_expected = False
        self._queues.clear()

    # -- deliveries ----------------------------------------------------------------------------

    def add(self, message: Any) -> list[Delivery]:
        """Add a delivery of a waiting queue; return the deliveries to acknowledge now."""
        delivery = Delivery.of(message)
        if RELEASE in delivery.headers:
            return self._apply(delivery)
        if REQUEUED in delivery.headers:
            self.requeued_dead_letters.add(delivery)
            return []
        queue = self.queue_of(delivery)
        record = decode_waiting_message(
            Arrival(delivery, message, self._clock.monotonic()),
            self._order,
            queue.waiting_queue,
            queue.generation_number,
        )
        record.position = record.position or self.records.positions.next(queue.generation_number)
        record.awaited_queues = self.awaited_queues(delivery, delivery.original_key)
        settled = [arrival.delivery for arrival in self.records.add_arrived(record)]
        return settled + self._apply_early_releases(queue) if record.is_dead_letter else settled

    def release_keys(self, request: Delivery) -> list[Delivery]:
        """Release the keys that a request names, unless the message that blocks one is on its way.

        Args:
            request: a message of `feedbus dead drop` or `purge`, or of a limit of dead letters.

        Returns:
            The deliveries of the messages that blocked the keys. They are to be acknowledged before
            the request. Otherwise, if the connection is lost in between, they are delivered again
            without the request.

        """
        message_id, queue = str(request.headers[RELEASE]), self.queue_of(request).waiting_queue
        return [arrival.delivery for arrival in self.records.release_keys(message_id, queue)]

    def _apply(self, request: Delivery) -> list[Delivery]:
        """Release the keys that a request names; return the deliveries to acknowledge now.

        The request can come before the message that blocks a key: the dead letter is sent first,
        and an operator drops it immediately. Then the request is kept until that message arrives.
        """
        message_id, queue = str(request.headers[RELEASE]), self.queue_of(request).waiting_queue
        released = self.release_keys(request)
        if self.records.is_sending_dead_letter(message_id, queue):
            self._early_releases.append(request)
            return released
        return [*released, request]

    def _apply_early_releases(self, queue: OrderedQueue) -> list[Delivery]:
        """Apply the kept requests of a waiting queue; return the deliveries to acknowledge now."""
        own = [each for each in self._early_releases if self.queue_of(each) == queue]
        self._early_releases = [each for each in self._early_releases if each not in own]
        return [delivery for request in own for delivery in self._apply(request)]

    def now(self) -> float:
        """Return the time, in seconds since 1970."""
        return self._clock.wall_nanoseconds() / NANOSECONDS

    def seconds_until_due(self) -> float:
        """Return in how many seconds take() may return a delivery; infinity if none waits."""
        return 0.0 if self.requeued_dead_letters else self.records.next_due_at() - self.now()

    def take(self, max_records: int, is_suspected: Callable[[str], bool]) -> list[Delivery]:
        """Return requeued dead letters or, if there are none, waiting records to handle now.

        Args:
            max_records: the largest number of deliveries; each has one record.
            is_suspected: called with a message id; returns whether this message may have ended a
                process, so that it must be handled alone.

        """
        return self.requeued_dead_letters.take(
            max_records, is_suspected
        ) or self.taken_records.take(self.now(), max_records, is_suspected)

    def put_back(self, deliveries: Sequence[Delivery]) -> None:
        """Put deliveries back that take() has returned, and that were not handled."""
        self.requeued_dead_letters.put_back(deliveries)
        self.taken_records.put_back(deliveries)

    def finish(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Finish handled deliveries; return the deliveries to acknowledge in waiting queues.

        Before this call, the broker must have confirmed all messages that result from them.
        """
        self.has_unconfirmed = False
        return self.taken_records.finish(deliveries) + self.requeued_dead_letters.finish(deliveries)
