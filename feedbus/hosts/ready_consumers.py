"""The consumers that this host can run, because their processes on this host are ready."""

from __future__ import annotations

import math
from collections import defaultdict

from feedbus.process.slots import run_folder
from feedbus.process.status_files import runs_ready
from feedbus.topology import Queue, Topology

RESTART_SECONDS = 5.0  # a process that ends and is restarted within this time loses no shard


def is_assigned(topology: Topology, queue: Queue) -> bool:
    """Whether each consumer of a queue is assigned to one host.

    The result is True for queues with a ring or with a single active consumer. The consumers of all
    hosts read the other queues at the same time.

    Args:
        topology: the topology of the queue.
        queue: the queue.

    """
    return topology.on_ring(queue) or queue.single_active_consumer


class ReadyConsumers:
    """Finds the consumers that are ready on this host, in the files that their processes write.

    The Announcer of the host has one ReadyConsumers object.
    """

    def __init__(self, topology: Topology) -> None:
        """Create the object for the consumers of a topology that are assigned to hosts."""
        self._folder = run_folder(topology)
        self._consumers = [
            consumer
            for consumer in topology.consumers.values()
            if is_assigned(topology, consumer.queue)
        ]
        self._ready_at: dict[str, float] = {}  # when each consumer was last found ready

    def __bool__(self) -> bool:
        """Whether any consumer of the topology is assigned to hosts."""
        return bool(self._consumers)

    def by_queue(
        self, now: float, *, patience_seconds: float = RESTART_SECONDS
    ) -> dict[str, tuple[str, ...]]:
        """Map each queue to its consumers that are ready, or were ready a short time ago.

        Only consumers that are assigned to hosts are in the result.

        Args:
            now: the time, in seconds of the monotonic clock.
            patience_seconds: how long a consumer that is no longer ready still counts as ready.

        """
        ready: defaultdict[str, list[str]] = defaultdict(list)
        for consumer in self._consumers:
            queue, name = consumer.queue, consumer.name
            slots = range(1, queue.processes + 1)
            if any(runs_ready(self._folder, name, slot) for slot in slots):
                self._ready_at[name] = now
            if now - self._ready_at.get(name, -math.inf) <= patience_seconds:
                ready[queue.name].append(name)
        return {queue: tuple(names) for queue, names in ready.items()}
