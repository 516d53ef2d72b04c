"""That planted faults are found, and fit what they replace."""

from __future__ import annotations

import inspect
import re
from types import FunctionType

import pytest

from feedbus.runner.buffer import Buffer
from tests.simulation.ignored_warnings import OF_KILLED_PROCESSES
from tests.simulation.planted import FAULTS, planted
from tests.simulation.planted.change import edited
from tests.simulation.runs import simulate

MOST = 40

pytestmark = OF_KILLED_PROCESSES


@pytest.mark.parametrize("name", ["an_early_acknowledgement", "an_outage_taken_for_success"])
def test_a_planted_fault_is_found(name: str):
    assert name in FAULTS
    with planted(name):
        assert any(simulate(seed).faults for seed in range(1, MOST))


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_takes_the_arguments_of_what_it_replaces(name: str):
    for owner, attribute, value in FAULTS[name]():
        original = owner.__dict__[attribute]
        if not isinstance(original, FunctionType):
            assert not isinstance(value, FunctionType)
            continue
        parameters = inspect.signature(original).parameters.values()
        own = inspect.signature(value).parameters.values()
        for one, other in zip(parameters, own, strict=False):
            ignored = other.name.startswith("_")
            if not ignored and other.kind is other.POSITIONAL_OR_KEYWORD:
                assert other.name == one.name
        named = {one.name: None for one in parameters if one.kind is one.KEYWORD_ONLY}
        positional = [None for one in parameters if one.name not in named]
        inspect.signature(value).bind(*positional, **named)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_uses_only_attributes_that_its_class_has(name: str):
    for owner, _, value in FAULTS[name]():
        if not (isinstance(owner, type) and isinstance(value, FunctionType)):
            continue
        classes = [each for each in owner.__mro__ if each.__module__.startswith("feedbus")]
        source = "".join(map(inspect.getsource, classes))
        for attribute in re.findall(r"\bself\.(\w+)", inspect.getsource(value)):
            is_set = re.search(rf"\bself\.{attribute}\b|^    {attribute}:", source, re.MULTILINE)
            assert hasattr(owner, attribute) or is_set, attribute


def test_a_part_of_a_function_is_replaced_only_if_it_is_there():
    ((owner, name, value),) = edited(Buffer, "put_back", "lane.records += delivery.record_count")
    assert (owner, name) == (Buffer, "put_back")
    assert "record_count" not in inspect.getsource(value)
    with pytest.raises(AssertionError, match="has changed"):
        edited(Buffer, "put_back", "no such text")
