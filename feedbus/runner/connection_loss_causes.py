"""Find out whether the broker closed a connection because a handler call took too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feedbus.runner.consumer_timeout import ConsumerTimeout


@dataclass(frozen=True, slots=True)
class ConnectionLoad:
    """How long the latest handler call kept the connection without heartbeats and settlements.

    The runner uses it to explain, in the log, why the broker has closed the channel or the
    connection.

    Attributes:
        seconds: the duration of the call.
        missed_seconds: the longest time without a heartbeat; 0 if it was shorter than the interval
            of the heartbeats.
        message_ids: the ids of the messages in the handler.

    """

    seconds: float
    missed_seconds: float
    message_ids: Sequence[str]

    def cause(self, timeout: ConsumerTimeout) -> str:
        """Return a text: why the broker has probably closed the channel or the connection.

        The result is "" if the handler call was probably not the cause.

        Args:
            timeout: the broker's consumer timeout.

        """
        if self.seconds >= timeout.seconds:
            return timeout.cause_of_close(self.seconds)
        if self.missed_seconds:
            return (
                f"no heartbeat was sent for {self.missed_seconds:.0f} s, because the handler"
                " blocked all other threads of the process"
            )
        return ""


NO_LOAD = ConnectionLoad(0.0, 0.0, ())  # if no call has returned, or the call raised an outage
