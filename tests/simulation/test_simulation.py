"""The short form of `make simulate`, and that what it should find it finds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.planted import FAULTS, planted
from tests.simulation.runs import simulate

SEEDS = range(1, 6)
MOST = 40


def test_some_seeds_find_nothing():
    outcomes = [simulate(seed) for seed in SEEDS]
    assert {outcome.seed: outcome.faults for outcome in outcomes if outcome.faults} == {}
    assert sum(outcome.events for outcome in outcomes) > 500 * len(SEEDS)


def test_a_seed_gives_the_same_trace_twice_also_where_sets_have_another_order():
    def trace(order: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation"],
            env={**os.environ, "SEED": "2", "FAULT": "", "PYTHONHASHSEED": order},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    first = trace("1")
    assert first == trace("2")
    assert "effect a1 of shard" in first


@pytest.mark.parametrize("name", ["an_early_acknowledgement", "an_outage_taken_for_success"])
def test_a_planted_fault_is_found(name: str):
    assert name in FAULTS
    with planted(name):
        assert any(simulate(seed).faults for seed in range(1, MOST))
