"""A prediction, for `feedbus plan`, of how long records wait after a switch to a new ring.

A record in a new shard waits while the old shard of its key still has messages.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from feedbus.broker.interface import SeenQueue
from feedbus.broker.inventory import Inventory
from feedbus.broker_names import Names
from feedbus.generations.ring_state import RingState
from feedbus.metrics import deliveries
from feedbus.plan.changes import Wait
from feedbus.ring import Ring, flows
from feedbus.topology import Generation

# The rates are measured until each shard has handled ENOUGH messages, or all its messages if it has
# fewer. The measurement takes LEAST_SECONDS at least, and MOST_SECONDS at most.
LEAST_SECONDS = 1.0
MOST_SECONDS = 5.0
ENOUGH = 20
CHECK_SECONDS = 0.1

Backlog = Mapping[str, SeenQueue]  # maps each shard with messages to its queue
Shares = Mapping[tuple[str, str], float]  # maps (old shard, new shard) to a share of all keys


@dataclass(slots=True)
class Rates:
    """Measures how many messages each consumer of this host handles in a second.

    The creation of the object starts the measurement. The prediction of a plan has one Rates
    object.

    Attributes:
        folder: the folder in which the consumers' processes write their metrics.
        measured_seconds: the duration of the measurement; None until measure() has waited for it.

    """

    folder: Path
    measured_seconds: float | None = None
    _started: float = field(default_factory=time.monotonic)
    _before: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Start the measurement."""
        self._before = deliveries(self.folder)

    def measure(self, messages: Mapping[str, int]) -> dict[str, float]:
        """Return how many messages per second each consumer handles, by its name.

        The method waits until each of the given consumers has handled ENOUGH messages, or all its
        messages if it has fewer. The method waits for LEAST_SECONDS at least, and for MOST_SECONDS
        at most. Consumers that have handled no message on this host meanwhile are left out.

        Args:
            messages: maps each consumer whose rate is needed to its number of messages. If it is
                empty, the method does not wait.

        """
        if not messages:
            return {}
        while True:
            handled, seconds = self._handled(), time.monotonic() - self._started
            enough = all(
                handled.get(name, 0) >= min(count, ENOUGH) for name, count in messages.items()
            )
            if seconds >= MOST_SECONDS or (enough and seconds >= LEAST_SECONDS):
                break
            time.sleep(CHECK_SECONDS)
        self.measured_seconds = round(seconds, 1)
        return {name: count / seconds for name, count in handled.items() if count > 0}

    def _handled(self) -> dict[str, int]:
        now = deliveries(self.folder)
        return {name: count - self._before.get(name, 0) for name, count in now.items()}


def find_backlog(names: Names, seen: Inventory, generation: Generation) -> Backlog:
    """Return the shards of a generation that have messages: maps each shard to its queue.

    Args:
        names: the names of the topology's objects on the broker.
        seen: the objects that the broker has, with the numbers of messages.
        generation: the generation.

    """
    queues = {member: names.member(generation, member) for member, _ in generation.members}
    return {
        member: seen.queues[name]
        for member, name in queues.items()
        if name in seen.queues and seen.queues[name].messages
    }


def shares(old: Generation, new: Generation) -> Shares:
    """Return the share of all keys, from 0 to 1, that move from each old shard to each new shard.

    The result maps the pair (old shard, new shard) to the share. Keys that stay in a shard of the
    same name are left out. The result is empty if a ring has no shards, or if no key moves.

    Args:
        old: the current generation.
        new: the next generation.

    """
    rings = Ring.of(old.members), Ring.of(new.members)
    if not all(rings) or rings[0].buckets == rings[1].buckets:
        return {}
    return {pair: share for pair, share in flows(*rings).items() if pair[0] != pair[1]}


def waits(
    backlogs: Mapping[Generation, Backlog],
    state: RingState,
    wanted: Generation,
    moving: Shares,
    rates: Mapping[str, float],
) -> tuple[Wait, ...]:
    """Return the wait for each old shard with messages, the shard with most messages first.

    The plan shows how long later records of each old shard's keys wait after the switch.

    Args:
        backlogs: maps each generation to its shards with messages.
        state: the state of the ring: its current generation, and the generations that drain.
        wanted: the next generation.
        moving: maps each pair (shard of the current generation, shard of the next generation) to
            the share of all keys, from 0 to 1, that move from the one to the other.
        rates: maps each consumer to the number of messages that it handles per second. A consumer
            whose rate is not known is left out.

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
            for shard, queue in backlog.items():
                rate = rates.get(shard) if queue.consumers else None
                yield Wait(
                    shard=shard,
                    generation=generation.digest,
                    messages=queue.ready,
                    unacknowledged=queue.unacknowledged,
                    moved_to=tuple(name for _, name in sorted(targets[shard])),
                    consumers=queue.consumers,
                    per_second=round(rate, 1) if rate else None,
                    seconds=round(queue.messages / rate, 1) if rate else None,
                )

    return tuple(sorted(found(), key=lambda wait: -wait.messages - wait.unacknowledged))


def total_seconds(waits: Sequence[Wait]) -> float | None:
    """Return the time until all messages of old shards are handled; None if it is not known.

    The shards work at the same time. But if a shard has messages in several generations, the times
    of these generations are added, because one consumer handles all of them.

    Args:
        waits: the wait for each old shard with messages.

    """
    seconds: defaultdict[str, float] = defaultdict(float)
    for wait in waits:
        if wait.seconds is None:
            return None
        seconds[wait.shard] += wait.seconds
    return max(seconds.values(), default=None)
