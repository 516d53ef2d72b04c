"""Every order of events while records wait for old queues, and that each part is needed."""

from __future__ import annotations

import os

import pytest

from tests.chaos.predecessors import Predecessors, begin, explore

LONG = os.environ.get("FEEDBUS_LONG_MODELS") == "1"  # as `make model` sets it
CASES = [((0, 0), 3, 0), ((1, 0), 3, 0), ((1, 0), 2, 1), ((1, 0, 0), 2, 0)]
CASES += [((1, 0), 3, 1), ((1, 0, 0), 3, 0)] if LONG else []


@pytest.mark.parametrize(("failures", "generations", "deaths"), CASES)
def test_each_record_has_its_effect_in_order_over_all_generations(failures, generations, deaths):
    start = begin(*failures, generations=generations, deaths=deaths)
    worlds, fault = explore(start, Predecessors())
    assert fault == ""
    assert worlds > 1_000


@pytest.mark.parametrize(
    ("missing", "failures", "generations", "deaths", "reported"),
    [
        ("deletion", (1, 0), 2, 0, "2 after 0"),  # a key is free before its old queue is deleted
        ("transitive owners", (0, 0), 3, 0, "2 after 0"),
        ("probe", (1, 0), 2, 0, "2 after 0"),  # moved records may not have arrived
        ("generations in places", (1, 0, 0), 2, 0, "3 after 1"),
        ("between", (1, 0), 3, 0, "2 after 0"),
        ("checking first", (1, 0), 2, 1, "2 after 0"),
        ("probe at the fence", (1, 0), 3, 0, "wait in a queue that is gone"),
    ],
)
def test_a_protocol_that_lacks_one_of_its_parts_is_found_out(
    missing, failures, generations, deaths, reported
):
    start = begin(*failures, generations=generations, deaths=deaths)
    assert explore(start, Predecessors())[1] == ""
    assert reported in explore(start, Predecessors(frozenset({missing})))[1]
