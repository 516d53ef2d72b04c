"""Compute weights that spread given keys evenly over the shards of a ring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feedbus.balance.key_traffic import Tally
from feedbus.balance.spread import Spread
from feedbus.config.toml_positions import write
from feedbus.config.weight_editing import Weights, weighted, write_weights
from feedbus.ring import Balance, frontier, placer
from feedbus.topology import Generation, Topology

# Weights are even enough if their max/mean exceeds the lowest possible one by at most this number.
# A smaller gain is not worth more buckets.
CLOSE = 0.005


@dataclass(frozen=True, slots=True)
class Found:
    """The current ring, the proposed ring, and the keys that would move.

    Attributes:
        exchange: the exchange of the ring.
        tally: the traffic of the counted keys.
        before: the spread over the current ring.
        after: the spread over the proposed ring; `before` itself if nothing is proposed.
        moved: the share of the traffic that would move to another shard.
        weights: the proposed weights of each queue.
        choices: the most even weights for increasing numbers of buckets.

    """

    exchange: str
    tally: Tally
    before: Spread
    after: Spread
    moved: float
    weights: Mapping[str, Weights]
    choices: Sequence[Balance]

    @property
    def changes(self) -> bool:
        """Whether the proposed weights are more even than the current ones."""
        return self.after is not self.before

    def evenness(self, balance: Balance) -> float:
        """Return the largest number of records of a queue, divided by the mean."""
        return balance.busiest * len(balance.weights) / self.tally.total

    @property
    def floor(self) -> float:
        """The lowest possible max/mean; above 1 if one key alone exceeds the mean of a shard."""
        mean = self.tally.total / len(self.before.members)
        return max(1.0, self.tally.heaviest_load / mean)


def find(
    topology: Topology,
    generation: Generation,
    tally: Tally,
    most_buckets: int,
    target: float | None = None,
) -> Found:
    """Find weights for a ring of a topology that spread the counted keys evenly.

    The current weights are kept if they reach the target, or are almost as even as possible.

    Args:
        topology: the topology of the ring.
        generation: the current ring.
        tally: the traffic of the counted keys.
        most_buckets: the largest sum of the weights.
        target: the largest wanted max/mean; None for almost the lowest possible one.

    """
    shards = len(generation.members)
    before = _spread(topology, generation, tally)
    choices = frontier(tally.loads, shards, most_buckets)
    mean = tally.total / shards
    close = target if target is not None else choices[-1].busiest / mean + CLOSE
    if before.max_over_mean <= close:
        return Found(generation.exchange, tally, before, before, 0.0, {}, choices)
    chosen = next((each for each in choices if each.busiest / mean <= close), choices[-1])
    weights = _by_queue(topology, generation, chosen)
    wanted = weighted(topology, weights).generation(generation.exchange)
    after = _spread(topology, wanted, tally)
    if after.max_over_mean >= before.max_over_mean:  # the ring has more buckets than are allowed
        return Found(generation.exchange, tally, before, before, 0.0, {}, choices)
    old, new = placer(before.ring), placer(after.ring)
    moved = sum(load for each, load in tally.loads.items() if old(each) != new(each))
    share = moved / tally.total
    return Found(generation.exchange, tally, before, after, share, weights, choices)


def _spread(topology: Topology, generation: Generation, tally: Tally) -> Spread:
    spread = Spread.over(topology, generation)
    place = placer(spread.ring)
    units: Counter[str] = Counter()
    for each, load in tally.loads.items():
        units[place(each)] += load
    whole = tally.unit == 1
    spread.records.update(units if whole else {name: n / tally.unit for name, n in units.items()})
    return spread


def _by_queue(topology: Topology, generation: Generation, chosen: Balance) -> dict[str, Weights]:
    """Return the weights of each queue on a ring, by shard if the queue has shards."""
    single: dict[str, int] = {}
    by_member = dict(zip((name for name, _ in generation.members), chosen.weights, strict=True))
    shards: dict[str, dict[int, int]] = {}
    for name, weight in by_member.items():
        consumer = topology.consumers[name]
        if consumer.shard is None:
            single[consumer.queue.name] = weight
        else:
            shards.setdefault(consumer.queue.name, {})[consumer.shard] = weight
    return {**shards, **single}


def toml(found: Found) -> str:
    """Return the weights as lines of a topology file."""
    return "\n".join(
        f"[{write(('queues', queue))}]\n{write_weights(weights)}"
        for queue, weights in found.weights.items()
    )


def report(found: Found, *, written: bool) -> dict[str, Any]:
    """Return the result as `feedbus balance --json` prints it."""
    return {
        "exchange": found.exchange,
        "keys": found.tally.keys,
        "records": found.tally.total / found.tally.unit,
        "before": {"buckets": len(found.before.ring), **found.before.report()},
        "after": {"buckets": len(found.after.ring), **found.after.report()},
        "changes": found.changes,
        "moved_share": round(found.moved, 6),
        "weights": found.weights,
        "toml": toml(found),
        "choices": [
            {"buckets": each.buckets, "max_over_mean": round(found.evenness(each), 4)}
            for each in found.choices
        ],
        "floor": round(found.floor, 4),
        "written": written,
    }
