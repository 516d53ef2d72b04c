"""A prediction, for `feedbus plan`, of how long records wait after a switch to a new ring.

A record in a new shard waits while the old shard of its key still has messages.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from feedbus.broker.inventory import Inventory
from feedbus.broker_names import Names
from feedbus.generations.ring_state import RingState
from feedbus.metrics import deliveries
from feedbus.plan.changes import Wait
from feedbus.ring import Ring, flows
from feedbus.topology import Generation

SAMPLE_SECONDS = 1.0  # how long the rates are measured

Shares = Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class Rates:
    """Measures how many messages each consumer handles in a second.

    The creation of the object starts the measurement.

    The prediction of a plan has one Rates object, which is used once.

    Attributes:
        folder: the folder in which the consumers' processes write their metrics.

    """

    folder: Path
    _started: float = field(default_factory=time.monotonic)
    _before: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start the measurement."""
        self._before.update(deliveries(self.folder))

    def measure(self) -> dict[str, float]:
        """Return how many messages per second each consumer handles, by its name.

        Consumers that have handled none are left out. The method waits until the measurement has
        lasted for SAMPLE_SECONDS.
        """
        time.sleep(max(0.0, self._started + SAMPLE_SECONDS - time.monotonic()))
        after, seconds = deliveries(self.folder), time.monotonic() - self._started
        handled = {name: count - self._before.get(name, 0) for name, count in after.items()}
        return {name: count / seconds for name, count in handled.items() if count > 0}


def messages(names: Names, seen: Inventory, generation: Generation) -> dict[str, int]:
    """Return the numbers of messages in the shards of a generation; empty shards are left out.

    The result maps the name of a shard to its number of messages.

    Args:
        names: the names of the topology's objects on the broker.
        seen: the objects that the broker has, with the numbers of messages.
        generation: the generation.

    """
    queues = {member: names.member(generation, member) for member, _ in generation.members}
    return {
        member: seen.queues[name].messages
        for member, name in queues.items()
        if name in seen.queues and seen.queues[name].messages
    }


def shares(old: Generation, new: Generation) -> Shares:
    """Return the share of all keys, from 0 to 1, that move from each old shard to each new shard.

    The result maps the pair (old shard, new shard) to the share. It is empty if a ring has no
    shards, or if no key moves.

    Args:
        old: the current generation.
        new: the next generation.

    """
    rings = Ring.of(old.members), Ring.of(new.members)
    if not all(rings) or rings[0].buckets == rings[1].buckets:
        return {}
    return {pair: share for pair, share in flows(*rings).items() if pair[0] != pair[1]}


def waits(
    backlogs: Mapping[Generation, Mapping[str, int]],
    state: RingState,
    wanted: Generation,
    moving: Shares,
    rates: Mapping[str, float],
) -> tuple[Wait, ...]:
    """Return the wait for each old shard with messages, the shard with most messages first.

    The plan shows how long the records of these keys wait after the switch.

    Args:
        backlogs: maps each generation to its shards, and each shard to its number of messages.
        state: the state of the ring: its current generation, and the generations that drain.
        wanted: the next generation.
        moving: the share of all keys, from 0 to 1, for each pair (shard of the current generation,
            shard of the next generation) between which they move.
        rates: maps each consumer to the number of messages that it handles per second.

    """

    def found() -> Iterator[Wait]:
        for generation in (*state.draining, state.current):
            backlog = backlogs.get(generation)
            if not backlog:
                continue
            moves = moving if generation is state.current else shares(generation, wanted)
            targets: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
            for (left, entered), share in moves.items():
                targets[left].append((-share, entered))
            for shard, count in backlog.items():
                rate = rates.get(shard)
                yield Wait(
                    shard=shard,
                    generation=generation.digest,
                    messages=count,
                    moved_to=tuple(name for _, name in sorted(targets[shard])),
                    seconds=round(count / rate, 1) if rate else None,
                )

    return tuple(sorted(found(), key=lambda wait: -wait.messages))
