"""A project's topology and handlers, read and declared once for all systems of a process."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from feedbus import config, handling
from feedbus.clock import VirtualClock
from feedbus.generations.establishment import establish
from feedbus.handling import Handler
from feedbus.metrics import ConsumerMetrics, Metrics
from feedbus.topology import Topology
from feedbus.transports import memory
from feedbus.urls import BrokerUrl

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Project:
    """What is the same for all systems of one topology; it is made when it is first needed."""

    topology: Topology

    @cached_property
    def handlers(self) -> dict[str, Handler]:
        """The handler of each queue."""
        root = self.topology.root
        return {
            queue.name: handling.resolve(queue.handler, root)
            for queue in self.topology.queues.values()
        }

    @cached_property
    def metrics(self) -> ConsumerMetrics:
        """Where all consumers count; nobody reads it."""
        return Metrics.none().consumer("inline")

    @cached_property
    def declared(self) -> bytes:
        """What a broker holds on which this topology has just been declared."""
        broker = memory.create(memory.MemoryBroker(unused_name(), clock=VirtualClock()))
        try:
            establish(on_broker(self.topology, broker.name))
            return broker.serialized()
        finally:
            memory.remove(broker.name)


_projects: dict[tuple[Path, str, frozenset[tuple[str, str]]], Project] = {}


def project(topology: str | Path | Topology) -> Project:
    """Return the project of a topology, or of its file as it is now.

    Raises:
        TopologyError: with every problem of the file.

    """
    if isinstance(topology, Topology):
        return Project(topology)
    path = Path(topology).absolute()
    text = config.read(path)
    known = (path, text, frozenset(os.environ.items()))  # ${VAR} is part of what a file says
    if known not in _projects:
        _projects[known] = Project(config.load(path, text=text))
    return _projects[known]


def unused_name() -> str:
    """Return a name that no memory broker has yet."""
    return f"inline-{os.getpid()}-{next(_numbers)}"


def on_broker(topology: Topology, name: str) -> Topology:
    """Return a topology whose broker is one in memory."""
    return replace(topology, broker_url=BrokerUrl.in_memory(name))
