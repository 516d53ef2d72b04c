"""How many records fit into a time, from the durations of earlier batches."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from feedbus.runner.batch_durations import BatchDurations


def after(durations: Callable[[int], float], sizes: list[int]) -> BatchDurations:
    """Return the estimate after batches of these sizes."""
    known = BatchDurations()
    for size in sizes:
        known.add(size, durations(size))
    return known


SIZES = [100, 200, 50, 80, 160, 30, 60, 120]


@pytest.mark.parametrize("fixed_seconds", [0.0, 0.3])
def test_only_the_additional_time_of_records_counts(fixed_seconds: float) -> None:
    known = after(lambda size: fixed_seconds + 0.002 * size, SIZES)
    assert known.records_within(0.1) == pytest.approx(50)


def test_records_that_cost_nothing_fit_without_end() -> None:
    assert after(lambda _: 0.3, SIZES).records_within(0.1) == math.inf


def test_all_time_counts_while_all_batches_have_the_same_number_of_records() -> None:
    known = after(lambda size: 0.001 * size, [100] * 5)
    assert known.records_within(0.1) == pytest.approx(100)
