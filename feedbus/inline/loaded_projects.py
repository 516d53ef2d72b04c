"""The topology and handlers of a project, loaded once for all systems in a process."""

from __future__ import annotations

import itertools
import os
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from feedbus import config
from feedbus.clock import VirtualClock
from feedbus.generations.topology_setup import set_up
from feedbus.handling.routes import HandlerRoutes
from feedbus.inline import external_systems
from feedbus.metrics import ConsumerMetrics, Metrics
from feedbus.store import open_prepared
from feedbus.topology import Topology
from feedbus.transports import memory
from feedbus.urls import BrokerUrl, parse_store_url
from feedbus.wrong_argument import check_path

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Project:
    """A topology, its handlers and other values that all InlineSystem objects of it share.

    Each property is computed at its first use.

    Attributes:
        topology: the topology.
    """

    topology: Topology

    @cached_property
    def handlers(self) -> dict[str, HandlerRoutes]:
        """The imported handlers of each queue, by the queue's name in topology.toml."""
        root = self.topology.root
        return {
            queue.name: HandlerRoutes.of(queue, root) for queue in self.topology.queues.values()
        }

    @cached_property
    def metrics(self) -> ConsumerMetrics:
        """The metrics that all consumers write; no program reads them."""
        return Metrics.none().consumer("inline")

    @cached_property
    def declared(self) -> bytes:
        """The content of a broker in memory after the topology was declared on it.

        A new system gets a broker with this content. So it need not declare the objects again.
        """
        broker = memory.create(memory.MemoryBroker(unused_name(), clock=VirtualClock()))
        try:
            topology = on_broker(self.topology, broker.name)
            external_systems.declare(topology)
            set_up(topology)
            return broker.serialized()
        finally:
            memory.remove(broker.name)

    @cached_property
    def empty_store(self) -> bytes:
        """The content of an empty SQLite store, prepared as `feedbus up` prepares it.

        A new TestSystem writes it into a file, instead of preparing a store again.
        """
        with tempfile.TemporaryDirectory(prefix="feedbus-") as folder:
            file = Path(folder) / "store.db"
            own = on_store(self.topology, file)
            open_prepared(own).close()
            with closing(sqlite3.connect(file)) as database:
                return database.serialize()


class _Lookups(dict[str, str]):
    """A mapping of environment variables that records which variables were read."""

    def __init__(self) -> None:
        super().__init__(os.environ)
        self.found: dict[str, str | None] = {}

    def get(self, name: str, default: Any = None) -> Any:
        self.found[name] = os.environ.get(name)
        return super().get(name, default)


# For the path of each topology file: the text of the file, the values of the environment variables
# that it names, and the project.
_projects: dict[Path, tuple[str, dict[str, str | None], Project]] = {}


def project(topology: str | Path | Topology) -> Project:
    """Return the project of a topology: its topology and handlers, for systems in memory.

    The project of a file is created again only if the file has changed, or if an environment
    variable that the file names has changed.

    Args:
        topology: the file, or the parsed topology.

    Raises:
        TopologyError: the file has problems; the error lists all of them.
    """
    if isinstance(topology, Topology):
        return Project(topology)
    check_path("topology", topology)
    path = Path(topology).absolute()
    text = config.read(path)
    known_text, variables, known = _projects.get(path, ("", {}, None))
    unchanged = all(os.environ.get(name) == value for name, value in variables.items())
    if known is not None and known_text == text and unchanged:
        return known
    lookups = _Lookups()
    made = Project(config.load(path, environ=lookups, text=text, connects=False))
    _projects[path] = (text, lookups.found, made)
    return made


def unused_name() -> str:
    """Return a name that no broker in memory of this process has had before."""
    return f"inline-{os.getpid()}-{next(_numbers)}"


def on_store(topology: Topology, file: Path) -> Topology:
    """Return a copy of the topology whose store is an SQLite file.

    A topology without a store is returned unchanged.

    Args:
        topology: the topology.
        file: the absolute path of the file.
    """
    if topology.store is None:
        return topology
    url = parse_store_url(f"sqlite:///{file}")
    return replace(topology, store=replace(topology.store, url=url))


def on_broker(topology: Topology, name: str) -> Topology:
    """Return a copy of the topology whose broker is the broker in memory with this name."""
    return replace(topology, broker_url=BrokerUrl.in_memory(name))
