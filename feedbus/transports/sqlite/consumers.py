"""A consumer of this connection, and a claimed message on its way to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

UNLIMITED_AT_ONCE = 200  # claimed in one go for a consumer without prefetch


@dataclass(slots=True, eq=False)
class ConsumerGroup:
    """The consumers of one channel by their tags, and the prefetch that they share; 0 is none."""

    shared_prefetch: int = 0
    consumers: dict[str, Consumer] = field(default_factory=dict)

    def held(self) -> int:
        """Return how many deliveries they hold together."""
        return sum(consumer.held for consumer in self.consumers.values())


@dataclass(slots=True, eq=False)
class Consumer:
    """A consumer of this connection and how many deliveries it holds."""

    id: int
    group: ConsumerGroup
    deliver: Callable[[Arrival, Consumer], None]  # to its channel, which calls the callback
    queue_id: int
    tag: str
    no_ack: bool
    prefetch: int
    single_active: bool
    callback: Callable[[Any], None] | None
    on_cancel: Callable[[str], None] | None
    held: int = 0
    cancelling: bool = False

    def room(self) -> int:
        """Return how many more deliveries it may hold."""
        if self.no_ack:
            return UNLIMITED_AT_ONCE
        room = self.prefetch - self.held if self.prefetch else UNLIMITED_AT_ONCE
        if self.group.shared_prefetch:
            room = min(room, self.group.shared_prefetch - self.group.held())
        return max(0, room)


@dataclass(slots=True)
class Arrival:
    """A claimed message on its way to a consumer's callback."""

    consumer: Consumer | None  # None for basic_get
    message: int
    returns: int
    counted: bool  # whether a header counts how often it came back, as on a quorum queue
    settled: bool  # needs no ack
    content: tuple[str, str, str, bytes] | None = None
