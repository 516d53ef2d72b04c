"""Retries that keep the records of each key in order: which records wait, and the decisions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from feedbus.clock import NANOSECONDS, Clock
from feedbus.dispatch.failure_policy import DEAD_LETTERED, Decision, FailurePolicy
from feedbus.dispatch.queue_order import Order
from feedbus.dispatch.waiting_records import BLOCKED as BLOCKED_ATTEMPT
from feedbus.dispatch.waiting_records import NOTHING, WaitingRecord, WaitingRecords
from feedbus.logs import EventLog
from feedbus.records.packs import Pack
from feedbus.wire import Delivery, Outgoing
from feedbus.wire.constants import (
    ATTEMPT,
    BLOCKED,
    NOT_BEFORE,
    ORDER_KEY,
    PACK,
    PLACE,
    RELEASE,
    TRACEBACK,
)

events = EventLog(__name__)

MICROSECONDS = 1_000_000
MOST_PLACE = 2**62


class Waits(Exception):  # noqa: N818 -- names what it is
    """A record is not handled, because an earlier one of its key waits."""


class Overtook(Waits):
    """A batch handler has handled records although earlier records of their keys had failed.

    Attributes:
        failed: the first failed record of each key: the delivery, and the record's index in it.

    """

    def __init__(self, failed: Sequence[tuple[Any, int]]) -> None:
        """Create it with the failed records."""
        super().__init__()
        self.failed = failed


class Predecessors(Protocol):
    """The queues of older generations that still exist."""

    def of(self, turn: int, routing_key: str) -> frozenset[str]:
        """Return the older queues that can still contain records of a routing key.

        Args:
            turn: the number of the generation; the queues of earlier ones are older.
            routing_key: the key that the rings place.

        """


@dataclass(frozen=True, slots=True)
class Arrival:
    """A delivery of a waiting record.

    Attributes:
        delivery: the delivery as the handler gets it.
        message: the delivered message, which can be sent to another queue unchanged.
        arrived_at: time of the monotonic clock.

    """

    delivery: Delivery
    message: Any
    arrived_at: float


Waiting = WaitingRecord[Arrival]


class OrderedRetries:
    """The waiting records of one consumer whose queue has an order.

    A record that has failed, and later records of its key, are sent to the waiting queue of their
    queue. The consumer receives them from there by a separate subscription.
    """

    def __init__(
        self, order: Order, policy: FailurePolicy, clock: Clock, *, block_on_dead: bool = False
    ) -> None:
        """Start without waiting records.

        Args:
            order: determines the key of a record.
            policy: decides on records that have failed.
            clock: determines when records are due.
            block_on_dead: whether dead letters block their keys.

        """
        self.records: WaitingRecords[Arrival] = WaitingRecords()
        self.unsettled = False
        self.abandoned = False  # some records were not sent to the queue; see forget()
        self.predecessors: Predecessors | None = None  # None while no old queue exists
        self._block_on_dead = block_on_dead
        self._order = order
        self._policy = policy
        self._clock = clock
        self._queues: dict[str, str] = {}
        self._turns: dict[str, int] = {}
        self._taken: dict[tuple[str, int], Waiting] = {}
        self._failed_again: dict[Waiting, float] = {}  # when taken records run again
        self._not_run: set[Waiting] = set()
        self._stopped: Counter[str] = Counter()  # for each key, how many records are in these two

    def subscribed(self, consumer_tag: str, waiting_queue: str, turn: int = 0) -> None:
        """Set the waiting queue, and the number of the generation, of a subscription."""
        self._queues[consumer_tag] = waiting_queue
        self._turns[consumer_tag] = turn

    def waiting_queue(self, consumer_tag: str) -> str:
        """Return the waiting queue for deliveries with a consumer tag."""
        return self._queues[consumer_tag]

    def closed(self, waiting_queue: str) -> None:
        """Forget the records in a waiting queue that is closed: they are delivered again."""
        for tags, record in [*self._taken.items()]:
            if record.queue == waiting_queue:
                del self._taken[tags]
        self.records.drop(waiting_queue)

    def forget(self) -> None:
        """Forget all waiting records: the broker delivers them again."""
        self.records.forget()
        self.unsettled = self.abandoned = False
        self._queues.clear()
        self._turns.clear()
        self._taken.clear()
        self._failed_again.clear()
        self._not_run.clear()
        self._stopped.clear()

    def now(self) -> float:
        """Return the time, in seconds since 1970."""
        return self._clock.wall_nanoseconds() / NANOSECONDS

    def seconds_until_due(self) -> float:
        """Return in how many seconds a waiting record may run; infinity if none waits."""
        return self.records.next_due() - self.now()

    # -- what the waiting queue delivers -------------------------------------------------------

    def arrived(self, message: Any) -> list[Delivery]:
        """Add a delivery of a waiting queue; return the deliveries that may be acknowledged."""
        delivery = Delivery.of(message)
        if RELEASE in delivery.headers:
            return [delivery, *self._release(str(delivery.headers[RELEASE]))]
        arrival = Arrival(delivery, message, self._clock.monotonic())
        place, blocks = _number(delivery, PLACE), BLOCKED in delivery.headers
        turn = self._turns.get(delivery.consumer_tag, 0)
        record = WaitingRecord(
            self._key_of(delivery),
            place if place > 0 else self.records.next_place(turn),
            delivery.message_id,
            delivery.identified,
            BLOCKED_ATTEMPT if blocks else delivery.attempts,
            math.inf if blocks else _number(delivery, NOT_BEFORE) / MICROSECONDS,
            self.waiting_queue(delivery.consumer_tag),
            arrival,
            turn=turn,
        )
        if self.predecessors is not None:
            record.awaited = self.predecessors.of(turn, delivery.original_key)
        return [each.delivery for each in self.records.arrived(record)]

    def _release(self, message_id: str) -> list[Delivery]:
        """Release the keys that a deleted dead letter blocked."""
        found = self.records.released(message_id)
        for record in found:
            self.records.left(record)
        return [record.arrival.delivery for record in found if record.arrival is not None]

    def _key_of(self, delivery: Delivery) -> str:
        if self._order.by_key:
            return delivery.original_key
        return str(delivery.headers.get(ORDER_KEY, ""))

    def take(self, most: int, alone: Callable[[str], bool]) -> list[Delivery]:
        """Return waiting records that run now; the caller then calls settled().

        Args:
            most: the largest number of records.
            alone: called with a message id; returns whether that record must be taken alone.

        """
        taken: list[Delivery] = []
        for record in self.records.take(self.now(), most, alone):
            if record.arrival is not None:
                delivery = record.arrival.delivery
                self._taken[delivery.consumer_tag, delivery.tag] = record
                taken.append(delivery)
        return taken

    def settled(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Record that deliveries were handled; return those to acknowledge in waiting queues.

        Before this call, all messages that result from them must be confirmed.
        """
        done: list[Delivery] = []
        for delivery in deliveries:
            record = self._taken.pop((delivery.consumer_tag, delivery.tag), None)
            if record is None:
                continue
            if record in self._not_run:
                self._not_run.remove(record)
                self._stopped[record.key] -= 1
                self.records.stays(record)
                continue
            if record in self._failed_again:
                self._stopped[record.key] -= 1
                due_at = self._failed_again.pop(record)
                blocked = BLOCKED_ATTEMPT if due_at == math.inf else None
                self.records.again(record, due_at, blocked)
            else:
                done += [each.delivery for each in self.records.handled(record)]
            done.append(delivery)
        self.unsettled = False
        self._stopped = +self._stopped
        return done

    def put_back(self, deliveries: Sequence[Delivery]) -> None:
        """Make waiting records that were taken wait again."""
        for delivery in deliveries:
            self.records.stays(self._taken.pop((delivery.consumer_tag, delivery.tag)))

    # -- before and after the call of a handler -------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no record waits, so that every record may be handled on arrival."""
        return self.predecessors is None and self.records.idle

    def before(self, delivery: Delivery, pack: Pack, row: int) -> Decision | None:
        """Return the decision on a record that may not be handled now, or None if it may."""
        if self._record_of(delivery) is not None:
            return None
        identified = delivery.identified or delivery.content_type == PACK
        if delivery.redelivered and identified and self.records.is_repetition(pack.ids[row]):
            return Decision("wait", None)
        key = self._order.waiting_key(delivery, pack, row)
        blocks = self.records.blocks(key, self._turns.get(delivery.consumer_tag, 0))
        if not blocks and not self._awaited(delivery, pack, row):
            return None
        decision = self._policy.deferred(delivery, pack, row)
        blocked = self.records.blocked(key, pack.ids[row])
        if blocked is None or decision.message is None:
            return self.after(delivery, pack, row, decision)
        # Its dead letter was requeued: it runs in its old position.
        return replace(decision, message=self._in_line(delivery, blocked, 0.0, decision.message))

    def must_wait(self, delivery: Delivery, pack: Pack, row: int) -> bool:
        """Whether a record of its key has failed since the deliveries were opened."""
        record = self._record_of(delivery)
        if record is not None:
            return self._stopped[record.key] > 0
        key = self._order.waiting_key(delivery, pack, row)
        return self.records.blocks(key, self._turns.get(delivery.consumer_tag, 0))

    def _awaited(self, delivery: Delivery, pack: Pack, row: int) -> frozenset[str]:
        """Return the older queues that can still contain earlier records of a record's key."""
        if self.predecessors is None:
            return NOTHING
        key = pack.key(row) if delivery.content_type == PACK else delivery.original_key
        return self.predecessors.of(self._turns.get(delivery.consumer_tag, 0), key)

    def after(self, delivery: Delivery, pack: Pack, row: int, decision: Decision) -> Decision:
        """Return the decision on a record, with the message that is sent for it.

        If the record has to wait, or its dead letter blocks its key, the message gets the record's
        position among the records of its key (`feedbus-place`). A record that is in the waiting
        queue and has not run gets no new message: its message stays in that queue.
        """
        blocks = self._block_on_dead and decision.verdict in DEAD_LETTERED
        if decision.message is None or (decision.waits_milliseconds is None and not blocks):
            return decision
        due_at = math.inf if blocks else 0.0
        if decision.verdict == "retry":
            due_at = self.now() + (decision.waits_milliseconds or 0) / 1000
        record = self._record_of(delivery)
        if record is not None:
            self._stopped[record.key] += 1
            if decision.verdict == "wait":
                self._not_run.add(record)
                return replace(decision, message=None)
            self._failed_again[record] = due_at
        else:
            turn = self._turns.get(delivery.consumer_tag, 0)
            record = WaitingRecord(
                self._order.waiting_key(delivery, pack, row),
                self.records.next_place(turn),
                decision.message.message_id,
                delivery.identified or delivery.content_type == PACK,
                BLOCKED_ATTEMPT if blocks else int(decision.message.headers[ATTEMPT]),
                due_at,
                self.waiting_queue(delivery.consumer_tag),
                awaited=self._awaited(delivery, pack, row),
                turn=turn,
            )
            self.records.add(record)
        self.unsettled = True
        message = self._in_line(delivery, record, due_at, decision.message)
        if not blocks:
            return replace(decision, message=message)
        events.warning(
            "key_blocked",
            f"the dead letter {record.message_id} blocks later records of its key '{record.key}';"
            " run `feedbus dead requeue` or `feedbus dead drop` to release the key",
            message_id=record.message_id,
            key=record.key,
        )
        return replace(decision, block=message)

    def after_whole(self, delivery: Delivery, pack: Pack, decision: Decision) -> Decision:
        """Return the decision on a delivery that no handler receives; see after().

        If its key is not known, no key is blocked.
        """
        known = self._order.by_key and delivery.content_type != PACK
        if known or self._record_of(delivery) is not None:
            return self.after(delivery, pack, 0, decision)
        return decision

    def stops(self, decision: Decision) -> bool:
        """Whether later records of the key have to wait after this decision."""
        return decision.verdict == "retry" or (
            self._block_on_dead and decision.verdict in DEAD_LETTERED
        )

    def _in_line(
        self, delivery: Delivery, record: Waiting, due_at: float, message: Outgoing
    ) -> Outgoing:
        """Return the message with which a record waits, or blocks its key."""
        own: dict[str, Any] = {PLACE: record.place}
        if not self._order.by_key:
            own[ORDER_KEY] = record.key
        if due_at < math.inf:
            own[NOT_BEFORE] = round(due_at * MICROSECONDS)
        else:
            own[BLOCKED] = True
            headers = {name: text for name, text in message.headers.items() if name != TRACEBACK}
            message = replace(message, body=b"", content_type=None, headers=headers, properties={})
        return replace(
            message,
            exchange="",
            routing_key=self.waiting_queue(delivery.consumer_tag),
            headers={**message.headers, **own},
        )

    def _record_of(self, delivery: Delivery) -> Waiting | None:
        return self._taken.get((delivery.consumer_tag, delivery.tag))


def _number(delivery: Delivery, name: str) -> int:
    value = delivery.headers.get(name)
    return value if type(value) is int and 0 <= value < MOST_PLACE else 0
