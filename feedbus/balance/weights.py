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

# max/mean is the traffic of the busiest shard, divided by the mean of all shards. Weights are even
# enough if their max/mean exceeds the lowest possible one by at most this number. A smaller gain is
# not worth more buckets.
CLOSE = 0.005


@dataclass(frozen=True, slots=True)
class Proposal:
    """The weights that feedbus proposes for a ring, with the spread before and after the change.

    find() returns it for `feedbus balance`.

    Attributes:
        exchange: the exchange of the ring.
        tally: the traffic of the counted keys.
        before: the spread over the current ring.
        after: the spread over the proposed ring; `before` itself if nothing is proposed.
        moved: the part of the traffic that would move to another shard, from 0 to 1.
        weights: maps the name of each queue to its proposed weights; empty if nothing is proposed.
        choices: the weights that could be proposed; each choice contains the weights of all queues
            of the ring. Later choices have a larger sum of weights, and are more even.

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
        """Whether weights are proposed that differ from the current ones."""
        return self.after is not self.before

    def evenness(self, balance: Balance) -> float:
        """Return how even the ring would be with one of the choices; 1 is the best value.

        The result is the load of the busiest shard, divided by the mean load of the shards.

        Args:
            balance: one of `choices`.

        """
        return balance.busiest_load * len(balance.weights) / self.tally.total

    @property
    def floor(self) -> float:
        """The best value of evenness() that is possible with any weights: 1 or more.

        It is above 1 if one class of keys alone exceeds the mean load of the shards. All keys of a
        class are on one shard.
        """
        mean = self.tally.total / len(self.before.members)
        return max(1.0, self.tally.heaviest_load / mean)


def find(
    topology: Topology,
    generation: Generation,
    tally: Tally,
    max_buckets: int,
    target: float | None = None,
) -> Proposal:
    """Find weights with which all queues of a ring get nearly equal numbers of records.

    Nothing is proposed if the current weights reach the target, or if no weights whose sum is at
    most `max_buckets` are more even.

    `feedbus balance` calls this.

    Args:
        topology: the topology of the ring.
        generation: the current ring.
        tally: the traffic of the counted keys.
        max_buckets: the largest sum of the weights.
        target: the largest accepted max/mean, the load of the busiest shard divided by the mean
            load. With None, the target is the lowest max/mean that is possible with `max_buckets`,
            plus 0.005 (CLOSE).

    """
    shards = len(generation.members)
    before = _spread(topology, generation, tally)
    choices = frontier(tally.loads, shards, max_buckets)
    mean = tally.total / shards
    accepted = target if target is not None else choices[-1].busiest_load / mean + CLOSE
    if before.max_over_mean <= accepted:
        return Proposal(generation.exchange, tally, before, before, 0.0, {}, choices)
    chosen = next((each for each in choices if each.busiest_load / mean <= accepted), choices[-1])
    weights = _by_queue(topology, generation, chosen)
    wanted = weighted(topology, weights).generation(generation.exchange)
    after = _spread(topology, wanted, tally)
    if after.max_over_mean >= before.max_over_mean:
        # The current ring has more than `max_buckets` buckets, so it can be more even.
        return Proposal(generation.exchange, tally, before, before, 0.0, {}, choices)
    old, new = placer(before.ring), placer(after.ring)
    moved = sum(load for each, load in tally.loads.items() if old(each) != new(each))
    share = moved / tally.total
    return Proposal(generation.exchange, tally, before, after, share, weights, choices)


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
    """Return the chosen weights by queue: a weight, or for a queue with shards {shard: weight}."""
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


def toml(found: Proposal) -> str:
    """Return the proposed weights as tables of topology.toml; "" if nothing is proposed.

    Args:
        found: the proposal.

    """
    return "\n".join(
        f"[{write(('queues', queue))}]\n{write_weights(weights)}"
        for queue, weights in found.weights.items()
    )


def report(found: Proposal, *, written: bool) -> dict[str, Any]:
    """Return the proposal as `feedbus balance --json` prints it.

    Args:
        found: the proposal.
        written: whether the weights were written to topology.toml.

    """
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
