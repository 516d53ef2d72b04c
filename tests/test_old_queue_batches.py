"""The size of batches from old queues, by the durations of batches."""

from __future__ import annotations

import random

import pytest

from feedbus.runner.old_queue_batches import FIRST_RECORDS, OldQueueBatches


def test_the_size_approaches_the_records_that_add_a_tenth_of_a_second() -> None:
    batches = OldQueueBatches(10_000)
    for _ in range(50):
        batches.add(int(batches.size), 0.3 + 0.001 * int(batches.size), old=True)
    assert batches.size == pytest.approx(100, rel=0.2)


def test_a_single_slow_batch_at_most_halves_the_size() -> None:
    batches = OldQueueBatches(10_000)
    batches.add(100, 60.0, old=True)
    assert batches.size == FIRST_RECORDS / 2


@pytest.mark.parametrize(("most", "size"), [(500, 500), (1, 1)])
def test_fast_batches_grow_up_to_the_size_of_any_batch(most: int, size: int) -> None:
    batches = OldQueueBatches(most)
    for _ in range(20):
        batches.add(int(batches.size), 0.0, old=True)
    assert batches.size == size


def test_batches_of_the_own_queue_do_not_change_the_size() -> None:
    batches = OldQueueBatches(10_000)
    batches.add(1000, 60.0, old=False)
    assert batches.size == FIRST_RECORDS


def test_waits_for_other_processes_do_not_make_batches_small() -> None:
    waits = random.Random(1)
    batches, sizes = OldQueueBatches(500), []
    for _ in range(300):
        batches.add(int(batches.size), waits.uniform(0.0, 0.6) + 0.00002 * batches.size, old=True)
        sizes.append(batches.size)
    assert sorted(sizes)[len(sizes) // 2] > 100
