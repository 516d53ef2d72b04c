"""Resources for tests: the settings of a system and a client, which record their steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from feedbus import resource
from feedbus.handling.parameters import Parameters, Resource
from feedbus.handling.resources import Resources
from feedbus.topology import Topology
from tests.handlers_to_run import topology_of

STEPS: list[str] = []
FAILURES: list[Exception] = []


class Settings:
    """The settings of clients."""

    def __init__(self, name: str) -> None:
        self.name = name


class Client:
    """The client that handlers call."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.name

    def send(self, n: int) -> None:
        STEPS.append(f"{self.name} sends {n}")


@resource
def settings(topology: Topology) -> Settings:
    STEPS.append("settings")
    return Settings(topology.name)


@resource
def client(settings: Settings) -> Iterator[Client]:
    if FAILURES:
        raise FAILURES.pop()
    STEPS.append("open")
    yield Client(settings)
    STEPS.append("close")


def needed(*functions: Callable[..., Any]) -> Resources:
    """Return the resources of a process whose handlers need these."""
    resources = Resources(topology_of("tests.handlers_to_run:undone"))
    resources.request(Parameters(tuple(map(Resource, functions))))
    return resources
