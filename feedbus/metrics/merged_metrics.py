"""The merged metrics of all processes, for Prometheus and for `feedbus status`."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from feedbus.logs import EventLog
from feedbus.metrics.catalogue import (
    DELIVERIES,
    DROPPED,
    GAUGES,
    LAG,
    RECORDED,
    RECORDS,
    UNREADABLE,
    Family,
)
from feedbus.metrics.counter_file import SUFFIX, UNREADABLE_SUFFIX, read_file

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# The series of one metric: maps the values of the labels to the numbers, summed over all processes.
Series = dict[tuple[str, ...], list[float]]

events = EventLog("feedbus.metrics")


def exposition(directory: Path, gauges: Mapping[str, Mapping[str, float]] | None = None) -> bytes:
    """Return the metrics of all processes in Prometheus's text format.

    If a file cannot be read, only its values are missing. The error is logged once, and the file is
    counted in feedbus_metric_files_unreadable.

    Args:
        directory: the directory of the metric files.
        gauges: current values, by metric and label value, such as {"feedbus_queue_messages":
            {"update_feed_3": 12}}. Every metric must be in GAUGES of the catalogue.

    """
    from prometheus_client.exposition import generate_latest
    from prometheus_client.registry import Collector, CollectorRegistry

    merged, unreadable = _merge(directory)
    families = [
        *(_recorded(RECORDED[name], series) for name, series in sorted(merged.items())),
        *(
            _gauge(GAUGES[name], (((label,), value) for label, value in values.items()))
            for name, values in (gauges or {}).items()
        ),
        _gauge(UNREADABLE, [((), unreadable)]),
    ]

    class Merged(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from families

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Merged())
    return generate_latest(registry)


def totals(directory: Path) -> dict[str, dict[str, int]]:
    """Return how many records have been settled, by consumer and verdict.

    Args:
        directory: the directory of the metric files; the values of all files are added.

    """
    merged, _ = _merge(directory)
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for (consumer, verdict), (count,) in sorted(merged.get(RECORDS.name, {}).items()):
        found[consumer][verdict] = int(count)
    return dict(found)


@dataclass(frozen=True, slots=True)
class Settled:
    """How many records a consumer has settled, and the lag of the settled deliveries.

    The lag of a delivery is the time from the sending of the message to its settlement.

    Attributes:
        records: the number of settled records.
        lag_seconds: the sum of the lags of the settled deliveries.
        lag_count: the number of deliveries in this sum.

    """

    records: int = 0
    lag_seconds: float = 0.0
    lag_count: int = 0


def settled(directory: Path) -> dict[str, Settled]:
    """Return how many records each consumer has settled, and the lag, by the consumer's name.

    Args:
        directory: the directory of the metric files; the values of all files are added.

    """
    merged, _ = _merge(directory)
    records: Counter[str] = Counter()
    for (consumer, _verdict), (count,) in merged.get(RECORDS.name, {}).items():
        records[consumer] += int(count)
    lags = {
        consumer: (total, int(sum(buckets)))
        for (consumer,), (*buckets, total) in merged.get(LAG.name, {}).items()
    }
    return {name: Settled(records[name], *lags.get(name, (0.0, 0))) for name in records}


def dropped_dead_letters(directory: Path) -> dict[str, int]:
    """Return how many dead letters each consumer has deleted because of max_age or max_length.

    Args:
        directory: the directory of the metric files; the values of all files are added.

    """
    return _count_by_consumer(directory, DROPPED.name)


def deliveries(directory: Path) -> dict[str, int]:
    """Return how many deliveries each consumer has settled.

    Args:
        directory: the directory of the metric files; the values of all files are added.

    """
    return _count_by_consumer(directory, DELIVERIES.name)


def _count_by_consumer(directory: Path, metric: str) -> dict[str, int]:
    """Return the value of a counter for each consumer, by the consumer's name.

    Args:
        directory: the directory of the metric files; the values of all files are added.
        metric: the name of the counter. It has two labels: the first is `consumer`. The values of
            all series that differ only in the second label are added.

    """
    merged = _merge(directory)[0]
    counts: dict[str, int] = defaultdict(int)
    for (consumer, _), (count,) in merged.get(metric, {}).items():
        counts[consumer] += int(count)
    return dict(counts)


def _merge(directory: Path) -> tuple[dict[str, Series], int]:
    """Return the series of all metric files by metric, and the number of unreadable files.

    The unreadable files include the damaged files that a process has renamed at its start.
    """
    merged: dict[str, Series] = defaultdict(dict)
    unreadable = sum(1 for _ in directory.glob(f"*{SUFFIX}{UNREADABLE_SUFFIX}"))
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            found = [(*_parse(key), numbers) for key, numbers in read_file(path)]
        except (OSError, ValueError) as error:
            unreadable += 1
            _log_once(path, str(error))
            continue
        for name, labels, numbers in found:
            family = RECORDED.get(name)
            # A file can have series of another version of feedbus, in which the metric did not
            # exist, or had other labels or buckets. They are left out.
            if family is None or (len(labels), len(numbers)) != (len(family.labels), family.length):
                continue
            sums = merged[name].setdefault(labels, [0.0] * family.length)
            sums[:] = [one + other for one, other in zip(sums, numbers, strict=True)]
    return merged, unreadable


def _parse(key: str) -> tuple[str, tuple[str, ...]]:
    """Return the name of the metric and the values of its labels from a key in a metric file."""
    parts = json.loads(key)
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts) or not parts:
        msg = f"expected a series, got {key}"
        raise ValueError(msg)
    return parts[0], tuple(parts[1:])


def _recorded(family: Family, series: Series) -> Metric:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    if family.kind == "counter":
        counter = CounterMetricFamily(family.name, family.meaning, labels=family.labels)
        for labels, (value,) in sorted(series.items()):
            counter.add_metric(labels, value)
        return counter
    histogram = HistogramMetricFamily(family.name, family.meaning, labels=family.labels)
    ends = [*(str(bound) for bound in family.bounds), "+Inf"]
    for labels, (*buckets, total) in sorted(series.items()):
        histogram.add_metric(labels, list(zip(ends, accumulate(buckets), strict=True)), total)
    return histogram


def _gauge(family: Family, values: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    gauge = GaugeMetricFamily(family.name, family.meaning, labels=family.labels)
    for labels, value in values:
        gauge.add_metric(labels, value)
    return gauge


@lru_cache(maxsize=1000)  # a second call with the same arguments does nothing
def _log_once(path: Path, reason: str) -> None:
    events.warning(
        "metrics_unreadable",
        f"a metric file cannot be read: {reason}; its metrics are missing from /metrics; correct"
        " its permissions, or delete a damaged file and restart its process",
        file=path,
    )
