"""Faults to be planted in feedbus's own code, to see that the simulation finds them.

Each function of the modules of this folder is a fault: it returns what takes the place of what.
`make simulate FAULT=NAME` plants one and runs seeds until it is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType, ModuleType

from tests.simulation.planted import (
    concurrency,
    crashes_and_outages,
    hosts_and_schedules,
    outbox,
    overtaking,
    publishing,
    retries,
    rings,
)
from tests.simulation.planted.change import Change
from tests.simulation.runs import declared

Fault = Callable[[], list[Change]]

MODULES = (
    publishing,
    outbox,
    rings,
    retries,
    crashes_and_outages,
    overtaking,
    concurrency,
    hosts_and_schedules,
)


def _faults(module: ModuleType) -> dict[str, Fault]:
    """Return the functions that a module defines, by name, in their order."""
    return {
        name: each
        for name, each in vars(module).items()
        if isinstance(each, FunctionType) and each.__module__ == module.__name__
    }


FAULTS: Mapping[str, Fault] = {
    name: fault for module in MODULES for name, fault in _faults(module).items()
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant a fault within the block; "" is none."""
    changes = FAULTS[name]() if name else []
    before = [(owner, attribute, owner.__dict__[attribute]) for owner, attribute, _ in changes]
    for owner, attribute, value in changes:
        setattr(owner, attribute, value)
    declared.cache_clear()  # a fault may change how queues are declared
    try:
        yield
    finally:
        declared.cache_clear()
        for owner, attribute, value in before:
            setattr(owner, attribute, value)
