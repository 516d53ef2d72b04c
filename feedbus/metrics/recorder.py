"""The metrics that one process counts.

A process has a metric file, so its counters continue after a restart.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from feedbus.errors import OutagePart
from feedbus.logs import EventLog
from feedbus.metrics import catalogue
from feedbus.metrics.catalogue import (
    LIMITS,
    OUTAGE_PARTS,
    OUTCOMES,
    RECORDED,
    VERDICTS,
    Family,
    Limit,
    Outcome,
    Verdict,
)
from feedbus.metrics.counter_file import Counts
from feedbus.metrics.series import Counter, Histogram, series_key
from feedbus.process.private_files import private_folder

events = EventLog("feedbus.metrics")


class Metrics:
    """Counts the metrics of one process, which has one Metrics object; threads may share it."""

    def __init__(self, counts: Counts) -> None:
        """Create the metrics; callers usually call open() or none().

        Args:
            counts: the counters, in a file or in memory.

        """
        self._counts = counts
        self._consumers: dict[str, ConsumerMetrics] = {}
        self._published: dict[tuple[str, str], Counter] = {}
        self._blocked: Counter | None = None
        self._schedules: dict[str, ScheduleMetrics] = {}

    @classmethod
    def open(cls, directory: Path, process: str) -> Self:
        """Return metrics that count in a file of the process.

        If the directory cannot be written to, this is logged, and the metrics are only in memory.

        Args:
            directory: the directory with the metric files of all processes of a system. If it is
                missing, it is created with the mode 0700.
            process: a name that is the same after a restart, such as "mail.1": the consumer and the
                number of the process among the consumer's processes.

        Raises:
            NotPrivate: another user owns the directory or the file, or may write to the directory.

        """
        try:
            return cls(Counts.claim(private_folder(directory), process))
        except OSError as error:
            events.warning(
                "no_metrics",
                f"the metric files of {process} cannot be written: {error}; the process runs"
                " without metrics; make the folder writable and restart the process",
                process=process,
            )
            return cls.none()

    @classmethod
    def none(cls) -> Self:
        """Return metrics that count only in memory, for tests and tools."""
        return cls(Counts())

    def consumer(self, name: str) -> ConsumerMetrics:
        """Return the object that counts the metrics of a consumer.

        All series of the consumer exist from the start. The same object is returned for each call
        with the same name.

        Args:
            name: the name of the consumer.

        """
        known = self._consumers.get(name)
        if known is None:
            known = self._consumers.setdefault(name, ConsumerMetrics(self._counts, name))
        return known

    def schedule(self, name: str) -> ScheduleMetrics:
        """Return the object that counts the metrics of a schedule.

        All series of the schedule exist from the start. The same object is returned for each call
        with the same name.

        Args:
            name: the name of the schedule.

        """
        known = self._schedules.get(name)
        if known is None:
            known = self._schedules.setdefault(name, ScheduleMetrics(self._counts, name))
        return known

    def published(self, exchange: str, outcome: Outcome, count: int = 1) -> None:
        """Count published records by what the broker answered.

        A call with the count 0 creates the series of the exchange, before anything is published.

        Args:
            exchange: the name of the exchange in topology.toml.
            outcome: the answer of the broker: "confirmed"; "returned", because no queue matched;
                "nacked", because the broker refused the record; "unconfirmed", because no answer
                came.
            count: the number of records.

        """
        known = self._published.get((exchange, outcome))
        if known is None:
            for each in OUTCOMES:
                labels = (exchange, each)
                self._published[labels] = Counter(self._counts, catalogue.PUBLISHED, *labels)
            known = self._published[exchange, outcome]
        known.add(count)

    def publisher_blocked(self, seconds: float) -> None:
        """Count the time for which the broker has blocked a publisher, in seconds."""
        if self._blocked is None:
            self._blocked = Counter(self._counts, catalogue.BLOCKED)
        self._blocked.add(max(0.0, seconds))

    def value(self, name: str, *labels: str) -> float:
        """Return a counter, or the number of observations of a histogram; for tests and tools.

        Args:
            name: the name of the metric.
            labels: the values of its labels, in the order of the catalogue.

        Returns:
            The present value; 0 if nothing was counted yet.

        """
        numbers = self._counts.read().get(series_key(RECORDED[name], labels), (0.0,))
        return sum(numbers[:-1]) if RECORDED[name].kind == "histogram" else numbers[0]

    def close(self) -> None:
        """Release the metric file when the process ends; its values are kept.

        The next process of this name continues to count in it.
        """
        self._counts.close()

    def __enter__(self) -> Self:
        """Return the metrics; the end of the `with` statement closes them."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the metrics."""
        self.close()


class ConsumerMetrics:
    """Counts the metrics of one consumer in its process; a call takes less than a microsecond."""

    def __init__(self, counts: Counts, name: str) -> None:
        """Create every series with 0, so that rates are correct from the first event.

        Args:
            counts: the counters.
            name: the name of the consumer.

        """

        def by(family: Family, values: tuple[str, ...]) -> dict[str, Counter]:
            return {value: Counter(counts, family, name, value) for value in values}

        self._deliveries = by(catalogue.DELIVERIES, VERDICTS)
        self._records = by(catalogue.RECORDS, VERDICTS)
        self._outages = by(catalogue.OUTAGES, OUTAGE_PARTS)
        self._held = by(catalogue.HELD, OUTAGE_PARTS)
        self._dropped = by(catalogue.DROPPED, LIMITS)
        self._unidentified = Counter(counts, catalogue.UNIDENTIFIED, name)
        self._taken_for_repeats = Counter(counts, catalogue.TAKEN_FOR_REPEATS, name)
        self._skipped = Counter(counts, catalogue.SKIPPED, name)
        self._redelivered = Counter(counts, catalogue.REDELIVERIES, name)
        self._loop_blocked = Counter(counts, catalogue.LOOP_BLOCKED, name)
        self._misplaced = Counter(counts, catalogue.MISPLACED, name)
        self._handling = Histogram(counts, catalogue.HANDLING, name)
        self._batch = Histogram(counts, catalogue.BATCH, name)
        self._lag = Histogram(counts, catalogue.LAG, name)
        self._age = Histogram(counts, catalogue.AGE, name)

    def settled(self, verdict: Verdict, deliveries: int = 1, records: int = 1) -> None:
        """Count deliveries that were settled with one verdict, and the records in them.

        Args:
            verdict: the verdict: "ack", "reject", "retry", "dead_letter", "invalid" or "drop".
            deliveries: the number of deliveries.
            records: the number of records in these deliveries.

        """
        self._deliveries[verdict].add(deliveries)
        self._records[verdict].add(records)

    def handled(self, seconds: float, records: int = 1) -> None:
        """Count the handling of one batch, and its records.

        Args:
            seconds: the time from the decoding of the batch to the confirms of its messages; with
                `concurrency` above 1, the duration of one call of the handler.
            records: the number of records.

        """
        self._handling.observe(seconds)
        self._batch.observe(records)

    def lag(self, seconds: float, count: int = 1) -> None:
        """Count deliveries by the time from the sending of the message to its settlement.

        Args:
            seconds: this time.
            count: the number of deliveries with this time.

        """
        self._lag.observe(seconds, count)

    def age(self, seconds: float) -> None:
        """Count a settled retry or requeued message by its age.

        Args:
            seconds: the time since the message was first published.

        """
        self._age.observe(seconds)

    def redelivered(self, deliveries: int = 1) -> None:
        """Count deliveries that the broker has delivered before.

        Args:
            deliveries: their number.

        """
        self._redelivered.add(deliveries)

    def taken_for_repeats(self, deliveries: int = 1) -> None:
        """Count redelivered messages without ids, skipped because an equal one was handled.

        Args:
            deliveries: their number.

        """
        self._taken_for_repeats.add(deliveries)

    def skipped(self, records: int = 1) -> None:
        """Count records that a queue with `once = true` skipped, because they were handled before.

        Args:
            records: their number.

        """
        self._skipped.add(records)

    def unidentified(self, deliveries: int = 1) -> None:
        """Count deliveries whose publisher gave no message id.

        Args:
            deliveries: their number.

        """
        self._unidentified.add(deliveries)

    def dropped(self, limit: Limit, dead_letters: int = 1) -> None:
        """Count dead letters that were deleted because of a limit of `dead_letters`.

        Args:
            limit: "max_age" or "max_length".
            dead_letters: their number.

        """
        self._dropped[limit].add(dead_letters)

    def misplaced(self, deliveries: int = 1) -> None:
        """Count deliveries with records that belong to another shard.

        Args:
            deliveries: their number.

        """
        self._misplaced.add(deliveries)

    def loop_blocked(self, seconds: float) -> None:
        """Count time for which an async handler blocked the event loop, in seconds."""
        self._loop_blocked.add(seconds)

    def outage(self, part: OutagePart) -> None:
        """Count one outage, when it begins.

        Args:
            part: what is unavailable: "broker", "store" or "handler" (a service that the handler
                needs).

        """
        self._outages[part].add(1)

    def held(self, part: OutagePart, seconds: float) -> None:
        """Add the duration of one pause of the consumer in an outage, which can have many pauses.

        Args:
            part: what is unavailable: "broker", "store" or "handler" (a service that the handler
                needs).
            seconds: the duration.

        """
        self._held[part].add(max(0.0, seconds))


class ScheduleMetrics:
    """Counts the metrics of one schedule in the operations process."""

    def __init__(self, counts: Counts, name: str) -> None:
        """Create every series with 0."""
        self._fired = Counter(counts, catalogue.SCHEDULE_FIRED, name)
        self._lateness = Histogram(counts, catalogue.SCHEDULE_LATENESS, name)

    def fired(self, late_seconds: float) -> None:
        """Count one firing, and how late it was.

        Args:
            late_seconds: the time from the moment of the schedule to its firing.

        """
        self._fired.add(1)
        self._lateness.observe(late_seconds)
