"""The short form of `make simulate`, and that what it should find it finds."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections import Counter
from types import FunctionType

import pytest

from tests.simulation.planted import FAULTS, planted
from tests.simulation.reached import PATHS
from tests.simulation.runs import simulate
from tests.simulation.scenario import Scenario
from tests.simulation.scheduler import Scheduler

SEEDS = range(1, 6)
MOST = 40
MOST_TO_REACH = 200


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


def test_seeds_reach_the_rare_paths():
    reached = Counter[str]()
    for seed in range(1, MOST_TO_REACH):
        if Scenario.of(Scheduler(seed)).kind == "stream":
            reached.update(simulate(seed).reached)
        if all(reached[path] for path, *_ in PATHS):
            break
    assert {path for path, *_ in PATHS} == reached.keys()


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_takes_the_arguments_of_what_it_replaces(name: str):
    for owner, attribute, value in FAULTS[name]():
        original = owner.__dict__[attribute]
        if not isinstance(original, FunctionType):
            assert not isinstance(value, FunctionType)
            continue
        parameters = inspect.signature(original).parameters.values()
        named = {one.name: None for one in parameters if one.kind is one.KEYWORD_ONLY}
        positional = [None for one in parameters if one.name not in named]
        inspect.signature(value).bind(*positional, **named)
