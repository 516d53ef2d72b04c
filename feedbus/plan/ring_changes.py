"""The changes of the ring of each x-consistent-hash exchange, and their effects on keys.

A ring is such an exchange on the broker with the queues of its shards. A changed ring is a new
*generation* with its own queues.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from feedbus.broker.inventory import Inventory
from feedbus.broker_names import Names
from feedbus.generations import older_topology_files, predecessors, switch
from feedbus.generations.ring_state import RingState
from feedbus.name_list import listed
from feedbus.plan.changes import Draining, Evenness, HotKey, RingChange
from feedbus.plan.key_waits import Backlog, Rates, find_backlog, shares, total_seconds, waits
from feedbus.ring import max_over_share
from feedbus.topology import Exchange, Generation, Queue, Topology
from feedbus.units import counted

KEYS = 10_000  # how many keys are placed to predict the evenness of a ring


def changes(
    topology: Topology, seen: Inventory, states: Mapping[str, RingState], *, predict: bool
) -> Iterator[RingChange]:
    """Yield a change for each hash exchange that gets a new generation.

    A change is also yielded if a switch to a new generation was interrupted. make_plan() calls
    this.

    Args:
        topology: the wanted state.
        seen: the objects that the broker has.
        states: maps the name of each hash exchange to the state of its ring.
        predict: whether to predict which keys move, and how long they wait. The prediction takes
            some seconds.

    """
    rates = Rates(topology.var / "metrics") if predict else None
    for exchange in topology.exchanges.values():
        if not exchange.hashed:
            continue
        wanted = topology.generation(exchange.name)
        state = states.get(exchange.name)
        if state is None:
            first = _evenness(wanted) if rates else None
            yield RingChange(exchange.name, None, wanted.digest, "the first ring", after=first)
        elif (
            not (state.switch_complete and switch.same_ring(state.current, wanted))
            or state.disordered
        ):
            names = Names(topology)
            backlogs = {
                generation: find_backlog(names, seen, generation)
                for generation in (*state.draining, state.current)
            }
            change = _change(state, wanted, backlogs)
            known = [
                predecessors.are_known(topology, queue) for queue in _queues(topology, exchange)
            ]
            change = replace(change, waits_for_all=not all(known))
            if older_topology_files.refusal_reason(state, topology):
                reason = (
                    f"{change.reason}; refused, because another host's file is newer, or has"
                    " replaced the ring that this file declares"
                )
                change = replace(change, reason=reason)
            yield _predict(change, state, wanted, backlogs, rates) if rates else change


def _queues(topology: Topology, exchange: Exchange) -> list[Queue]:
    return [each for each in topology.queues.values() if each.exchange == exchange.name]


def _change(
    state: RingState, wanted: Generation, backlogs: Mapping[Generation, Backlog]
) -> RingChange:
    old = state.current
    if switch.same_ring(old, wanted) and not state.disordered:
        return RingChange(
            old.exchange, old.digest, old.digest, "an interrupted switch is completed"
        )
    queues = [queue for backlog in backlogs.values() for queue in backlog.values()]
    new = switch.next_generation(state, wanted)
    return RingChange(
        old.exchange,
        old.digest,
        new.digest,
        _reason(state, wanted),
        backlog_messages=sum(queue.ready for queue in queues),
        unacknowledged_messages=sum(queue.unacknowledged for queue in queues),
    )


def _predict(
    change: RingChange,
    state: RingState,
    wanted: Generation,
    backlogs: Mapping[Generation, Backlog],
    rates: Rates,
) -> RingChange:
    if change.old == change.new:
        return change
    moving = shares(state.current, wanted)
    before, after = _evenness(state.current), _evenness(wanted)
    messages: Counter[str] = Counter()
    for backlog in backlogs.values():
        messages.update({name: one.messages for name, one in backlog.items() if one.consumers})
    found = waits(backlogs, state, wanted, moving, rates.measure(messages))
    return replace(
        change,
        moved_share=sum(moving.values()),
        before=before,
        after=after,
        drain_seconds=total_seconds(found),
        measured_seconds=rates.measured_seconds,
        waits=found,
    )


def _reason(state: RingState, wanted: Generation) -> str:
    old = dict(state.current.members)
    new = dict(wanted.members)
    reasons = []
    if len(old) != len(new):
        reasons.append(f"{counted(len(old), 'shard becomes', 'shards become')} {len(new)}")
    elif old.keys() != new.keys():
        reasons.append("the names of the shards have changed")
    reweighted = [name for name in new if name in old and old[name] != new[name]]
    if reweighted:
        changed = [f"{name} {old[name]} to {new[name]}" for name in reweighted]
        reasons.append(f"weights differ: {listed(changed)}")
    if state.current.shape != wanted.shape:
        reasons.append("its queues' arguments differ")
    if state.disordered:
        reasons.append("the broker has rebuilt the ring in another order")
    if not reasons:
        reasons.append("the order of the shards has changed")
    if not state.switch_complete:
        reasons.append("an interrupted switch is completed first")
    return "; ".join(reasons)


def _evenness(generation: Generation) -> Evenness | None:
    if not generation.members:
        return None
    from feedbus.ring.bulk_placement import buckets_of  # numpy takes a tenth of a second to load

    owners = [queue for queue, weight in generation.members for _ in range(weight)]
    keys = [str(key) for key in range(1, KEYS + 1)]
    counts = Counter(owners[bucket] for bucket in buckets_of(keys, len(owners)))
    return Evenness(len(generation.members), round(max_over_share(counts, generation.members), 4))


def list_draining(
    topology: Topology, seen: Inventory, states: Mapping[str, RingState]
) -> list[Draining]:
    """Return the generations that a newer one has replaced, but whose queues are not all deleted.

    Args:
        topology: the wanted state.
        seen: the objects that the broker has.
        states: maps the name of each hash exchange to the state of its ring.

    """
    names = Names(topology)

    def draining(exchange: str, old: Generation) -> Draining:
        queues = find_backlog(names, seen, old).values()
        return Draining(
            exchange,
            old.digest,
            sum(queue.ready for queue in queues),
            sum(queue.unacknowledged for queue in queues),
        )

    return [draining(exchange, old) for exchange, state in states.items() for old in state.draining]


def hot_key(generation: Generation, key: str, share: float) -> HotKey | None:
    """Return a HotKey if the key has more records than an average shard; otherwise None.

    `feedbus plan` calls this if a sample of keys is given.

    Args:
        generation: the generation of the ring.
        key: the most frequent key of a sample.
        share: the part of all records of the sample that have this key, from 0 to 1.

    """
    shard_share = 1 / len(generation.members) if generation.members else 1.0
    if share <= shard_share:
        return None
    return HotKey(key, share, shard_share)
