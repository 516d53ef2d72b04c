"""Declare a whole topology on its broker, and finish interrupted changes."""

from __future__ import annotations

from collections.abc import Callable

from feedbus import broker
from feedbus.broker import declarations, external_objects, project_marks, timer_objects
from feedbus.broker_names import Names
from feedbus.errors import UsageError
from feedbus.generations import (
    older_topology_files,
    queue_replacement,
    retry_queue_replacement,
    state_queues,
    switch_notices,
)
from feedbus.generations.full_queues import repeat_while_full
from feedbus.generations.leaving_consumers import wait_for_consumers_to_leave
from feedbus.generations.ring_state import RingState
from feedbus.generations.switch import switch_ring
from feedbus.logs import EventLog
from feedbus.topology import Topology
from feedbus.units import counted
from feedbus.wire.amqp_protocols import Channel, Connection

events = EventLog(__name__)


def set_up(
    topology: Topology, *, on_full: Callable[[], None] = lambda: None
) -> dict[str, RingState]:
    """Declare a whole topology and make its rings current; return the state of each ring.

    `feedbus up` calls this at its start. Existing queues keep their messages.

    Args:
        topology: the topology of the file.
        on_full: called if held messages wait for room in a full queue of a ring. It must start the
            consumers, so that one of them reads that queue.

    Raises:
        Outage: the broker is unavailable.
        UsageError: an object exists with other arguments, another command changes the broker at the
            same time, another host's file is newer, or another host consumes shards that would have
            to be declared again.

    """
    before: dict[str, RingState] = {}
    with (
        broker.connect(topology) as connection,
        broker.outage(connection, topology.broker_url),
    ):

        def change(channel: Channel) -> dict[str, RingState]:
            external_objects.check_on_broker(connection, topology)
            return _declare_and_switch(channel, topology, before)

        states = repeat_while_full(connection, topology, change, on_full)
        switch_notices.notify_consumers(connection, topology, states.values())
    for name, state in before.items():
        earlier, now = state.current, states[name].current
        if earlier != now:
            events.warning(
                "publishing_switched",
                f"{name}: publishing switched from generation {earlier.digest}"
                f" ({counted(len(earlier.members), 'shard')}) to generation {now.digest}"
                f" ({counted(len(now.members), 'shard')}), because {topology.path} has changed;"
                " every host of the project needs the same file",
                exchange=name,
                generation=now.digest,
            )
    return states


def _declare_and_switch(
    channel: Channel, topology: Topology, before: dict[str, RingState]
) -> dict[str, RingState]:
    """Declare a topology and make its rings current; return the states of the rings.

    set_up() calls this again if a full queue has interrupted the switch of a ring.

    Args:
        channel: a channel to the broker; the caller holds the topology's lock.
        topology: the topology.
        before: a dict to which the state of each ring is added, as it was before its switch.

    """
    connection = channel.connection
    seen_states = state_queues.read_all_locked(channel, topology)
    older_topology_files.refuse_older(seen_states.values(), topology)
    project_marks.declare_marks(channel, topology)
    _end_replacements(connection, topology)
    broker.declare(channel, topology)
    timer_objects.restore(channel, Names(topology))
    # Whether another host consumes from a ring is checked in the first call only. Before a later
    # call, on_full() may have started consumers of this host, and the check would count them.
    for name in sorted(seen_states.keys() - before.keys()):
        _refuse_consumed(connection, topology, seen_states[name])
        before[name] = seen_states[name]
    return {
        exchange.name: switch_ring(channel, topology, exchange.name)
        for exchange in topology.exchanges.values()
        if exchange.hashed
    }


def _refuse_consumed(connection: Connection, topology: Topology, state: RingState) -> None:
    """Refuse to switch to queues with other arguments while other hosts consume from the ring.

    Otherwise, each start of one of the hosts would switch the ring to the arguments of that host.

    Raises:
        UsageError: another host consumes a queue of the ring.

    """
    exchange = state.current.exchange
    if state.current.shape == topology.generation(exchange).shape:
        return
    names = Names(topology)
    rings = (*state.draining, state.current)
    shards = [queue for ring in rings for queue in names.members(ring)]
    if consumed := wait_for_consumers_to_leave(connection, broker.clock(topology), shards):
        msg = (
            f"ring '{exchange}': {topology.path.name} declares its queues with other arguments than"
            f" the broker has, and another host consumes from {', '.join(consumed)}. That host has"
            f" feedbus 0.1, or another topology. Run `feedbus down` on each such host, then"
            f" `feedbus up` here. If all hosts run this version of feedbus, run `feedbus apply` on"
            f" one of them instead: it changes the ring while consumers run"
        )
        raise UsageError(msg)


def _end_replacements(connection: Connection, topology: Topology) -> None:
    """Finish the replacements of queues that an interrupted `feedbus apply` has begun.

    `feedbus apply` replaces a queue without shards, or a retry queue, if its arguments have
    changed. The messages of the queue are in other queues meanwhile.
    """
    names = Names(topology)
    for consumer in topology.consumers.values():
        if consumer.queue.external_name or topology.on_ring(consumer.queue):
            continue
        if broker.exchange_exists(connection, names.gate(consumer)):
            declarations.declare_exchanges(connection.channel(), names)
            queue_replacement.QueueReplacement(connection, topology, consumer).carry_out()
    for queue in topology.queues.values():
        for delay in queue.retry.delays_milliseconds:
            retry_queue = names.retry_queue(queue, delay)
            if broker.queue_exists(connection, names.parked_retries(retry_queue)):
                broker.declare_retry_queue(connection.channel(), names, queue, delay)
                retry_queue_replacement.unpark(connection, topology, queue, retry_queue)


def set_up_if_missing(topology: Topology) -> dict[str, RingState]:
    """Return the state of each ring; declare the topology if the broker has nothing of it.

    Existing objects stay unchanged. Only `feedbus up` and `feedbus apply` change them, so that a
    process that was started before a change does not undo the change.

    Consumers, publishers and commands call this when they connect.

    Args:
        topology: the topology of the file.

    Raises:
        Outage: the broker is unavailable.
        UsageError: an object exists with other arguments, another command changes the broker at the
            same time, another host's file is newer, or another host consumes shards that would have
            to be declared again.

    """
    names = Names(topology)
    with (
        broker.connect(topology) as connection,
        broker.outage(connection, topology.broker_url),
    ):
        entries = [
            names.exchange(exchange.name)
            for exchange in topology.exchanges.values()
            if not exchange.external_name
        ]
        # If all exchanges belong to other systems, only the project's marks can show that the
        # topology was declared. A mark is an exchange without bindings.
        declared = entries or project_marks.marks(topology)
        if any(broker.exchange_exists(connection, entry) for entry in declared):
            return state_queues.states(connection, topology)
    return set_up(topology)
