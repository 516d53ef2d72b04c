"""A record in a waiting queue, and its copies: further messages of the same record.

A failed record waits in a waiting queue for its next attempt. Later records of its key wait in the
same queue until the failed record is handled.

A change of shards creates new queues, a newer generation. Then feedbus moves waiting records to the
waiting queues of the new shards. A record that is moved is published to the new queue, and is then
acknowledged in the old queue. Between these two steps, both queues contain a message of the record.
The message in the newer queue is then a *copy*, and the record still waits in the older queue. If
the record is handled between the two steps, its copy is acknowledged, too. After the second step,
the copy is the record.

If a record fails again, its new message is sent, and then its old message is acknowledged. After a
crash between these two steps, both messages are in the same queue. If the second message arrives
while a handler has the record, this message is a copy, too, until the handler has ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from feedbus.wire import Delivery

DEAD_LETTER_ATTEMPT = -1  # the attempt of a record that is a dead letter
NO_QUEUES: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Arrival:
    """The delivery of a waiting record by its waiting queue.

    Attributes:
        delivery: the decoded properties and the body of the message.
        message: the message as py-amqp returned it, which can be sent to another queue.
        arrived_at: when the message arrived, in seconds of the monotonic clock.

    """

    delivery: Delivery
    message: Any
    arrived_at: float


@dataclass(slots=True, eq=False)
class WaitingRecord:
    """A record that waits for its next attempt, or for earlier records of its key.

    A record can have several messages, most often in different queues. Each WaitingRecord object
    stands for one of these messages. The object of the message in the oldest queue is called the
    record. Its attribute `copy` is the object of the next newer message.

    Attributes:
        key: the ordering key as a text: the routing key or, if `order_by` names a field, the value
            of the field as JSON (or the digest of the JSON, if it has more than 255 characters).
        position: a number. Records of one key are handled in the order of their positions. Records
            of other keys can have the same position. Each generation has a range of positions. The
            position is in the range of the generation whose queue delivered the record first.
        message_id: the id of the record.
        has_own_id: whether the publisher gave the id, so that no other record has the same id.
        attempt: how often the record has failed. The value is DEAD_LETTER_ATTEMPT if the record is
            a dead letter that blocks its key.
        due_at: the earliest time of the next attempt, in seconds since 1970. The value is 0 if the
            record only waits for earlier records, and infinity if the record is a dead letter.
        queue: the waiting queue that contains the message.
        arrival: the delivery of the message. The value is None if the message has not been
            delivered yet, or was returned to the broker.
        is_taken: whether the record was taken to be handled, and its result is not known yet.
        awaited_queues: the queues of older generations that must be deleted before the record may
            be handled.
        generation_number: the number of the generation that the waiting queue belongs to. After the
            record was moved, this generation is newer than the generation of its position.
        copy: the next newer message of the same record; None if there is none. This message is in
            the waiting queue of a newer generation, or has arrived in the same queue while a
            handler had the record.

    """

    key: str
    position: int
    message_id: str
    has_own_id: bool = True
    attempt: int = 0
    due_at: float = 0.0
    queue: str = ""
    arrival: Arrival | None = None
    is_taken: bool = False
    awaited_queues: frozenset[str] = NO_QUEUES
    generation_number: int = 0
    copy: WaitingRecord | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the record may be handled when it is due and is the first record of its key.

        Three conditions must be true: the broker has delivered the message of the record, no
        handler has the record now, and the record does not wait for older queues.
        """
        return self.arrival is not None and not self.is_taken and not self.awaited_queues

    @property
    def is_dead_letter(self) -> bool:
        """Whether the record is a dead letter that blocks its key (`block_on_dead`)."""
        return self.attempt == DEAD_LETTER_ATTEMPT

    def with_copies(self) -> Iterator[WaitingRecord]:
        """Yield the record and its copies: one object for each message, oldest first."""
        each: WaitingRecord | None = self
        while each is not None:
            yield each
            each = each.copy

    def with_message(self, message: WaitingRecord) -> WaitingRecord:
        """Combine this message with another message of the same record.

        WaitingRecords calls this when a waiting queue delivers a second message of a known record.

        Args:
            message: the other message. It is in the waiting queue of another generation, or has
                arrived in the same queue while a handler had the record.

        Returns:
            The message of the older generation. It represents the record from now on, and the other
            one is its copy.

        """
        if message.generation_number < self.generation_number:
            message.copy = self
            return message
        self.copy = message if self.copy is None else self.copy.with_message(message)
        return self

    def without_message(self, message: WaitingRecord) -> WaitingRecord | None:
        """Remove one message of a record, because this message has left its waiting queue.

        Args:
            message: the message to remove: the one that represents the record, or one of its
                copies.

        Returns:
            The message of the oldest generation that remains. It represents the record from now on.
            None if no message remains.

        """
        if self is message:
            remaining, self.copy = self.copy, None
            return remaining
        if self.copy is not None:
            self.copy = self.copy.without_message(message)
        return self

    def replace_arrival(self, message: WaitingRecord) -> Arrival | None:
        """Keep one of two messages of this record that are in the same queue.

        If a record fails again, its new message is sent, and then its old message is acknowledged.
        If the process crashes between these two steps, both messages are in the queue.

        The message with the later attempt is kept. If both messages have the same attempt, the
        message that arrived first is kept.

        Args:
            message: the message that arrived last.

        Returns:
            The arrival of the message that is not kept, which must be acknowledged. The result is
            None if only one message has arrived.

        """
        is_newer = message.attempt > self.attempt
        if not is_newer and (message.attempt < self.attempt or self.arrival is not None):
            return message.arrival
        replaced = self.arrival
        self.attempt, self.due_at, self.arrival = message.attempt, message.due_at, message.arrival
        return replaced
