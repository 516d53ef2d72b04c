"""The consumers of a connection, and their claimed messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# The number of messages that are claimed together, for a consumer without prefetch.
UNLIMITED_AT_ONCE = 200


@dataclass(slots=True, eq=False)
class ConsumerGroup:
    """The consumers of one channel by tag, with their common prefetch (0: no limit)."""

    shared_prefetch: int = 0
    consumers: dict[str, Consumer] = field(default_factory=dict)

    def unsettled_count(self) -> int:
        """Return the number of unsettled deliveries of all consumers."""
        return sum(consumer.unsettled_count for consumer in self.consumers.values())


@dataclass(slots=True, eq=False)
class Consumer:
    """A consumer of this connection.

    Attributes:
        group: the consumers of the same channel.
        deliver: the method of the channel that calls the callback with a message.
        on_cancel: called with the tag when the queue was deleted.
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
        """Return how many more unsettled deliveries the consumer may have."""
        if self.no_ack:
            return UNLIMITED_AT_ONCE
        room = self.prefetch - self.unsettled_count if self.prefetch else UNLIMITED_AT_ONCE
        if self.group.shared_prefetch:
            room = min(room, self.group.shared_prefetch - self.group.unsettled_count())
        return max(0, room)


@dataclass(slots=True)
class Arrival:
    """A claimed message that the consumer's callback has not received yet.

    Attributes:
        consumer: the consumer that receives the message; None for basic_get().
        message: the id of the message.
        returns: how often the message was returned to its queue.
        counted: whether a header of the message contains `returns`, as on a quorum queue.
        no_ack: whether the delivery is settled already, because its consumer does not acknowledge.
        content: exchange, routing key, properties and body; None until they are loaded.

    """

    consumer: Consumer | None
    message: int
    returns: int
    counted: bool
    no_ack: bool
    content: tuple[str, str, str, bytes] | None = None
