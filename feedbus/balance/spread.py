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

AT_ONCE = 10_000  # how many keys are counted together


@dataclass(slots=True)
class Spread:
    """A ring, and how many records each of its shards gets.

    `feedbus spread` and `feedbus balance` create one Spread object for each ring that they compare.

    Attributes:
        ring: the ring.
        members: (name of the shard, weight), in the order of the topology.
        records: maps the name of a shard to its number of records.

    """

    ring: Ring
    members: list[tuple[str, int]]
    records: Counter[str] = field(default_factory=Counter)

    @classmethod
    def over(cls, topology: Topology, generation: Generation) -> Self:
        """Return a spread over the ring of a generation; the caller adds the records later.

        Args:
            topology: the topology of the ring.
            generation: the generation, with its shards and weights.

        """
        weights = dict(generation.members)
        shown = [(name, weights[name]) for name in topology.consumers if name in weights]
        return cls(Ring.of(generation.members), shown)

    @property
    def max_over_mean(self) -> float:
        """The largest number of records of a shard, divided by the mean; 1 if all are equal."""
        busiest = max(self.records[name] for name, _ in self.members)
        return busiest * len(self.members) / self.records.total()

    @property
    def max_over_share(self) -> float:
        """The largest ratio of a shard's records to its share; 1 if every shard has its share.

        The share is the number of records that the shard would have by its weight.
        """
        return max_over_share(self.records, self.members)

    @property
    def equal_weights(self) -> bool:
        """Whether all shards of the ring have the same weight."""
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
    """Return the generation that topology.toml declares for a hash exchange.

    `feedbus spread` and `feedbus balance` call this with the name that the user gives.

    Args:
        topology: the topology.
        name: the name of the exchange, or of a queue that is bound to it.
        path: the path of topology.toml, for the text of an error.

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


def count_records(
    keys: Iterable[str], spread: Spread, before: Spread | None
) -> Counter[tuple[str, str]]:
    """Add one record for each key to the shard that gets it, in one or two spreads.

    `feedbus spread` calls this.

    Args:
        keys: the routing keys of the records.
        spread: the spread over a ring.
        before: the spread over another ring; None if rings are not compared.

    Returns:
        The number of records for each pair (shard in `before`, shard in `spread`); empty without
        `before`.

    """
    pairs: Counter[tuple[str, str]] = Counter()
    remaining = iter(keys)
    while some := list(islice(remaining, AT_ONCE)):
        new = spread.ring.route_many(some)
        spread.records.update(new)
        if before is not None:
            old = before.ring.route_many(some)
            before.records.update(old)
            pairs.update(zip(old, new, strict=True))
    return pairs


def report_of_moves(pairs: Counter[tuple[str, str]]) -> dict[str, Any]:
    """Return the records that move, as `feedbus spread --json` prints them, the largest move first.

    Args:
        pairs: the number of records for each pair (old shard, new shard), from count_records().

    """
    largest_first = sorted(pairs.items(), key=lambda one: (-one[1], one[0]))
    moves = [
        {"from": old, "to": new, "records": records}
        for (old, new), records in largest_first
        if old != new
    ]
    moved = pairs.total() - sum(n for (old, new), n in pairs.items() if old == new)
    return {"moved": moved, "moved_share": round(moved / pairs.total(), 6), "moves": moves}
