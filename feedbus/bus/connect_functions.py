"""Create a bus for a program: connect() and connect_async()."""

from __future__ import annotations

import asyncio
import os

from feedbus import config
from feedbus.bus.async_bus import AsyncBus
from feedbus.bus.live_bus import TIMEOUT_SECONDS, LiveBus
from feedbus.metrics import Metrics
from feedbus.store import Store
from feedbus.topology import Topology
from feedbus.wrong_argument import check_path


def connect(
    topology: str | os.PathLike[str] | Topology | None = None,
    *,
    metrics: Metrics | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    store: Store | None = None,
) -> LiveBus:
    """Return a bus for scripts, WSGI applications, threads and forks.

    Args:
        topology: the path of the file, or the parsed topology. By default, the environment variable
            FEEDBUS_TOPOLOGY contains the path. If it is not set, the file is topology.toml in the
            current folder.
        metrics: counts the published records; None to count nothing.
        timeout_seconds: how long a publish waits for a broker that is unavailable, in seconds.
        store: an open store for bus.transaction(); the bus does not close it. By default the bus
            opens the topology's store.

    Raises:
        TopologyError: the file has problems; the error lists all of them.

    Example:
        with feedbus.connect("topology.toml") as bus:
            bus.publish("orders", {"id": 1, "product": "chair"}, key="chair")

    """
    return LiveBus(_load(topology), metrics, timeout_seconds=timeout_seconds, store=store)


async def connect_async(
    topology: str | os.PathLike[str] | Topology | None = None,
    *,
    metrics: Metrics | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> AsyncBus:
    """Return a bus for programs that run an event loop.

    Args:
        topology: the path of the file, or the parsed topology. By default, the environment variable
            FEEDBUS_TOPOLOGY contains the path. If it is not set, the file is topology.toml in the
            current folder.
        metrics: counts the published records; None to count nothing.
        timeout_seconds: how long a publish waits for a broker that is unavailable, in seconds.

    Raises:
        TopologyError: the file has problems; the error lists all of them.

    Example:
        async with await feedbus.connect_async("topology.toml") as bus:
            await bus.publish("orders", {"id": 1, "product": "chair"}, key="chair")

    """
    loaded = await asyncio.to_thread(_load, topology)
    return AsyncBus(loaded, metrics, timeout_seconds=timeout_seconds)


def _load(topology: str | os.PathLike[str] | Topology | None) -> Topology:
    if isinstance(topology, Topology):
        return topology
    if topology is not None:
        check_path("topology", topology)
    return config.load(config.located(topology))
