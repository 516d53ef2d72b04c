"""The consumers of a connection, and the messages that were taken from queues for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# The largest number of messages that are claimed (taken from the queue) together for a consumer
# without prefetch.
UNLIMITED_AT_ONCE = 200


@dataclass(slots=True, eq=False)
class ConsumerGroup:
    """The consumers of one channel.

    Attributes:
        shared_prefetch: how many unsettled deliveries the consumers may have together; 0 for no
            limit.
        consumers: the consumers by their tags.
    """

    shared_prefetch: int = 0
    consumers: dict[str, Consumer] = field(default_factory=dict)

    def unsettled_count(self) -> int:
        """Return the number of unsettled deliveries of all consumers."""
        return sum(consumer.unsettled_count for consumer in self.consumers.values())


@dataclass(slots=True, eq=False)
class Consumer:
    """A consumer of a connection, from basic_consume() until its end.

    It ends when it is cancelled, or when its queue or its channel ends.

    Attributes:
        id: the id of the consumer in the broker's tables.
        group: the consumers of the same channel.
        deliver: the method of the channel that calls the callback with a message.
        queue_id: the id of the consumed queue.
        tag: the consumer tag.
        no_ack: whether the consumer does not acknowledge.
        prefetch: how many unsettled deliveries the consumer may have; 0 for no limit.
        single_active: whether only the oldest consumer of the queue gets messages.
        callback: called with each amqp Message; None to ignore messages.
        on_cancel: called with the tag when the queue was deleted; None if there is no callback.
        unsettled_count: the number of the consumer's unsettled deliveries.
        cancelling: whether basic_cancel() is running for the consumer.
    """

    id: int
    group: ConsumerGroup
    deliver: Callable[[Arrival, Consumer], None]
    queue_id: int
    tag: str
    no_ack: bool
    prefetch: int
    single_active: bool
    callback: Callable[[Any], None] | None
    on_cancel: Callable[[str], None] | None
    unsettled_count: int = 0
    cancelling: bool = False

    def free_count(self) -> int:
        """Return how many more messages may be claimed for the consumer, by its prefetch.

        For a consumer without a limit, the number is at most 200.
        """
        if self.no_ack:
            return UNLIMITED_AT_ONCE
        room = self.prefetch - self.unsettled_count if self.prefetch else UNLIMITED_AT_ONCE
        if self.group.shared_prefetch:
            room = min(room, self.group.shared_prefetch - self.group.unsettled_count())
        return max(0, room)


@dataclass(slots=True)
class Arrival:
    """A message that was taken from its queue, and that the program has not received yet.

    Attributes:
        consumer: the consumer whose callback will receive the message. None for a message of
            basic_get(), which returns the message.
        message: the id of the message in the broker's tables.
        returns: how often the message was returned to its queue.
        counted: whether the header x-delivery-count contains `returns`, as on a quorum queue.
        no_ack: whether the delivery is settled already, because its consumer does not acknowledge.
        content: exchange, routing key, properties as JSON, and body; None until they are loaded.
    """

    consumer: Consumer | None
    message: int
    returns: int
    counted: bool
    no_ack: bool
    content: tuple[str, str, str, bytes] | None = None
