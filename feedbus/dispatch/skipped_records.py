"""Count and log the records that a queue with `once = true` skips."""

from __future__ import annotations

from collections import deque

from feedbus.clock import Clock
from feedbus.logs import EventLog
from feedbus.metrics import ConsumerMetrics
from feedbus.records import Records

events = EventLog(__name__)

LOG_INTERVAL_SECONDS = 60.0  # between two log lines


class SkippedRecords:
    """The records that were skipped, because records with their message ids were handled before.

    A repeated delivery is skipped. A new message is skipped, too, if its publisher gave it the id
    of an earlier message by mistake. So skipped records are counted and logged. The dispatch of a
    consumer has one SkippedRecords object.
    """

    def __init__(self, queue: str, metrics: ConsumerMetrics, clock: Clock) -> None:
        """Create the object without records.

        Args:
            queue: the name of the queue.
            metrics: counts the records.
            clock: determines when the next line may be logged.

        """
        self._queue = queue
        self._metrics = metrics
        self._clock = clock
        # Handlers run in several threads with `concurrency`. Each item is the first skipped id of a
        # call, and the number of its skipped records.
        self._reported: deque[tuple[str, int]] = deque()
        self._unlogged = 0
        self._next_log_at = 0.0

    def add(self, records: Records, new_records: Records) -> None:
        """Register the skipped records of a call, if there are any; any thread may call this.

        Args:
            records: the records that were delivered.
            new_records: those of them that were not skipped.

        """
        count = len(records) - len(new_records)
        if count:
            new_ids = set(new_records.ids)
            skipped = (each for each in records.ids if each not in new_ids)
            # If all skipped ids are in new_ids, the call had several records with one id. Then the
            # first id of the call is logged.
            self._reported.append((next(skipped, records.ids[0]), count))

    def report(self) -> None:
        """Count the registered records, and log their number at most once a minute.

        The dispatch calls this in the consumer's thread, before it settles deliveries.
        """
        if not self._reported:
            return
        while self._reported:
            message_id, count = self._reported.popleft()
            self._metrics.skipped(count)
            self._unlogged += count
        now = self._clock.monotonic()
        if now < self._next_log_at:
            return
        events.info(
            "records_skipped",
            "records were skipped, because records with their message ids were handled before; this"
            " is normal for repeated deliveries; each new message needs an id of its own",
            queue=self._queue,
            records=self._unlogged,
            message_id=message_id,
        )
        self._unlogged = 0
        self._next_log_at = now + LOG_INTERVAL_SECONDS
