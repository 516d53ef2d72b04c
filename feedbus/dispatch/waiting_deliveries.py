"""The deliveries of the waiting queues of one consumer, from their arrival to their settlement.

A consumer with `order_by` reads each of its queues together with a waiting queue. A delivery of a
waiting queue is one of these:

- a waiting record. It is kept until the time of its next attempt has come, and until the earlier
  records of its key are handled;
- a requeued dead letter (`block_on_dead`). It is handled before all waiting records;
- a request to release keys: the dead letters that block these keys were deleted, for example by
  `feedbus dead drop`.

The runner passes each delivery to add(). It calls take() to get the deliveries to handle now. After
the handling, it calls finish(), and acknowledges the deliveries that finish() returns. It passes a
delivery that was not handled to put_back().

If a connection or a subscription ends, the broker delivers the unacknowledged messages again. So
this module then forgets their deliveries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from feedbus.clock import NANOSECONDS, Clock
from feedbus.dispatch.key_releases import KeyReleases
from feedbus.dispatch.obsolete_blocks import ObsoleteBlocks
from feedbus.dispatch.queue_order import Order
from feedbus.dispatch.records_at_start import RecordsAtStart
from feedbus.dispatch.requeued_dead_letters import RequeuedDeadLetters
from feedbus.dispatch.taken_waiting_records import TakenRecords
from feedbus.dispatch.waiting_messages import decode_waiting_message
from feedbus.dispatch.waiting_record import NO_QUEUES, Arrival, WaitingRecord
from feedbus.dispatch.waiting_records import WaitingRecords
from feedbus.generations.predecessors import Predecessors
from feedbus.wire import Delivery
from feedbus.wire.constants import RELEASE, REQUEUED


@dataclass(frozen=True, slots=True)
class OrderedQueue:
    """The data of a subscription, either to a queue with `order_by` or to its waiting queue.

    WaitingDeliveries has one OrderedQueue object for each subscription.

    Attributes:
        waiting_queue: the name of the waiting queue.
        generation_number: the number of the generation that both queues belong to.

    """

    waiting_queue: str
    generation_number: int


class WaitingDeliveries:
    """The waiting records and requeued dead letters that a consumer has received.

    The dispatch of a consumer whose queue has `order_by` has one WaitingDeliveries object, for all
    connections.

    Attributes:
        records: the waiting records.
        records_at_start: the records that waited when the consumer began to read.
        obsolete_blocks: the records whose keys are not blocked by a message that another process
            has sent, and that arrives late.
        taken_records: the waiting records that handlers have now.
        requeued_dead_letters: the requeued dead letters.
        key_releases: releases the keys of deleted dead letters.
        predecessors: the queues of older generations that still exist; None if none exists. A
            record waits until the old queues that can have earlier records of its key are deleted.
        has_unconfirmed: whether a record has begun to wait or has failed again, and the broker has
            not confirmed its message for the waiting queue yet.
        repetition_expected: whether an outage has interrupted the handling of a delivery, after
            some of its records had failed. These records are registered as waiting, but no messages
            were sent for them, so they would block their keys for ever. So the consumer must
            connect again: it forgets these records, and reads the waiting queues from their start.

    """

    def __init__(self, order: Order, clock: Clock) -> None:
        """Start without deliveries.

        Args:
            order: determines the key of a record.
            clock: determines when records are due.

        """
        self.records = WaitingRecords()
        self.records_at_start = RecordsAtStart()
        self.obsolete_blocks = ObsoleteBlocks()
        self.taken_records = TakenRecords(self.records)
        self.requeued_dead_letters = RequeuedDeadLetters()
        self.key_releases = KeyReleases(self.records)
        self.predecessors: Predecessors | None = None
        self.has_unconfirmed = self.repetition_expected = False
        self._order = order
        self._clock = clock
        self._queues: dict[str, OrderedQueue] = {}  # by the consumer tag of the subscription
        # The consumer tags of the waiting queues for which mark_complete() was called.
        self._complete: set[str] = set()

    # -- subscriptions -------------------------------------------------------------------------

    def add_subscription(
        self, consumer_tag: str, waiting_queue: str, generation_number: int
    ) -> None:
        """Register the subscription to a queue with `order_by`, or to its waiting queue.

        The runner calls this when it subscribes.

        Args:
            consumer_tag: the tag of the subscription.
            waiting_queue: the name of the waiting queue.
            generation_number: the number of the generation that both queues belong to.

        """
        self._queues[consumer_tag] = OrderedQueue(waiting_queue, generation_number)

    def queue_of(self, delivery: Delivery) -> OrderedQueue:
        """Return the data of the subscription by which a message was delivered.

        Args:
            delivery: the delivery; its consumer tag names the subscription.

        """
        return self._queues[delivery.consumer_tag]

    def awaited_queues(self, delivery: Delivery, routing_key: str) -> frozenset[str]:
        """Return the old queues that can still contain earlier records of a record's key.

        The record waits until these queues are deleted.

        Args:
            delivery: the delivery of the record.
            routing_key: the routing key of the record.

        """
        if self.predecessors is None:
            return NO_QUEUES
        generation_number = self.queue_of(delivery).generation_number
        return self.predecessors.queues_before(generation_number, routing_key)

    def mark_complete(self, consumer_tag: str) -> None:
        """Register that the records which were in a waiting queue at its subscription have arrived.

        WaitingQueue.open() calls this after it has received all of them, before the consumer reads
        its own queue. The ids of the waiting records are added to `records_at_start`. If the
        consumer's own queue also delivers one of these records, because of a crash, the record is
        recognised by its id, and is handled only once.

        Args:
            consumer_tag: the tag of the subscription to the waiting queue.

        """
        self._complete.add(consumer_tag)
        self.records_at_start.add(self.records)

    def forget_subscription(self, consumer_tag: str) -> None:
        """Forget the deliveries of a waiting queue, when its subscription ends.

        The broker delivers the unacknowledged messages again.

        Args:
            consumer_tag: the tag of the subscription to the waiting queue.

        """
        waiting_queue = self._queues[consumer_tag].waiting_queue
        self.taken_records.forget_queue(waiting_queue)
        self.records.forget_queue(waiting_queue)
        self._complete.discard(consumer_tag)
        self.requeued_dead_letters.forget(consumer_tag)
        self.key_releases.forget(consumer_tag)

    def forget(self) -> None:
        """Forget all deliveries and subscriptions, when the connection ends.

        The broker delivers the unacknowledged messages again.
        """
        self.records.forget()
        self.records_at_start.clear()
        self._complete.clear()
        self.taken_records.forget()
        self.requeued_dead_letters.forget_all()
        self.key_releases.forget_all()
        self.has_unconfirmed = self.repetition_expected = False
        self._queues.clear()

    # -- deliveries ----------------------------------------------------------------------------

    def add(self, message: Any) -> list[Delivery]:
        """Add a message that a waiting queue has delivered, such as a waiting record.

        The runner calls this for each message of a waiting queue, except fences.

        Args:
            message: the message, as py-amqp returns it.

        Returns:
            The deliveries to acknowledge at once, in order; often none, because the record waits.

        """
        delivery = Delivery.of(message)
        queue = self.queue_of(delivery)
        if RELEASE in delivery.headers:
            self.obsolete_blocks.add(queue.waiting_queue, [str(delivery.headers[RELEASE])])
            return self.key_releases.apply(delivery, queue.waiting_queue)
        if REQUEUED in delivery.headers:
            self.requeued_dead_letters.add(delivery)
            return []
        record = decode_waiting_message(
            Arrival(delivery, message, self._clock.monotonic()),
            self._order,
            queue.waiting_queue,
            queue.generation_number,
        )
        record.position = record.position or self.records.positions.next(queue.generation_number)
        record.awaited_queues = self.awaited_queues(delivery, delivery.original_key)
        if record.is_dead_letter and self._is_obsolete(record, delivery.consumer_tag):
            return [delivery]
        settled = [arrival.delivery for arrival in self.records.add_arrived(record)]
        if record.is_dead_letter:
            settled += self.key_releases.apply_early(delivery.consumer_tag, queue.waiting_queue)
        return settled

    def _is_obsolete(self, blocking: WaitingRecord, consumer_tag: str) -> bool:
        """Whether a message that blocks a key is obsolete, because it has arrived too late.

        A message is not obsolete if this consumer has sent it, or if it was in the waiting queue
        when the consumer began to read.
        """
        return (
            consumer_tag in self._complete
            and self.obsolete_blocks.contain(blocking.queue, blocking.message_id)
            and not self.records.knows(blocking)
        )

    def now(self) -> float:
        """Return the present time in seconds since 1970, as in WaitingRecord.due_at."""
        return self._clock.wall_nanoseconds() / NANOSECONDS

    def seconds_until_due(self) -> float:
        """Return in how many seconds take() can return a delivery.

        The result is 0 or negative if take() can return one now. The result is infinity if no
        delivery becomes due, for example because none waits.

        The runner waits for data of the broker at most for this time.
        """
        return 0.0 if self.requeued_dead_letters else self.records.next_due_at() - self.now()

    def take(self, max_records: int, is_suspected: Callable[[str], bool]) -> list[Delivery]:
        """Return the deliveries of requeued dead letters or, if there are none, of waiting records.

        The caller handles them now, and then calls finish() or put_back().

        Args:
            max_records: the largest number of deliveries; each has one record.
            is_suspected: a function that gets a message id. It returns whether this message may
                have ended a process. Such a message must be handled alone.

        """
        return self.requeued_dead_letters.take(
            max_records, is_suspected
        ) or self.taken_records.take(self.now(), max_records, is_suspected)

    def put_back(self, deliveries: Sequence[Delivery]) -> None:
        """Let records and dead letters wait again, because they were not handled.

        Args:
            deliveries: deliveries that take() has returned.

        """
        self.requeued_dead_letters.put_back(deliveries)
        self.taken_records.put_back(deliveries)

    def finish(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Finish handled deliveries; return the deliveries to acknowledge in waiting queues.

        Before this call, the broker must have confirmed all messages that result from these
        deliveries.

        Args:
            deliveries: deliveries that were handled. Those that take() has not returned are
                ignored.

        """
        self.has_unconfirmed = False
        return self.taken_records.finish(deliveries) + self.requeued_dead_letters.finish(deliveries)
