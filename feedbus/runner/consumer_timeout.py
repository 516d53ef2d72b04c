"""The broker's consumer timeout: how long a delivery may stay unacknowledged."""

from __future__ import annotations

import re

from feedbus.clock import Clock

# Share of the timeout. A delivery that would probably take longer is returned to the broker.
SAFE_SHARE = 0.9
FORGOTTEN_SHARE = 0.9  # factor for the estimate of the duration, after each quick batch
TIMED_OUT = re.compile(r"acknowledgement .*timed out.*?Timeout value used: (\d+) ms", re.DOTALL)


class ConsumerTimeout:
    """The timeout, if it is known, and whether a delivery will probably be settled in time.

    The broker counts the time from the delivery of a message. So a message that only waits in the
    consumer can exceed the timeout, too.
    """

    def __init__(self, seconds: float, clock: Clock) -> None:
        """Create the object with the value in the topology; infinity means no timeout."""
        self.seconds = seconds
        self._clock = clock
        self._slowest_seconds = 0.0  # the longest of the latest batches

    def add_duration(self, seconds: float) -> None:
        """Register how long a batch took."""
        self._slowest_seconds = max(seconds, self._slowest_seconds * FORGOTTEN_SHARE)

    def would_expire(self, arrived_at: float) -> bool:
        """Whether a delivery would probably exceed the timeout, if it were handled now."""
        age = self._clock.monotonic() - arrived_at
        # A delivery that has just arrived is always handled.
        return (
            age > self.seconds * (1 - SAFE_SHARE)
            and age + self._slowest_seconds > self.seconds * SAFE_SHARE
        )

    def learn(self, error: BaseException) -> bool:
        """Return whether the timeout closed a channel; if so, keep the timeout's value."""
        match = TIMED_OUT.search(str(error))
        if match is not None:
            self.seconds = min(self.seconds, int(match[1]) / 1000)
        return match is not None

    def cause_of_cancel(self, took_seconds: float) -> str:
        """Return a text with the probable cause, after the broker has cancelled a subscription.

        RabbitMQ 4.3 gives no reason when it cancels a subscription to a quorum queue. Either the
        consumer timeout is over, or the leader of the queue has moved to another node.
        """
        return (
            f"the broker cancelled the consumer, because handling the message took"
            f" {took_seconds:.0f} s (consumer_timeout)"
        )

    def cause_of_close(self, took_seconds: float) -> str:
        """Return a text: handling a message took this long, and the timeout is shorter."""
        return (
            f"handling the message took {took_seconds:.0f} s, and the broker waits only"
            f" {self.seconds:g} s for an acknowledgement (consumer_timeout)"
        )
