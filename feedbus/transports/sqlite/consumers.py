"""A consumer of this connection, and a claimed message on its way to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feedbus.transports.sqlite.consuming import Consuming

UNLIMITED_AT_ONCE = 200  # claimed in one go for a consumer without prefetch


@dataclass(slots=True, eq=False)
class Consumer:
    """A consumer of this connection and how many deliveries it holds."""

    id: int
    channel: Consuming
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
        if self.channel.shared_prefetch:
            room = min(room, self.channel.shared_prefetch - self.channel.held())
        return max(0, room)


@dataclass(slots=True)
class Arrival:
    """A claimed message on its way to a consumer's callback."""

    consumer: Consumer | None  # None for basic_get
    message: int
    returns: int
    counted: bool  # whether a header tells how often it came back, as on a quorum queue
    settled: bool  # needs no ack
    content: tuple[str, str, str, bytes] | None = None
