"""Count settled deliveries and their records by verdict, and measure their lag and age.

A delivery can have records with different verdicts, but it is counted only once. Its verdict is
"ack" if at least one of its records is acknowledged, otherwise the verdict of its first failed
record. A delivery is not counted yet if all its records wait for earlier records of their keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from feedbus.clock import Clock
from feedbus.dispatch.decoded_deliveries import DecodedDelivery
from feedbus.metrics import ConsumerMetrics
from feedbus.wire import Delivery
from feedbus.wire.constants import PACK


class SettledCounts:
    """Updates the metrics of one consumer for deliveries that are about to be acknowledged.

    The dispatch of a consumer has one SettledCounts object.
    """

    def __init__(self, metrics: ConsumerMetrics, clock: Clock) -> None:
        """Create the object; the clock determines how long ago a message was sent."""
        self._metrics = metrics
        self._clock = clock

    def add(self, decoded_deliveries: Sequence[DecodedDelivery]) -> None:
        """Count deliveries whose retries and dead letters have been sent.

        The dispatch calls this before the deliveries are acknowledged.

        Args:
            decoded_deliveries: the deliveries, with the decisions on their failed records.

        """
        now = self._clock.wall_nanoseconds() // 1000
        acknowledged_deliveries = acknowledged_records = 0
        for decoded in decoded_deliveries:
            acknowledged, delivery_verdict = len(decoded.pack), "ack"
            if decoded.decisions:
                failed = Counter(
                    decision.verdict for decision in decoded.decisions if decision.verdict != "wait"
                )
                waiting = sum(decision.verdict == "wait" for decision in decoded.decisions)
                # A delivery that was not decoded has no records, but a decision: hence max().
                acknowledged = max(acknowledged - failed.total() - waiting, 0)
                if waiting and not acknowledged and not failed:
                    # All records were sent to the waiting queue, or are in it already. They are
                    # counted when they are handled.
                    continue
                delivery_verdict = "ack" if acknowledged else next(iter(failed))
                for verdict, count in failed.items():
                    self._metrics.settled(verdict, int(verdict == delivery_verdict), count)
            acknowledged_deliveries += delivery_verdict == "ack"
            acknowledged_records += acknowledged
            self._count_time(decoded.delivery, now)
            if not decoded.delivery.identified and decoded.delivery.content_type != PACK:
                self._metrics.unidentified()
            if decoded.delivery.redelivered:
                self._metrics.redelivered(1)
        self._metrics.settled("ack", acknowledged_deliveries, acknowledged_records)

    def _count_time(self, delivery: Delivery, now_microseconds: int) -> None:
        """Measure the lag, the time since the message was sent.

        For a retry or a requeued dead letter, also measure the time since the first publication.
        """
        lag = delivery.lag_seconds(now_microseconds)
        if lag is not None:
            self._metrics.lag(lag)
        if delivery.sent_again:
            age = delivery.age_seconds(now_microseconds)
            if age is not None:
                self._metrics.age(age)
