"""The switch from one generation of a ring to the next.

The steps are in docs/internals/resharding.md. The ledger contains the state of the ring. A state is
*settled* when the switch to its current generation is complete. Its *source* is the topology file
that asked for the current ring: a host with an older file must not replace this ring.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from amqp.exceptions import NotFound

from feedbus import broker
from feedbus.broker.publisher import NACKED_SECONDS, publish_all
from feedbus.broker_names import Names
from feedbus.generations import older_topology_files, probes, ring_state
from feedbus.generations.held_messages import append_held
from feedbus.generations.ring_state import State
from feedbus.logs import EventLog
from feedbus.topology import Generation, Topology
from feedbus.wire.amqp_protocols import Channel, Connection
from feedbus.wire.constants import FENCE, KEY

events = EventLog(__name__)

EXIT_AT = "FEEDBUS_EXIT_AT"
EXIT_CODE = 99


def make_current(
    channel: Channel,
    topology: Topology,
    exchange: str,
    report: Callable[[str], None] | None = None,
    *,
    on_full: Callable[[], None] = lambda: None,
) -> State:
    """Make the ring that the topology declares the current one, and return the resulting state.

    Messages that arrive during the switch are held. Then they are appended to the queues of the old
    ring, whose records are handled before the records of the new ring. So each key stays in order.
    After a crash, the function is called again, because every step can be repeated. It first
    completes an interrupted switch, even if the topology has changed since.

    Args:
        channel: a channel to the broker; the caller holds the topology's lock.
        topology: the topology.
        exchange: the name of the exchange.
        report: called with the reason if the switch takes long.
        on_full: called if held messages wait for a full queue.

    """
    names = Names(topology)
    wanted = topology.generation(exchange)
    state = ring_state.read_locked(channel, topology, exchange)
    if state is not None and not state.settled:
        state = _carry_out(channel, names, state, on_full)
    if state is None:
        state = older_topology_files.with_newer_source(State(wanted, settled=False), topology)
    elif same_ring(state.current, wanted) and not state.disordered:
        broker.declare_ring(channel, names, state.current)
        known, state = state, older_topology_files.with_newer_source(state, topology)
        if state != known:
            state = ring_state.write(channel, names, state)
        else:
            ring_state.repair(channel, names, state)
        # Usually, no held messages are left. A slow broker can have held some after the last
        # switch.
        append_held(channel, names, exchange, (state.current,), on_full)
        return state
    else:
        draining = (*state.draining, state.current)
        scattered = (state.current.turn,) if state.disordered else ()
        state = replace(
            older_topology_files.with_replaced_ring(state, topology, wanted),
            current=next_generation(state, wanted),
            draining=draining,
            settled=False,
            disordered=False,
            scattered=(*state.scattered, *scattered),
        )
    # The ledger's queues are declared first: declare_ring() waits until all queues are on disk.
    ring_state.declare(channel, topology, exchange)
    broker.declare_ring(channel, names, state.current, report)
    step("declared")
    return _carry_out(channel, names, state, on_full)


def _carry_out(channel: Channel, names: Names, state: State, on_full: Callable[[], None]) -> State:
    """Carry out a switch whose new ring is declared; an interrupted switch starts again."""
    # The state is written first. While it is not settled, consumers delete no queue. After a crash,
    # the ledger shows that this switch must be completed.
    state = ring_state.write(channel, names, state)
    step("written")
    for old in state.draining:
        _disconnect(channel, names, old)
    step("disconnected")
    _connect(channel, names, state.current)
    step("connected")
    if state.draining:
        # A message that the broker has routed to an old queue may arrive there later. The held
        # messages must come after it.
        channel.connection.clock.sleep(broker.in_flight_seconds(names.topology))
    # The held messages go to the newest old ring. If this step is repeated after a crash, that ring
    # may already be deleted; then they go to the new ring.
    generations = (*state.draining[-1:], state.current)
    append_held(channel, names, state.current.exchange, generations, on_full)
    if state.draining:
        step("appended")
        for old in state.draining:
            fence(channel, names, old)
        step("fenced")
    state = ring_state.write(channel, names, replace(state, settled=True))
    step("settled")
    for old in state.draining:
        notify(channel.connection, names, old, state.current)
    return state


def next_generation(state: State, wanted: Generation) -> Generation:
    """Return the generation that follows the current one."""
    # No two generations have the same number (turn). So a pack that arrives late cannot reach the
    # queues of a later generation with the same shards.
    return replace(wanted, turn=state.current.turn + 1)


def same_ring(one: Generation, other: Generation) -> bool:
    """Whether two generations have the same shards, weights and arguments of queues."""
    return (one.members, one.shape) == (other.members, other.shape)


def step(name: str) -> None:
    """End the process after this step if FEEDBUS_EXIT_AT names the step; tests use it."""
    if os.environ.get(EXIT_AT) == name:
        os._exit(EXIT_CODE)


def forget_drained(channel: Channel, topology: Topology, generation: Generation) -> None:
    """Remove a generation from the state after its queues were deleted, and delete its ring.

    The caller holds the topology's lock.
    """
    state = ring_state.read_locked(channel, topology, generation.exchange)
    if state is None:
        return
    names = Names(topology)
    if generation in state.draining:
        left = tuple(old for old in state.draining if old != generation)
        scattered = tuple(turn for turn in state.scattered if turn != generation.turn)
        state = replace(state, draining=left, scattered=scattered)
    # The state is written even if nothing changes, because the caller may have read an earlier
    # state.
    ring_state.write(channel, names, state)
    channel.exchange_delete(names.ring(generation))
    for queue in names.members(generation):
        _delete_waiting(channel, names.waiting(queue), names.exchange(generation.exchange))


def _delete_waiting(channel: Channel, queue: str, exchange: str) -> None:
    """Delete the waiting queue of a shard that was deleted; keep it if it has records."""
    count = broker.count(channel.connection, queue)
    if count and not _has_only_fences(channel, queue):
        events.error(
            "waiting_queue_kept",
            f"the waiting queue {queue} was not deleted: it has {count} messages, but the queue of"
            " their shard does not exist (an operator or feedbus 0.1 has deleted it); publish each"
            f" message to exchange {exchange} with the routing key in its header {KEY}, and remove"
            " it from the queue; `feedbus plan` lists the queue until it is empty",
            queue=queue,
            exchange=exchange,
            messages=count,
        )
    elif count is not None:
        channel.queue_delete(queue)


def _has_only_fences(channel: Channel, queue: str) -> bool:
    """Whether a queue without a consumer has only fences; the fences are deleted."""
    while (message := channel.basic_get(queue)) is not None:
        if FENCE not in (message.properties.get("application_headers") or {}):
            channel.basic_reject(message.delivery_tag, requeue=True)
            return False
        channel.basic_ack(message.delivery_tag)
    return True


def record_disorder(channel: Channel, topology: Topology, generation: Generation) -> None:
    """Write into the state that the broker has bound a ring's shards in the wrong order.

    The next call of make_current() then makes a new generation with the same shards. The caller
    holds the topology's lock.
    """
    state = ring_state.read_locked(channel, topology, generation.exchange)
    if state is None:
        return
    if state.current == generation and not state.disordered:
        ring_state.write(channel, Names(topology), replace(state, disordered=True))
    elif generation in state.draining and generation.turn not in state.scattered:
        scattered = (*state.scattered, generation.turn)
        ring_state.write(channel, Names(topology), replace(state, scattered=scattered))


def _connect(channel: Channel, names: Names, generation: Generation) -> None:
    """Route plain messages and packs to a generation."""
    channel.exchange_bind(names.ring(generation), names.exchange(generation.exchange), "")
    for member, _ in generation.members:
        queue, key = names.member(generation, member), names.pack_key(generation, member)
        channel.queue_bind(queue, names.packs(generation.exchange), key)


def _disconnect(channel: Channel, names: Names, generation: Generation) -> None:
    """Stop routing messages to a generation.

    From now on, packs are returned to their publisher, and plain messages are held.
    """
    for member, _ in generation.members:
        queue, key = names.member(generation, member), names.pack_key(generation, member)
        own_channel = channel.connection.channel()
        try:
            own_channel.queue_unbind(queue, names.packs(generation.exchange), key)
        except NotFound:  # the queue is already drained; the error closes the channel
            continue
        own_channel.close()
    channel.exchange_unbind(names.ring(generation), names.exchange(generation.exchange), "")


def fence(channel: Channel, names: Names, old: Generation) -> None:
    """Publish a fence to each queue of a ring.

    The consumer that receives the fence reads the state of the ring. If the queue belongs to an old
    generation, the consumer proves that it is empty and deletes it. The caller has removed all
    bindings to the ring. A full queue without a consumer gets no fence: the consumer that begins to
    read it puts a fence there.
    """
    connection = channel.connection
    queues = names.members(old)
    while queues:
        fences = [probes.fence(queue, old.digest) for queue in queues]
        refusals = publish_all(connection, fences, nacked_seconds=NACKED_SECONDS)
        full = [each.message.routing_key for each in refusals if each.outcome == "nacked"]
        queues = [queue for queue in full if not _has_no_consumer(connection, queue)]


def notify(connection: Connection, names: Names, old: Generation, current: Generation) -> None:
    """Notify the consumers of an old ring that it was replaced, before they reach the fences.

    The notice is a fence in the waiting queue of each queue. It contains the current generation. So
    the consumers do not have to read the state: only one process at a time can read it. A consumer
    that receives it also reads its new queue. A consumer without a waiting queue, or of an earlier
    version, learns of the switch when it reads the fence of its queue.
    """
    waiting = [names.waiting(queue) for queue in names.members(old)]
    read = [queue for queue in waiting if broker.consumers(connection, queue)]
    body = ring_state.encode_generation(current)
    notices = [probes.fence(queue, old.digest, body=body) for queue in read]
    publish_all(connection, notices, nacked_seconds=0.0)


def _has_no_consumer(connection: Connection, queue: str) -> bool:
    """Whether a queue has messages and no consumer."""
    # A quorum queue whose leader is unavailable reports 0 messages and 0 consumers; then the result
    # is False, and the fence is tried again.
    return bool(broker.count(connection, queue)) and not broker.consumers(connection, queue)
