"""Decide which records wait, so that the records of each key stay in order (`order_by`).

A decision contains the verdict on a record that has failed, is invalid or must wait. If a message
is sent for the record, the decision also contains this message. FailurePolicy decides without
regard to the order of the records. If a record waits, this module changes the decision: the message
gets a position, and is sent to the waiting queue, a queue on the broker for such records. The
records of a key are handled in the order of their positions.

Example: the records A1 and A2 have the key A.

1. A1 fails, and FailurePolicy decides on a retry. keep_in_order() adds A1 to the waiting records,
   and changes the decision: the message is sent to the waiting queue, with a position.
2. A2 arrives. decide_before_call() finds that A1 waits. So no handler gets A2. A2 is sent to the
   waiting queue, too, with the next position. But if A2 is in the same batch as A1, A1 has not
   failed yet when A2 arrives. So must_wait() checks A2 again, just before the call for A2.
3. The waiting queue delivers A1 and A2. If A1 fails again, a new message with the old position of
   A1 is sent. For A2, no message is sent: the old message of A2 stays in the waiting queue.

With `block_on_dead`, a dead letter of A1 blocks the key in the same way. When the dead letter is
requeued, A1 gets its old position again.
"""

from __future__ import annotations

import math
from dataclasses import replace

from feedbus.dispatch.decoded_deliveries import DecodedDelivery
from feedbus.dispatch.failure_policy import Decision, FailurePolicy
from feedbus.dispatch.queue_order import Order
from feedbus.dispatch.waiting_deliveries import WaitingDeliveries
from feedbus.dispatch.waiting_messages import encode_waiting_message
from feedbus.dispatch.waiting_record import DEAD_LETTER_ATTEMPT, NO_QUEUES, WaitingRecord
from feedbus.logs import EventLog
from feedbus.wire import Outgoing
from feedbus.wire.constants import ATTEMPT, PACK, REQUEUED

events = EventLog(__name__)


class OrderDecisions:
    """Decides which records of a consumer wait.

    A record is passed to the methods as two arguments: its decoded delivery, and `row`, the index
    of the record in this delivery.

    The dispatch of a consumer whose queue has `order_by` has one OrderDecisions object.

    Attributes:
        waiting: the waiting records of the consumer.

    """

    def __init__(
        self,
        order: Order,
        policy: FailurePolicy,
        waiting: WaitingDeliveries,
        *,
        block_on_dead: bool,
    ) -> None:
        """Create the object.

        Args:
            order: determines the key of a record.
            policy: returns the decision on a record that must wait. The message of this decision
                has no position yet.
            waiting: the waiting records of the consumer.
            block_on_dead: whether dead letters block their keys.

        """
        self._order = order
        self._policy = policy
        self.waiting = waiting
        self._records = waiting.records
        self._taken_records = waiting.taken_records
        self._block_on_dead = block_on_dead

    @property
    def is_idle(self) -> bool:
        """Whether every record may be handled when it arrives.

        If this is true, the decoder checks no keys. Three conditions must be true:

        - No record waits.
        - No old queue (a queue of an older generation) exists.
        - No record waited when the consumer began to read. This condition is for crashes. A process
          sends a failed record to the waiting queue, and then acknowledges the record in the
          consumer's own queue, which is the queue that delivered it. If the process ends between
          these two steps, the record is in both queues. Then the own queue delivers the record
          again, and decide_before_call() must recognise it.
        """
        waiting = self.waiting
        return waiting.predecessors is None and not (
            self._records.count or waiting.records_at_start.ids
        )

    def note_repetition(self, decoded: DecodedDelivery) -> None:
        """If a delivery may have been handled before, ignore blocking messages that arrive late.

        A blocking message is sent to the waiting queue, and blocks the key of a dead letter. If the
        delivery is redelivered, or is a requeued dead letter, another process may have sent a
        blocking message for an earlier delivery of it. Now this blocking message is obsolete.

        The decoder calls this for each delivery of a queue with `block_on_dead`, before the records
        are handled.

        Args:
            decoded: the delivery.

        """
        delivery = decoded.delivery
        if delivery.redelivered or REQUEUED in delivery.headers:
            ids = decoded.pack.ids if len(decoded.pack) else [delivery.message_id]
            waiting_queue = self.waiting.queue_of(delivery).waiting_queue
            self.waiting.obsolete_blocks.add(waiting_queue, ids)

    def must_wait(self, decoded: DecodedDelivery, row: int) -> bool:
        """Whether a record must wait, because an earlier record of its key waits or has failed.

        BlockedKeys calls this before a handler is called.

        Args:
            decoded: the delivery of the record.
            row: the index of the record in the delivery.

        """
        record = self._taken_records.record_of(decoded.delivery)
        if record is not None:
            # This is a waiting record that was taken: it was chosen to be handled now. The earlier
            # waiting records of its key are already handled, or were taken with it. So only records
            # that were taken with it can block it.
            return self._taken_records.is_blocked(record.key)
        key = self._order.waiting_key(decoded.delivery, decoded.pack, row)
        return self._records.blocks(key, self.waiting.queue_of(decoded.delivery).generation_number)

    def decide_before_call(self, decoded: DecodedDelivery, row: int) -> Decision | None:
        """Return the decision on a record that must not be handled now; None if it may be handled.

        A record must not be handled now in these cases:

        - An earlier record of its key waits, or an old queue can still contain an earlier record of
          the key. The record is sent to the waiting queue.
        - The record is a requeued dead letter that blocks its key. It is sent to the waiting queue
          with its old position.
        - The consumer's own queue delivers a record that is also in the waiting queue, because of a
          crash. Nothing is sent: the record is handled when the waiting queue delivers it.

        If the record is a waiting record that was chosen to be handled now, the result is None.

        The decoder calls this for each record that has arrived, unless is_idle is true.

        Args:
            decoded: the delivery of the record.
            row: the index of the record in the delivery.

        """
        delivery, waiting = decoded.delivery, self.waiting
        if self._taken_records.record_of(delivery) is not None:
            return None
        queue, message_id = waiting.queue_of(delivery), decoded.pack.ids[row]
        key = self._order.waiting_key(delivery, decoded.pack, row)
        dead_letter = self._records.find_dead_letter(key, message_id)
        # If the broker delivers a record again, and a record with its id waited when the consumer
        # began to read, the record is a repetition: it is also in the waiting queue. This needs an
        # id that the publisher gave, because equal messages have the same derived id. A requeued
        # dead letter that blocks its key is never a repetition. If a waiting record has the same
        # id, a publisher has sent two messages with this id, and both must be handled.
        if (
            delivery.redelivered
            and decoded.has_own_ids
            and dead_letter is None
            and waiting.records_at_start.contain(queue.generation_number, message_id)
        ):
            return Decision("wait", None)  # it is handled from the waiting queue
        is_blocked = self._records.blocks(key, queue.generation_number)
        if not is_blocked and not self._awaited_queues(decoded, row):
            return None
        decision = self._policy.defer(delivery, decoded.pack, row)
        if dead_letter is None or decision.message is None:
            return self.keep_in_order(decoded, row, decision)
        # The dead letter of this record was requeued. The record gets its old position again.
        message = encode_waiting_message(
            dead_letter, 0.0, self._order, queue.waiting_queue, decision.message
        )
        return replace(decision, message=message)

    def keep_delivery_in_order(self, decoded: DecodedDelivery, decision: Decision) -> Decision:
        """Keep the order after the decision on a whole delivery, which no handler receives.

        Such a delivery cannot be decoded, or has ended its process too often. It becomes a dead
        letter. With `block_on_dead`, the dead letter blocks the key of the delivery in two cases:

        - The key is the routing key, and the message is not a pack.
        - A waiting queue has delivered the message: the key was noted when the message began to
          wait.

        In all other cases, the key is not known without the body. Then no key is blocked, and the
        decision is returned without a change.

        Args:
            decoded: the delivery.
            decision: the decision of FailurePolicy on the delivery.

        Returns:
            The decision. If the dead letter blocks the key, the decision also has a
            `blocking_message` for the waiting queue.

        """
        key_is_known = (
            self._order.by_routing_key and decoded.delivery.content_type != PACK
        ) or self._taken_records.record_of(decoded.delivery) is not None
        return self.keep_in_order(decoded, 0, decision) if key_is_known else decision

    def keep_in_order(self, decoded: DecodedDelivery, row: int, decision: Decision) -> Decision:
        """Change the decision on a record, so that the later records of its key stay in order.

        The key is blocked if the record waits or is tried again. With `block_on_dead`, a dead
        letter blocks the key, too. A record that blocks its key is registered, so that later
        records wait.

        Args:
            decoded: the delivery that contains the record.
            row: the index of the record in the delivery.
            decision: the decision of FailurePolicy on the record.

        Returns:
            The decision with these changes. If the record waits or is tried again, its message goes
            to the waiting queue. If a dead letter blocks the key, the decision also has a
            `blocking_message` for the waiting queue. If the record came from a waiting queue and
            was not handled, the decision has no message: the old message stays in the waiting
            queue.

        """
        due_at = self._due_at(decision)
        if decision.message is None or due_at is None:
            return decision
        record = self._taken_records.record_of(decoded.delivery)
        if record is None:
            if decision.is_dead_letter and self._blocks_already(decoded, row, decision.message):
                return decision
            record = self._add_record(decoded, row, decision.message, due_at)
        elif decision.verdict == "wait":
            self._taken_records.mark_not_run(decoded.delivery)
            return replace(decision, message=None)
        else:
            self._taken_records.mark_failed_again(decoded.delivery, due_at)
        self.waiting.has_unconfirmed = True
        waiting_queue = self.waiting.queue_of(decoded.delivery).waiting_queue
        message = encode_waiting_message(
            record, due_at, self._order, waiting_queue, decision.message
        )
        if not decision.is_dead_letter:
            return replace(decision, message=message)
        events.warning(
            "key_blocked",
            f"the dead letter {record.message_id} blocks later records of its key '{record.key}';"
            " run `feedbus dead requeue` or `feedbus dead drop` to release the key",
            message_id=record.message_id,
            key=record.key,
        )
        return replace(decision, blocking_message=message)

    def _blocks_already(self, decoded: DecodedDelivery, row: int, letter: Outgoing) -> bool:
        """Whether an earlier dead letter of this record blocks the key already.

        A blocking message is a message in the waiting queue that blocks the key of a dead letter.
        Example: a dead letter whose body cannot be decoded is requeued, and becomes a dead letter
        again. Its first blocking message is still in the waiting queue, so no second one is sent.
        When a requeued dead letter has been handled, only one blocking message is removed. A second
        one would block the key for ever.

        Args:
            decoded: the delivery that contains the record.
            row: the index of the record in the delivery.
            letter: the new dead letter of the record.

        """
        key = self._order.waiting_key(decoded.delivery, decoded.pack, row)
        return self._records.find_dead_letter(key, letter.message_id) is not None

    def _due_at(self, decision: Decision) -> float | None:
        """Return the earliest time of the next attempt, in seconds since 1970.

        The result is 0 if the record only waits for earlier records, infinity if the record is a
        dead letter that blocks its key, and None if the record blocks no key.
        """
        if self._block_on_dead and decision.is_dead_letter:
            return math.inf
        if decision.verdict == "wait":
            return 0.0
        if decision.delay_milliseconds is None:
            return None
        return self.waiting.now() + decision.delay_milliseconds / 1000

    def _add_record(
        self, decoded: DecodedDelivery, row: int, message: Outgoing, due_at: float
    ) -> WaitingRecord:
        """Add a record that begins to wait, or a dead letter that begins to block its key."""
        queue = self.waiting.queue_of(decoded.delivery)
        record = WaitingRecord(
            self._order.waiting_key(decoded.delivery, decoded.pack, row),
            self._records.positions.next(queue.generation_number),
            message.message_id,
            decoded.has_own_ids,
            int(message.headers[ATTEMPT]) if due_at < math.inf else DEAD_LETTER_ATTEMPT,
            due_at,
            queue.waiting_queue,
            awaited_queues=self._awaited_queues(decoded, row),
            generation_number=queue.generation_number,
        )
        self._records.add(record)
        return record

    def _awaited_queues(self, decoded: DecodedDelivery, row: int) -> frozenset[str]:
        """Return the old queues that must be deleted before the record may be handled."""
        if self.waiting.predecessors is None:
            return NO_QUEUES
        return self.waiting.awaited_queues(decoded.delivery, decoded.routing_key(row))
