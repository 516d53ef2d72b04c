"""The consumers of queues."""

from __future__ import annotations

from dataclasses import dataclass

from feedbus.topology.queues import Queue


@dataclass(frozen=True, slots=True)
class Consumer:
    """The consumer of one queue on the broker: of a shard, or of a queue without shards.

    Attributes:
        name: the name of the queue in topology.toml; for a shard, with the number, as in `feed_3`.
        queue: the table [queues.NAME].
        shard: the number of the shard, from 0; None without shards.
        weight: how many buckets of the ring the queue has; 1 for a queue that is in no ring.
    """

    name: str
    queue: Queue
    shard: int | None
    weight: int
