"""The numbers on the operations page: messages in queues, handled messages, and durations."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from feedbus.metrics import Settled, WaitingCounts, settled
from feedbus.operations.queue_depths import Counts
from feedbus.topology import Queue, Topology

NOTHING = Settled()


def figures(
    topology: Topology,
    depths: Counts,
    holding: Mapping[str, Sequence[str]],
    waiting: Mapping[str, WaitingCounts],
) -> dict[str, Any]:
    """Return the numbers of all queues for the operations page, as JSON values.

    Args:
        topology: the topology of the consumers, whose metrics are read.
        depths: maps each consumer to its queue depths; empty while the broker is unavailable.
        holding: maps each consumer that holds to the reasons. Such a consumer reads no messages.
        waiting: maps each consumer to the number of its waiting records in the processes of this
            host.

    """
    handled = settled(topology.var / "metrics")
    return {
        "name": topology.name,
        # The page computes rates from two such times. The clock is not the time of day.
        "monotonic_seconds": time.monotonic(),
        "queues": [
            of_queue(topology, queue, handled, depths, holding, waiting)
            for queue in topology.queues.values()
        ],
    }


def of_queue(  # noqa: PLR0913, PLR0917 -- as figures()
    topology: Topology,
    queue: Queue,
    handled: Mapping[str, Settled],
    depths: Counts,
    holding: Mapping[str, Sequence[str]],
    waiting: Mapping[str, WaitingCounts],
) -> dict[str, Any]:
    """Return the numbers of a queue and of each of its consumers, as JSON values.

    Args:
        topology: the topology of the queue.
        queue: the queue.
        handled: maps each consumer to its settled records, from the metrics.
        depths: maps each consumer to its queue depths; empty while the broker is unavailable.
        holding: maps each consumer that holds to the reasons. Such a consumer reads no messages.
        waiting: maps each consumer to the number of its waiting records in the processes of this
            host.

    """
    consumers = [one for one in topology.consumers.values() if one.queue.name == queue.name]
    received = {one.name: waiting.get(one.name, WaitingCounts()) for one in consumers}
    failed = sum(counts.retrying for counts in received.values())
    # All consumers of the queue share its retry queues and its dead letters. So the depths of every
    # consumer have the same numbers of them.
    shared = next((depths[one.name] for one in consumers if one.name in depths), None)
    return {
        "name": queue.name,
        "exchange": queue.exchange,
        "sharded": queue.shards is not None,
        "retrying": shared.retrying + failed if shared else None,
        "dead": shared.dead if shared else None,
        "consumers": [
            {
                "name": one.name,
                "weight": one.weight,
                "ready": depths[one.name].ready if one.name in depths else None,
                "waiting": (
                    depths[one.name].waiting + received[one.name].waiting
                    if one.name in depths
                    else None
                ),
                "holding": list(holding.get(one.name, ())),
                "handled": handled.get(one.name, NOTHING).records,
                "lag_seconds": handled.get(one.name, NOTHING).lag_seconds,
                "lag_count": handled.get(one.name, NOTHING).lag_count,
            }
            for one in consumers
        ],
    }
