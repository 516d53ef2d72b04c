"""What becomes of each hash exchange's ring, and what that means for its keys."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from feedbus.broker.inventory import Inventory
from feedbus.broker.names import Names
from feedbus.generations import switch
from feedbus.generations.ledger import State
from feedbus.metrics import deliveries
from feedbus.plan.changes import Draining, Evenness, RingChange
from feedbus.ring import Ring, max_over_share, share_moved
from feedbus.topology import Generation, Topology

KEYS = 10_000
SAMPLE_SECONDS = 1.0


def changes(
    topology: Topology, seen: Inventory, states: Mapping[str, State], *, predict: bool
) -> Iterator[RingChange]:
    """Yield the rings that get a new generation; predicting where keys go takes some seconds."""
    for exchange in topology.exchanges.values():
        if not exchange.hashed:
            continue
        wanted = topology.generation(exchange.name)
        state = states.get(exchange.name)
        if state is None:
            first = _evenness(wanted) if predict else None
            yield RingChange(exchange.name, None, wanted.digest, "the first ring", after=first)
        elif not (state.settled and switch.same(state.current, wanted)) or state.disordered:
            change = _change(topology, seen, state, wanted)
            yield _predicted(topology, change, state, wanted) if predict else change


def _change(topology: Topology, seen: Inventory, state: State, wanted: Generation) -> RingChange:
    old = state.current
    if switch.same(old, wanted) and not state.disordered:
        return RingChange(
            old.exchange, old.digest, old.digest, "an interrupted switch is completed"
        )
    names = Names(topology)
    backlog = sum(messages(names, seen, one) for one in (*state.draining, old))
    new = switch.successor(state, wanted)
    return RingChange(
        old.exchange, old.digest, new.digest, _reason(state, wanted), backlog_messages=backlog
    )


def _predicted(
    topology: Topology, change: RingChange, state: State, wanted: Generation
) -> RingChange:
    old = state.current
    if change.old == change.new:
        return change
    rings = Ring.of(old.members), Ring.of(wanted.members)
    started, handled = time.monotonic(), _handled(topology.var, old)
    return replace(
        change,
        moved_share=share_moved(*rings) if all(rings) else 0.0,
        before=_evenness(old),
        after=_evenness(wanted),
        drain_seconds=_drain_seconds(topology.var, old, change.backlog_messages, handled, started),
    )


def _reason(state: State, wanted: Generation) -> str:
    old = dict(state.current.members)
    new = dict(wanted.members)
    reasons = []
    if len(old) != len(new):
        reasons.append(f"{len(old)} shards become {len(new)}")
    elif old.keys() != new.keys():
        reasons.append("other shards")
    heavier = [name for name in new if name in old and old[name] != new[name]]
    if heavier:
        reasons.append(f"weights differ: {_listed(f'{n} {old[n]} to {new[n]}' for n in heavier)}")
    if state.current.shape != wanted.shape:
        reasons.append("its queues' arguments differ")
    if state.disordered:
        reasons.append("the broker places keys in another order than that of the bindings")
    if not reasons:
        reasons.append("the shards are bound in another order")
    if not state.settled:
        reasons.append("an interrupted switch is completed first")
    return "; ".join(reasons)


def _listed(texts: Iterator[str]) -> str:
    all_of_them = list(texts)
    more = f" and {len(all_of_them) - 3} more" if len(all_of_them) > 3 else ""  # noqa: PLR2004 -- enough to see
    return ", ".join(all_of_them[:3]) + more


def _evenness(generation: Generation) -> Evenness | None:
    if not generation.members:
        return None
    from feedbus.ring.bulk import buckets_of  # numpy takes a tenth of a second to load

    owners = [queue for queue, weight in generation.members for _ in range(weight)]
    keys = [str(key) for key in range(1, KEYS + 1)]
    counts = Counter(owners[bucket] for bucket in buckets_of(keys, len(owners)))
    return Evenness(len(generation.members), round(max_over_share(counts, generation.members), 4))


def messages(names: Names, seen: Inventory, generation: Generation) -> int:
    """Count what is in a generation's queues."""
    members = (names.member(generation, member) for member, _ in generation.members)
    return sum(seen.queues[name].messages for name in members if name in seen.queues)


def _handled(var: Path, generation: Generation) -> int:
    counts = deliveries(var / "metrics")
    return sum(counts.get(member, 0) for member, _ in generation.members)


def _drain_seconds(
    var: Path, generation: Generation, backlog: int, before: int, started: float
) -> float | None:
    if not backlog:
        return 0.0
    time.sleep(max(0.0, started + SAMPLE_SECONDS - time.monotonic()))
    rate = (_handled(var, generation) - before) / (time.monotonic() - started)
    return round(backlog / rate, 1) if rate > 0 else None


def draining(topology: Topology, seen: Inventory, states: Mapping[str, State]) -> list[Draining]:
    """Return the generations that have passed and are not gone yet."""
    names = Names(topology)
    return [
        Draining(exchange, old.digest, messages(names, seen, old))
        for exchange, state in states.items()
        for old in state.draining
    ]
