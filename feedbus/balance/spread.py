"""Count the records that each shard of a ring gets for given keys, and the keys that move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, Self

from feedbus.errors import UsageError
from feedbus.ring import Ring, max_over_share
from feedbus.topology import Generation, Topology

AT_ONCE = 10_000  # how many keys are placed together


@dataclass(slots=True)
class Spread:
    """The number of records of each shard of a ring.

    Attributes:
        ring: the ring.
        members: the names of the shards with their weights, in the order of the topology.
        records: the number of records of each shard.

    """

    ring: Ring
    members: list[tuple[str, int]]
    records: Counter[str] = field(default_factory=Counter)

    @classmethod
    def over(cls, topology: Topology, generation: Generation) -> Self:
        """Return an empty spread over a generation of the topology."""
        weights = dict(generation.members)
        shown = [(name, weights[name]) for name in topology.consumers if name in weights]
        return cls(Ring.of(generation.members), shown)

    @property
    def max_over_mean(self) -> float:
        """The largest number of records of a shard, divided by the mean; 1 is even."""
        busiest = max(self.records[name] for name, _ in self.members)
        return busiest * len(self.members) / self.records.total()

    @property
    def max_over_share(self) -> float:
        """The largest ratio of a shard's records to its share by weight; 1 is even."""
        return max_over_share(self.records, self.members)

    @property
    def equal_weights(self) -> bool:
        """Whether all members have the same weight."""
        return len({weight for _, weight in self.members}) == 1

    def report(self) -> dict[str, Any]:
        """Return the spread as `feedbus spread --json` prints it."""
        total = self.records.total()
        shards = [
            {
                "name": name,
                "weight": weight,
                "records": self.records[name],
                "share": round(self.records[name] / total, 6),
            }
            for name, weight in self.members
        ]
        return {
            "shards": shards,
            "max_over_mean": round(self.max_over_mean, 4),
            "max_over_share": round(self.max_over_share, 4),
        }


def find_ring(topology: Topology, name: str, path: Path) -> Generation:
    """Return the ring to which a queue is bound, or the ring of an exchange.

    Raises:
        UsageError: there is no such queue or exchange, or it has no ring.

    """
    queue = topology.queues.get(name)
    exchange = topology.exchanges.get(queue.exchange if queue else name)
    hashed = [exchange.name for exchange in topology.exchanges.values() if exchange.hashed]
    if exchange is None:
        known = [*topology.queues, *hashed]
        near = get_close_matches(name, known, n=1)
        shard = topology.consumers.get(name)
        if shard:
            hint = f"'{name}' is a shard; name its queue, '{shard.queue.name}'"
        else:
            hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"
        msg = f"{path}: no queue or hash exchange named '{name}'; {hint}"
        raise UsageError(msg)
    if not exchange.hashed:
        subject = f"queue '{name}' is on '{exchange.name}'," if queue else f"'{name}' is"
        there = f"hash exchanges of this file: {', '.join(hashed) or 'none'}"
        msg = (
            f"{path}: {subject} a {exchange.type} exchange; only an x-consistent-hash exchange "
            f"spreads keys over shards; {there}"
        )
        raise UsageError(msg)
    generation = topology.generation(exchange.name)
    if not generation.members:
        msg = f"{path}: no queue is bound to the exchange '{exchange.name}', so it has no shards"
        raise UsageError(msg)
    return generation


def place(keys: Iterable[str], spread: Spread, before: Spread | None) -> Counter[tuple[str, str]]:
    """Count the keys on each shard in both spreads; return the counts by (old, new) shard."""
    pairs: Counter[tuple[str, str]] = Counter()
    left = iter(keys)
    while some := list(islice(left, AT_ONCE)):
        entered = spread.ring.route_many(some)
        spread.records.update(entered)
        if before is not None:
            earlier = before.ring.route_many(some)
            before.records.update(earlier)
            pairs.update(zip(earlier, entered, strict=True))
    return pairs


def moved(pairs: Counter[tuple[str, str]]) -> dict[str, Any]:
    """Return the moves as --json prints them, the largest first."""
    largest_first = sorted(pairs.items(), key=lambda one: (-one[1], one[0]))
    moves = [
        {"from": left, "to": entered, "records": records}
        for (left, entered), records in largest_first
        if left != entered
    ]
    moved = pairs.total() - sum(n for (left, entered), n in pairs.items() if left == entered)
    return {"moved": moved, "moved_share": round(moved / pairs.total(), 6), "moves": moves}
