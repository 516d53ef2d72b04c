"""The series of a metric: its numbers in the metric file of a process.

A metric has a series of numbers for each combination of label values, such as a consumer and a
verdict.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_left

from feedbus.metrics.catalogue import Family
from feedbus.metrics.counter_file import Counts

LONGEST_SECONDS = 366 * 86400.0  # a longer time is counted as this time


class Series:
    """The numbers of one metric for one set of label values.

    Series is the base class of Counter and Histogram.
    """

    __slots__ = ("_lock", "_numbers")

    def __init__(self, counts: Counts, family: Family, *labels: str) -> None:
        """Create the series with 0, or continue with the numbers of the metric file.

        Args:
            counts: the numbers of the process, in a file or in memory.
            family: the metric.
            labels: the values of its labels, in the order of the catalogue.

        """
        self._numbers = counts.numbers(series_key(family, labels), family.length)
        self._lock: threading.Lock = counts.lock


class Counter(Series):
    """A series of one number that only grows."""

    __slots__ = ()

    def add(self, amount: float) -> None:
        """Add an amount, which is not negative."""
        with self._lock:
            self._numbers[0] += amount


class Histogram(Series):
    """A series with the number of observations in each bucket, and the sum of the values."""

    __slots__ = ("_bounds",)

    def __init__(self, counts: Counts, family: Family, *labels: str) -> None:
        """Create the series with 0, or continue with the numbers of the metric file.

        Args:
            counts: the numbers of the process, in a file or in memory.
            family: the metric, with the bounds of its buckets.
            labels: the values of its labels, in the order of the catalogue.

        """
        super().__init__(counts, family, *labels)
        self._bounds = family.bounds

    def observe(self, value: float, count: int = 1) -> None:
        """Count observations of one value.

        Args:
            value: the observed value.
            count: the number of observations.

        """
        # A measured time can be negative or very large: the clocks of two machines can differ, and
        # a header can contain any time.
        value = min(max(0.0, value), LONGEST_SECONDS)
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            self._numbers[bucket] += count
            self._numbers[-1] += value * count


def series_key(family: Family, labels: tuple[str, ...]) -> str:
    """Return the key of a series in a metric file: JSON of the metric's name and label values.

    Args:
        family: the metric.
        labels: the values of its labels, in the order of the catalogue.

    """
    return json.dumps([family.name, *labels], separators=(",", ":"))
