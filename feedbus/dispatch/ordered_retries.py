"""Retries that keep the records of each key in order: later records wait for a failed record."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from feedbus.clock import NANOSECONDS, Clock
from feedbus.dispatch.failure_policy import DEAD_LETTER_VERDICTS, Decision, FailurePolicy
from feedbus.dispatch.queue_order import Order
from feedbus.dispatch.requeued_dead_letters import RequeuedDeadLetters
from feedbus.dispatch.taken_waiting_records import TakenRecords
from feedbus.dispatch.waiting_messages import (
    Arrival,
    decode_waiting_message,
    encode_waiting_message,
)
from feedbus.dispatch.waiting_record_copies import BLOCKED, NO_QUEUES, WaitingRecord
from feedbus.dispatch.waiting_records import WaitingRecords
from feedbus.logs import EventLog
from feedbus.records.packs import Pack
from feedbus.wire import Delivery
from feedbus.wire.constants import ATTEMPT, PACK, RELEASE, REQUEUED

events = EventLog(__name__)


class Predecessors(Protocol):
    """The queues of older generations that still exist."""

    def queues_before(self, generation_number: int, routing_key: str) -> frozenset[str]:
        """Return the older queues that can still contain records of a routing key.

        Args:
            generation_number: the queues of earlier generations are older.
            routing_key: the key by which the rings select a shard.

        """


class OrderedRetries:
    """The waiting records of one consumer whose queue has `order_by`.

    A record that has failed, and later records of its key, are sent to a waiting queue. The
    consumer receives them from the waiting queue by a separate subscription.
    """

    def __init__(
        self, order: Order, policy: FailurePolicy, clock: Clock, *, block_on_dead: bool = False
    ) -> None:
        """Start without waiting records.

        Args:
            order: determines the key of a record.
            policy: returns the decision on a record that has failed.
            clock: determines when records may run.
            block_on_dead: whether dead letters block their keys.

        """
        self.records: WaitingRecords[Arrival] = WaitingRecords()
        self.taken_records = TakenRecords(self.records)
        self.requeued_dead_letters = RequeuedDeadLetters()
        self.has_unconfirmed = False  # messages for the waiting queues are not confirmed yet
        # Whether a delivery with failed records will be handled again. Some of its failed records
        # may already be in a waiting queue.
        self.repetition_expected = False
        self.predecessors: Predecessors | None = None  # None while no old queue exists
        self._block_on_dead = block_on_dead
        self._order = order
        self._policy = policy
        self._clock = clock
        self._queues: dict[str, str] = {}  # the waiting queue of each consumer tag
        self._generation_numbers: dict[
            str, int
        ] = {}  # the number of the generation of each consumer tag

    def add_subscription(
        self, consumer_tag: str, waiting_queue: str, generation_number: int = 0
    ) -> None:
        """Set the waiting queue, and the number of the generation, of a subscription."""
        self._queues[consumer_tag] = waiting_queue
        self._generation_numbers[consumer_tag] = generation_number

    def forget_queue(self, waiting_queue: str) -> None:
        """Forget the records in a waiting queue that is closed: they are delivered again."""
        self.taken_records.forget_queue(waiting_queue)
        self.requeued_dead_letters.forget(lambda tag: self._queues.get(tag) == waiting_queue)
        self.records.forget_queue(waiting_queue)

    def forget(self) -> None:
        """Forget all waiting records: the broker delivers them again."""
        self.records.forget()
        self.has_unconfirmed = self.repetition_expected = False
        self._queues.clear()
        self._generation_numbers.clear()
        self.taken_records.forget()
        self.requeued_dead_letters.forget(lambda _: True)

    def now(self) -> float:
        """Return the time, in seconds since 1970."""
        return self._clock.wall_nanoseconds() / NANOSECONDS

    def seconds_until_due(self) -> float:
        """Return in how many seconds take() may return a delivery; infinity if none waits."""
        return 0.0 if self.requeued_dead_letters else self.records.next_due_at() - self.now()

    def take(self, max_records: int, is_suspected: Callable[[str], bool]) -> list[Delivery]:
        """Return requeued dead letters or, if there are none, waiting records that run now.

        The caller then settles them. See TakenRecords.take().
        """
        return self.requeued_dead_letters.take(
            max_records, is_suspected
        ) or self.taken_records.take(self.now(), max_records, is_suspected)

    def put_back(self, deliveries: Sequence[Delivery]) -> None:
        """Put deliveries back that take() has returned, and that were not handled."""
        self.requeued_dead_letters.put_back(deliveries)
        self.taken_records.put_back(
            [each for each in deliveries if self.taken_records.record_of(each) is not None]
        )

    def has_requeued_dead_letters(self, waiting_queue: str) -> bool:
        """Whether a waiting queue has delivered a requeued dead letter that is not settled."""
        return self.requeued_dead_letters.contains(
            lambda tag: self._queues.get(tag) == waiting_queue
        )

    # -- what the waiting queue delivers -------------------------------------------------------

    def add_delivery(self, message: Any) -> list[Delivery]:
        """Add a delivery of a waiting queue; return the deliveries that may be acknowledged."""
        delivery = Delivery.of(message)
        if RELEASE in delivery.headers:
            return [delivery, *self._release_keys(str(delivery.headers[RELEASE]))]
        if REQUEUED in delivery.headers:
            self.requeued_dead_letters.add(delivery)
            return []
        generation_number = self._generation_numbers.get(delivery.consumer_tag, 0)
        record = decode_waiting_message(
            Arrival(delivery, message, self._clock.monotonic()),
            self._order,
            self._queues[delivery.consumer_tag],
            generation_number,
        )
        record.position = record.position or self.records.next_position(generation_number)
        if self.predecessors is not None:
            record.awaited_queues = self.predecessors.queues_before(
                generation_number, delivery.original_key
            )
        return [each.delivery for each in self.records.add_arrived(record)]

    def _release_keys(self, message_id: str) -> list[Delivery]:
        """Release the keys that a deleted dead letter blocked (`block_on_dead`).

        Returns:
            The deliveries of the waiting queue to acknowledge.

        """
        records = self.records.find_dead_letters(message_id)
        for record in records:
            self.records.remove(record)
        return [record.arrival.delivery for record in records if record.arrival is not None]

    def finish(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Finish handled deliveries; return the deliveries to acknowledge in waiting queues.

        Before this call, the broker must have confirmed all messages that their handlers published.
        """
        self.has_unconfirmed = False
        return self.taken_records.finish(deliveries) + self.requeued_dead_letters.finish(deliveries)

    # -- before and after the call of a handler -------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether no record waits, so that every record may be handled on arrival."""
        return self.predecessors is None and self.records.is_idle

    def decide_before_call(self, delivery: Delivery, pack: Pack, row: int) -> Decision | None:
        """Return the decision on a record that may not be handled now, or None if it may."""
        if self.taken_records.record_of(delivery) is not None:
            return None
        number = self._generation_numbers.get(delivery.consumer_tag, 0)
        identified = delivery.identified or delivery.content_type == PACK
        if (
            delivery.redelivered
            and identified
            and self.records.is_repetition(number, pack.ids[row])
        ):
            return Decision("wait", None)
        key = self._order.waiting_key(delivery, pack, row)
        blocks = self.records.blocks(key, number)
        if not blocks and not self._awaited_queues(delivery, pack, row):
            return None
        decision = self._policy.defer(delivery, pack, row)
        dead_letter = self.records.find_dead_letter(key, pack.ids[row])
        if dead_letter is None or decision.message is None:
            return self.decide_after_call(delivery, pack, row, decision)
        # The dead letter of this record was requeued. The record gets back its old position in the
        # waiting queue.
        queue = self._queues[delivery.consumer_tag]
        return replace(
            decision,
            message=encode_waiting_message(dead_letter, 0.0, self._order, queue, decision.message),
        )

    def must_wait(self, delivery: Delivery, pack: Pack, row: int) -> bool:
        """Whether a decoded record must wait, because an earlier record of its key has failed."""
        record = self.taken_records.record_of(delivery)
        if record is not None:
            return self.taken_records.is_blocked(record.key)
        key = self._order.waiting_key(delivery, pack, row)
        return self.records.blocks(key, self._generation_numbers.get(delivery.consumer_tag, 0))

    def _awaited_queues(self, delivery: Delivery, pack: Pack, row: int) -> frozenset[str]:
        """Return the older queues that can still contain earlier records of a record's key."""
        if self.predecessors is None:
            return NO_QUEUES
        key = pack.key(row) if delivery.content_type == PACK else delivery.original_key
        return self.predecessors.queues_before(
            self._generation_numbers.get(delivery.consumer_tag, 0), key
        )

    def decide_after_call(
        self, delivery: Delivery, pack: Pack, row: int, decision: Decision
    ) -> Decision:
        """Return the decision on a record, with the message that is sent for it.

        If the record has to wait, or its dead letter blocks its key, the message gets the record's
        position in the order of the key (`feedbus-place`). A record that is in the waiting queue
        and has not run gets no new message: its message stays in that queue.
        """
        blocks = self._block_on_dead and decision.verdict in DEAD_LETTER_VERDICTS
        if decision.message is None or (decision.delay_milliseconds is None and not blocks):
            return decision
        due_at = math.inf if blocks else 0.0
        if decision.verdict == "retry":
            due_at = self.now() + (decision.delay_milliseconds or 0) / 1000
        queue = self._queues[delivery.consumer_tag]
        record = self.taken_records.record_of(delivery)
        if record is not None:
            if decision.verdict == "wait":
                self.taken_records.mark_not_run(record)
                return replace(decision, message=None)
            self.taken_records.mark_failed_again(record, due_at)
        else:
            generation_number = self._generation_numbers.get(delivery.consumer_tag, 0)
            record = WaitingRecord(
                self._order.waiting_key(delivery, pack, row),
                self.records.next_position(generation_number),
                decision.message.message_id,
                delivery.identified or delivery.content_type == PACK,
                BLOCKED if blocks else int(decision.message.headers[ATTEMPT]),
                due_at,
                queue,
                awaited_queues=self._awaited_queues(delivery, pack, row),
                generation_number=generation_number,
            )
            self.records.add(record)
        self.has_unconfirmed = True
        message = encode_waiting_message(record, due_at, self._order, queue, decision.message)
        if not blocks:
            return replace(decision, message=message)
        events.warning(
            "key_blocked",
            f"the dead letter {record.message_id} blocks later records of its key '{record.key}';"
            " run `feedbus dead requeue` or `feedbus dead drop` to release the key",
            message_id=record.message_id,
            key=record.key,
        )
        return replace(decision, blocking_message=message)

    def decide_delivery(self, delivery: Delivery, pack: Pack, decision: Decision) -> Decision:
        """Return the decision on a delivery that no handler receives; see decide_after_call().

        If its key is not known, no key is blocked.
        """
        key_known = self._order.by_routing_key and delivery.content_type != PACK
        if key_known or self.taken_records.record_of(delivery) is not None:
            return self.decide_after_call(delivery, pack, 0, decision)
        return decision

    def blocks_key(self, decision: Decision) -> bool:
        """Whether later records of the key have to wait after this decision."""
        return decision.verdict == "retry" or (
            self._block_on_dead and decision.verdict in DEAD_LETTER_VERDICTS
        )
