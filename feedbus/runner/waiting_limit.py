"""The checks of the option `waiting_limit`: whether too many records of a consumer wait.

There are two limits, each with the value of the option. One counts the records that wait for their
next attempt, or for earlier records of their keys. The other counts the records that wait for old
queues: the queues of older generations of a ring.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from feedbus.logs import EventLog
from feedbus.topology import Consumer
from feedbus.units import counted

events = EventLog(__name__)

RESUME_SHARE = 0.9  # share of the limit at which a consumer that has reached the limit continues


class WaitingLimit(ABC):
    """Checks whether too many records of one consumer wait, and logs when this changes.

    The limit counts as reached until the number of waiting records has fallen to RESUME_SHARE of
    the limit. If it counted as reached only at the limit itself, the consumer could hold and
    continue after each single record.

    The option `waiting_limit` of the queue sets the limit.
    """

    def __init__(self, consumer: Consumer) -> None:
        """Use the limit of a consumer's queue; it is not reached yet."""
        self._consumer = consumer.name
        self._limit = consumer.queue.waiting_limit
        self.reached = False

    def check(self, count: int) -> bool:
        """Return whether the limit is reached; log if this has changed since the last call.

        The consumer calls this often.

        Args:
            count: the number of records that wait now.

        """
        if self.reached:
            if count <= self._limit * RESUME_SHARE:
                self.reached = False
                self._log_resumed(count)
        elif count >= self._limit:
            self.reached = True
            self._log_reached(count)
        return self.reached

    @abstractmethod
    def _log_reached(self, count: int) -> None:
        """Log that the limit is reached."""

    @abstractmethod
    def _log_resumed(self, count: int) -> None:
        """Log that the limit is not reached any more."""


class RetryLimit(WaitingLimit):
    """The limit of records that wait for their next attempt, or for earlier records of their keys.

    With `block_on_dead`, the dead letters that block a key also count. While the limit is reached,
    the consumer *holds*: it handles only waiting records, and requeued dead letters. Records that
    wait for old queues do not count for this limit. If they did, a consumer that holds because of
    them would never handle the deliveries of the old queues.

    WaitingQueues, the waiting queues of a consumer, has one RetryLimit object.
    """

    def __init__(self, consumer: Consumer, report: Callable[[str], None]) -> None:
        """Create the limit.

        Args:
            consumer: the consumer of the records.
            report: called with the reason when the consumer holds, and with "" when it continues.

        """
        super().__init__(consumer)
        self._report = report
        self._end = "some of them are handled or become dead letters"
        if consumer.queue.block_on_dead:  # then a dead letter counts, too
            self._end = (
                "some of them are handled; for dead letters that block keys, use `feedbus dead"
                " requeue` or `feedbus dead drop`"
            )

    def forget(self) -> None:
        """Forget that the limit was reached, because the waiting records are read again.

        This method is called when the connection is lost: the waiting records are then delivered
        again.
        """
        if self.reached:
            self.reached = False
            self._report("")

    def _log_reached(self, count: int) -> None:
        reason = (
            f"{_records_wait(count)} for earlier records of their keys, and waiting_limit is"
            f" {self._limit}; new records are handled again when {self._end}"
        )
        events.warning(
            "waiting_limit",
            f"{self._consumer} holds: {reason}",
            consumer=self._consumer,
            records=count,
        )
        self._report(reason)

    def _log_resumed(self, count: int) -> None:
        events.info(
            "waiting_resumed",
            f"{self._consumer} continues: only {_records_wait(count)} now",
            consumer=self._consumer,
            records=count,
        )
        self._report("")


class SwitchLimit(WaitingLimit):
    """The limit of records that wait for old queues, those of older generations of a ring.

    While the limit is reached, only the deliveries of the oldest generation are handled.

    SwitchProgress, which tracks the old queues, has one SwitchLimit object.
    """

    def _log_reached(self, count: int) -> None:
        events.warning(
            "switch_limit",
            f"{self._consumer}: after a change of shards, {_records_wait(count)} for old queues of"
            f" their keys, and waiting_limit is {self._limit}; until fewer wait, it reads only its"
            " oldest queues; this ends by itself while all consumers run",
            consumer=self._consumer,
            records=count,
        )

    def _log_resumed(self, count: int) -> None:
        events.info(
            "switch_limit_over",
            f"{self._consumer} reads all its queues again: only {_records_wait(count)} for old"
            " queues of their keys",
            consumer=self._consumer,
            records=count,
        )


def _records_wait(count: int) -> str:
    return counted(count, "record waits", "records wait")
