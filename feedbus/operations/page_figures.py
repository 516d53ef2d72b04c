"""The figures of the operations page: waiting and handled messages, and durations."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from feedbus.metrics import exposition
from feedbus.operations.queue_depths import Counts
from feedbus.topology import Queue, Topology

SAMPLE = re.compile(r"^(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')

Samples = Mapping[str, Mapping[str, float]]


def figures(
    topology: Topology,
    depths: Counts,
    holding: Mapping[str, Sequence[str]],
    waiting: Mapping[str, int],
) -> dict[str, Any]:
    """Return the figures of all queues.

    Args:
        topology: of the consumers; its metrics are read.
        depths: by consumer, empty when the broker is unavailable.
        holding: why consumers hold, by consumer.
        waiting: how many records wait in the order of their keys in this host's processes.

    """
    samples = sums(exposition(topology.var / "metrics").decode())
    return {
        "name": topology.name,
        "at": time.monotonic(),  # for rates, by the monotonic clock
        "queues": [
            of_queue(topology, queue, samples, depths, holding, waiting)
            for queue in topology.queues.values()
        ],
    }


def of_queue(  # noqa: PLR0913, PLR0917 -- as figures()
    topology: Topology,
    queue: Queue,
    samples: Samples,
    depths: Counts,
    holding: Mapping[str, Sequence[str]],
    waiting: Mapping[str, int],
) -> dict[str, Any]:
    """Return the figures of a queue and of each of its consumers."""
    consumers = [one for one in topology.consumers.values() if one.queue.name == queue.name]
    in_order = sum(
        waiting.get(one.name, 0) + depths[one.name].waiting
        for one in consumers
        if one.name in depths
    )
    shared = next((depths[one.name] for one in consumers if one.name in depths), None)
    return {
        "name": queue.name,
        "exchange": queue.exchange,
        "sharded": queue.shards is not None,
        "retrying": shared.retrying + in_order if shared else None,  # shards share these two
        "dead": shared.dead if shared else None,
        "consumers": [
            {
                "name": one.name,
                "weight": one.weight,
                "ready": depths[one.name].ready if one.name in depths else None,
                "holding": list(holding.get(one.name, ())),
                "handled": samples["feedbus_records_total"].get(one.name, 0),
                "lagSeconds": samples["feedbus_lag_seconds_sum"].get(one.name, 0),
                "lagCount": samples["feedbus_lag_seconds_count"].get(one.name, 0),
            }
            for one in consumers
        ],
    }


def sums(exposed: str) -> defaultdict[str, dict[str, float]]:
    """Return sums of samples by metric and consumer; samples without a consumer are under ""."""
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for name, labels, value in SAMPLE.findall(exposed):
        consumer = dict(LABEL.findall(labels)).get("consumer", "")
        found[name][consumer] = found[name].get(consumer, 0) + float(value)
    return found
