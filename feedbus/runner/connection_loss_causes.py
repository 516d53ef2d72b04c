"""Why the latest call of a handler can have closed the connection: too long without a heartbeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feedbus.runner.consumer_timeout import ConsumerTimeout


@dataclass(frozen=True, slots=True)
class ConnectionLoad:
    """The load of the latest call on its connection.

    Attributes:
        seconds: the duration of the call.
        missed_seconds: the time without a heartbeat; 0 if it was shorter than an interval.
        message_ids: the ids of the messages in the handler.

    """

    seconds: float
    missed_seconds: float
    message_ids: Sequence[str]

    def cause(self, timeout: ConsumerTimeout) -> str:
        """Return why the broker may have closed the channel or connection, or ""."""
        if self.seconds >= timeout.seconds:
            return timeout.exceeded(self.seconds)
        if self.missed_seconds:
            return (
                f"no heartbeat was sent for {self.missed_seconds:.0f} s, because the handler"
                " blocked all other threads of the process"
            )
        return ""


NONE = ConnectionLoad(0.0, 0.0, ())
