"""One queue being read, and what it takes to end it: everything before its fence is settled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amqp.exceptions import AccessRefused


@dataclass(slots=True)
class Reading:
    """A subscription to one queue, on a channel of its own: its refusal costs no other."""

    queue: str
    tag: str
    channel: Any
    fenced: bool = False
    fence_tag: int | None = None

    @classmethod
    def begin(  # noqa: PLR0913 -- a subscription's parts, each given by name
        cls,
        connection: Any,
        queue: str,
        *,
        tag: str,
        prefetch: int,
        exclusive: bool,
        on_message: Callable[[Any], None],
        on_cancel: Callable[[str], None],
    ) -> Reading | None:
        """Subscribe to a queue; None when it has to be had alone and somebody has it."""
        channel = connection.channel()
        channel.auto_decode = False
        channel.basic_qos(0, prefetch, False)
        try:
            channel.basic_consume(
                queue,
                consumer_tag=tag,
                exclusive=exclusive,
                callback=on_message,
                on_cancel=on_cancel,
            )
        except AccessRefused as error:
            if "exclusive" not in str(error.reply_text):
                raise  # it may not read the queue
            if channel.is_open:
                channel.close()
            return None
        return cls(queue, tag, channel)

    def settle(self, delivery_tag: int) -> None:
        """Acknowledge all deliveries up to one."""
        self.channel.basic_ack(delivery_tag, multiple=True)
        if self.fence_tag is not None and self.fence_tag <= delivery_tag:
            self.fence_tag = None

    def pass_fence(self, delivery_tag: int) -> None:
        """Note that everything before a fence is settled.

        The fence itself is not, but goes with the queue: who is killed just before leaves it
        there for the next.
        """
        self.fenced, self.fence_tag = True, delivery_tag

    def end(self, in_hand: Callable[[], bool]) -> bool:
        """Delete a queue that was read to its fence; False when more comes behind it.

        Args:
            in_hand: whether deliveries of this queue wait to be handled.

        """
        # What was on its way to us when the broker answered first has come when it answers again.
        for _ in range(2):
            if in_hand():
                return False
            if self._ready():
                # Another fence, of a switch that was begun anew; with a prefetch of one it waits
                # for this one to be settled.
                if self.fence_tag is not None:
                    self.settle(self.fence_tag)
                return False
        if in_hand():
            return False
        self.channel.queue_delete(self.queue, if_empty=True)
        self.close()
        return True

    def close(self) -> None:
        """Give back what is not settled."""
        if self.channel.is_open:
            self.channel.close()

    def _ready(self) -> int:
        return int(self.channel.queue_declare(self.queue, passive=True).message_count)
