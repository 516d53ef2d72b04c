"""The broker's consumer timeout: how long a delivery may stay unacknowledged."""

from __future__ import annotations

import re

from feedbus.clock import Clock

# A delivery should be settled before it is older than this share of the timeout. If it would
# probably be settled later, it is returned to the broker, unless it has only just arrived.
SAFE_SHARE = 0.9
# The next batch is expected to take as long as the slowest batch so far. Each quicker batch
# multiplies this estimate by FORGOTTEN_SHARE.
FORGOTTEN_SHARE = 0.9
TIMED_OUT = re.compile(r"acknowledgement .*timed out.*?Timeout value used: (\d+) ms", re.DOTALL)


class ConsumerTimeout:
    """The broker's consumer timeout, and whether a delivery will probably be settled in time.

    The consumer timeout is the longest time that a delivery may stay unacknowledged. After this
    time, the broker closes the channel or cancels the subscription. The time begins with the
    delivery of the message. So a message that only waits in the consumer can exceed the timeout,
    too.

    A run has one ConsumerTimeout object. Its attribute `seconds` is infinity as long as the timeout
    is not known.
    """

    def __init__(self, seconds: float, clock: Clock) -> None:
        """Create the object with the value in the topology; infinity means no known timeout."""
        self.seconds = seconds
        self._clock = clock
        self._expected_seconds = 0.0  # the expected duration of the next batch

    def add_duration(self, seconds: float) -> None:
        """Register how long a batch took.

        This method is called after each batch. would_expire() uses the duration for the next batch.

        Args:
            seconds: the time from the start of the batch to its settlement.

        """
        self._expected_seconds = max(seconds, self._expected_seconds * FORGOTTEN_SHARE)

    def would_expire(self, arrived_at: float) -> bool:
        """Whether a delivery would probably exceed the timeout, if it were handled now.

        Then the runner returns its deliveries to the broker instead.

        Args:
            arrived_at: when the delivery arrived, as a time of the monotonic clock.

        """
        age = self._clock.monotonic() - arrived_at
        # A delivery that arrived less than a tenth of the timeout ago is always handled. Otherwise,
        # after one very slow batch, each delivery would be returned to the broker again and again.
        return (
            age > self.seconds * (1 - SAFE_SHARE)
            and age + self._expected_seconds > self.seconds * SAFE_SHARE
        )

    def may_have_expired(self, call_seconds: float) -> bool:
        """Whether a handler call took so long that the timeout may have expired.

        The broker counts the time from the delivery, which is earlier than the call. So a call that
        is a little shorter than the timeout can exceed it, too.

        Args:
            call_seconds: the duration of the call.

        """
        return call_seconds >= self.seconds * SAFE_SHARE

    def learn(self, error: BaseException) -> bool:
        """Return whether the consumer timeout was the cause of a closed channel.

        If it was, the broker's error contains the timeout. From now on, this object uses
        that value, unless its present value is lower.

        Args:
            error: the exception with which the broker closed the channel.

        """
        match = TIMED_OUT.search(str(error))
        if match is not None:
            self.seconds = min(self.seconds, int(match[1]) / 1000)
        return match is not None

    def cause_of_cancel(self, took_seconds: float) -> str:
        """Return a text with the probable cause, after the broker has cancelled a subscription.

        RabbitMQ 4.3 gives no reason when it cancels a subscription to a quorum queue. Either the
        consumer timeout has expired, or the leader of the queue has moved to another node.

        Args:
            took_seconds: how long the handling of a message took.

        """
        return (
            f"the broker cancelled the consumer, probably because handling the message took"
            f" {took_seconds:.0f} s (consumer_timeout)"
        )

    def cause_of_close(self, took_seconds: float) -> str:
        """Return a text for the log: the handling took longer than the broker's consumer timeout.

        The text is used when the broker has closed the channel of a slow handler.

        Args:
            took_seconds: how long the handling of a message took.

        """
        return (
            f"handling the message took {took_seconds:.0f} s, and the broker waits only"
            f" {self.seconds:g} s for an acknowledgement (consumer_timeout)"
        )
