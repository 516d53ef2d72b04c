"""Hosts whose topology files differ: an older file must not replace the ring of a newer file.

The state of a ring contains its source: which file has declared the current ring, and on which
host.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from feedbus.errors import UsageError
from feedbus.generations.ring_state import RingState
from feedbus.hosts.topology_file import TopologyFile
from feedbus.topology import Generation, Topology
from feedbus.units import counted

MAX_REPLACED = 20  # the largest number of replaced rings that a state contains


def refuse_older(states: Iterable[RingState], topology: Topology) -> None:
    """Raise an error if this host's file would replace the ring of another host's newer file.

    `feedbus up` and `feedbus apply` call this before they change the broker.

    Args:
        states: the states of all rings, read under the topology's lock before anything is changed.
        topology: the topology of the file.

    Raises:
        UsageError: three conditions are true: a file of another host has declared the current ring;
            this host's file declares another ring; the file of the other host is newer, or the ring
            that this host's file declares was already replaced.

    """
    for state in states:
        if refusal := refusal_reason(state, topology):
            raise UsageError(refusal)


def refusal_reason(state: RingState, topology: Topology) -> str:
    """Return why this host's file must not replace the current ring; "" if it may.

    If the current ring is from a file of the same host, the result is always "": a host may return
    to an earlier file of its own. The result is also "" if this host's file declares the current
    ring. Otherwise, this host's file is refused if it is older than the file of the current ring.
    But a deployment can set the same modification time on every file. So this host's file is
    refused, too, if the ring that it declares was already replaced.

    `feedbus plan` shows the reason, and refuse_older() raises it.

    Args:
        state: the state of the ring of the exchange.
        topology: the topology of this host's file.

    """
    own_file, source, current = TopologyFile.of(topology), state.source, state.current
    wanted_generation = topology.generation(current.exchange)
    if (
        own_file is None
        or source is None
        or source.host == own_file.host
        or _ring_digest(current) == _ring_digest(wanted_generation)
    ):
        return ""
    if own_file.modified < source.modified:
        why = "is older than the file that declared the current ring"
    elif _ring_digest(wanted_generation) in state.replaced:
        why = "declares an earlier ring, which was replaced by the ring of another file"
    else:
        return ""
    return (
        f"ring '{current.exchange}': {own_file}, {why}: {source}. This host's file declares"
        f" {counted(len(wanted_generation.members), 'shard')}, and the current ring has"
        f" {len(current.members)}. Nothing was changed, and the other hosts continue. Copy the"
        " current file to this host, and try again. If this host's file is the correct one, copy"
        " it to all hosts, and run `feedbus apply --older-file` here"
    )


def with_newer_source(state: RingState, topology: Topology) -> RingState:
    """Return the state with this host's file as its source, if this file is newer than the source.

    The source of a state is the file, with its host, that has declared the current ring. Files of
    other hosts that are older than the source must not replace the ring.

    switch_ring() calls this if this host's file declares the same ring as the state, or if the
    exchange has no ring yet.

    Args:
        state: the state of the ring of the exchange.
        topology: the topology of this host's file.

    """
    own_file = TopologyFile.of(topology)
    if own_file is None or (
        state.source is not None and own_file.modified <= state.source.modified
    ):
        return state
    return replace(state, source=own_file)


def with_replaced_ring(state: RingState, topology: Topology, wanted: Generation) -> RingState:
    """Return the state with this host's file as source; the current ring counts as replaced.

    switch_ring() calls this before it replaces the current ring. The source of a state is the file,
    with its host, that declares the ring. The current ring is added to the state's list of replaced
    rings. If a file of another host declares a ring of this list later, that file is refused.

    If the wanted ring has the same members and arguments as the current one, the state is returned
    unchanged. Then the current ring is replaced only because it is disordered.

    Args:
        state: the state of the ring on the broker.
        topology: the topology of this host's file.
        wanted: the generation that this topology declares.

    """
    before, after = _ring_digest(state.current), _ring_digest(wanted)
    if before == after:
        return state
    replaced = [digest for digest in (*state.replaced, before) if digest != after]
    return replace(
        state,
        source=TopologyFile.of(topology),
        replaced=tuple(dict.fromkeys(replaced))[-MAX_REPLACED:],
    )


def _ring_digest(generation: Generation) -> str:
    """Return a digest that all generations with the same members and arguments have."""
    return replace(generation, number=0).digest
