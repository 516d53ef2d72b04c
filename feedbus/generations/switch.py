"""The switch from one generation of a ring to the next.

A ring is an x-consistent-hash exchange with the queues of its shards. If the shards, their weights
or the arguments of their queues change, a new ring with new queues is declared: a new *generation*.
The steps of the switch are in docs/internals/resharding.md.

The *state* of a ring says which generation is current, and which old ones still have queues. The
state is one message, and the broker keeps two copies of this message (state_queues.py). Consumers
and publishers read the copy in the readers' queue. Processes that change the state read the copy in
the ledger. The state also says which topology file has declared the current ring, and on which
host. So a host with an older file can see that it must not replace this ring.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.errors import UsageError
from feedbus.generations import older_topology_files, state_queues
from feedbus.generations.held_messages import append_held
from feedbus.generations.ring_state import RingState
from feedbus.logs import EventLog
from feedbus.topology import Generation, Topology
from feedbus.units import counted
from feedbus.wire.amqp_protocols import Channel
from feedbus.wire.constants import FENCE, KEY, RELEASE

events = EventLog(__name__)

EXIT_AT = "FEEDBUS_EXIT_AT"  # an environment variable, see exit_after_step()
EXIT_CODE = 99
# Why a ring cannot be changed to one without shards.
NO_SHARDS = (
    "no queue in the topology uses this exchange any more, so no consumer would empty its old"
    " queues. Remove [exchanges.{exchange}], too, and run `feedbus apply` while the consumers of"
    " the removed queues still run: then they empty these queues"
)


def switch_ring(
    channel: Channel,
    topology: Topology,
    exchange: str,
    report: Callable[[str], None] | None = None,
) -> RingState:
    """Switch to the ring that the topology declares, and return the resulting state.

    Messages that arrive during the switch are held in a queue of their own. Then they are appended
    to the queues of the old ring. The records of a key in these queues are handled before its
    records in the new ring, so each key stays in order. If the process is killed, call the function
    again: every step can be repeated. The new call first completes the interrupted switch, even if
    the topology has changed since the interruption.

    A *disordered* ring is replaced, too, even if the topology declares the same shards. A broker
    that restarts can bind the queues of a ring again, in another order than feedbus. The order of
    the bindings determines the shard of a key. So in a disordered ring, keys reach shards that do
    not own them.

    After this function, the caller calls switch_notices.notify_consumers().

    Args:
        channel: a channel to the broker; the caller holds the topology's lock.
        topology: the topology.
        exchange: the name of the exchange.
        report: called with a text for the operator if the switch has to wait until the new queues
            are on the broker's disk.

    Raises:
        NoRoomError: a full queue has no room for a held message. The switch is interrupted. The
            caller releases the lock for a moment, and calls the function again.
        Outage: no ring has a queue for a held message; an operator may have deleted the queues.
        UsageError: neither the ledger nor the readers' queue has a state, but one of them has a
            message that feedbus did not write. Or the topology has removed the last queue of the
            ring.

    """
    names = Names(topology)
    wanted_generation = topology.generation(exchange)
    state = state_queues.read_locked(channel, topology, exchange)
    if state is not None and not state.switch_complete:
        state = _carry_out(channel, names, state)
    if state is None:
        state = older_topology_files.with_newer_source(
            RingState(wanted_generation, switch_complete=False), topology
        )
    elif same_ring(state.current, wanted_generation) and not state.disordered:
        # An operator may have deleted queues of the ring, or the entry. They are declared again.
        # A new entry has no binding to the ring until _connect(), so messages that arrive before
        # that are held. The held messages are appended to the ring's queues before the entry is
        # bound, because messages that arrive after the binding are newer. Only a message that
        # arrives between append_held() and _connect() can be overtaken: the second append_held()
        # appends it.
        broker.declare_ring(channel, names, state.current)
        append_held(channel, names, exchange, (state.current,))
        _connect(channel, names, state.current)
        earlier_state, state = state, older_topology_files.with_newer_source(state, topology)
        if state != earlier_state:
            state = state_queues.write(channel, names, state)
        else:
            state_queues.repair(channel, names, state)
        # Usually, the queue of held messages is empty. But a message can have arrived there between
        # append_held() and _connect(), or, with a slow broker, after the last switch had emptied
        # the queue.
        append_held(channel, names, exchange, (state.current,))
        return state
    elif loses_all_shards(state, wanted_generation):
        msg = f"ring '{exchange}': {NO_SHARDS.format(exchange=exchange)}"
        raise UsageError(msg)
    else:
        draining = (*state.draining, state.current)
        disordered = (state.current.number,) if state.disordered else ()
        state = replace(
            older_topology_files.with_replaced_ring(state, topology, wanted_generation),
            current=next_generation(state, wanted_generation),
            draining=draining,
            switch_complete=False,
            disordered=False,
            disordered_draining=(*state.disordered_draining, *disordered),
        )
    # A new quorum queue can lose confirmed messages if the broker is killed before the queue is on
    # its disk. So declare_ring() waits, after it has declared the new queues, for the time that the
    # broker needs to write them to its disk. The readers' queue and the ledger are declared before,
    # so this wait is enough for them, too.
    state_queues.declare(channel, topology, exchange)
    broker.declare_ring(channel, names, state.current, report)
    exit_after_step("declared")
    return _carry_out(channel, names, state)


def _carry_out(channel: Channel, names: Names, state: RingState) -> RingState:
    """Carry out a switch whose new ring is declared; repeat the steps of an interrupted one."""
    # The state is written first. While the state says that the switch is not complete, consumers do
    # not delete a queue of the ring that is replaced. After a crash, the next call finds the switch
    # in the state.
    state = state_queues.write(channel, names, state)
    exit_after_step("written")
    for old in state.draining:
        _disconnect(channel, names, old)
    exit_after_step("disconnected")
    _connect(channel, names, state.current)
    exit_after_step("connected")
    if state.draining:
        # The broker may already have routed a message to an old queue, and the message arrives
        # there only a moment later. The held messages must come after this message.
        channel.connection.clock.sleep(broker.in_flight_seconds(names.topology))
    # The held messages go to the old ring that this switch replaces. Consumers do not delete its
    # queues before the switch is complete. If an operator has deleted one of them, the held
    # messages for it go to the new ring.
    generations = (*state.draining[-1:], state.current)
    append_held(channel, names, state.current.exchange, generations)
    if state.draining:
        exit_after_step("appended")
    state = state_queues.write(channel, names, replace(state, switch_complete=True))
    exit_after_step("completed")
    return state


def next_generation(state: RingState, wanted: Generation) -> Generation:
    """Return the wanted ring as the generation that follows the current one.

    Args:
        state: the state of the ring, with the current generation.
        wanted: the generation that the topology declares; its number is replaced.

    """
    # Each generation of an exchange has a number of its own. So a pack that arrives late cannot
    # reach the queues of a later generation, even if that generation has the same shards: the
    # routing key of a pack contains the digest of its generation, which depends on the number.
    return replace(wanted, number=state.current.number + 1)


def same_ring(one: Generation, other: Generation) -> bool:
    """Whether two generations have the same shards, weights and arguments of queues.

    Their numbers are not compared. Between two such generations, no switch is needed.

    Args:
        one: a generation of an exchange.
        other: another generation of the same exchange.

    """
    return (one.members, one.shape) == (other.members, other.shape)


def loses_all_shards(state: RingState, wanted: Generation) -> bool:
    """Whether the topology has removed the last queue of a ring, but not its exchange.

    No switch to a ring without shards is possible: after a switch, the consumers of the new ring
    empty the old queues, and a ring without shards has no consumers.

    Args:
        state: the state of the ring.
        wanted: the generation that the topology declares.

    """
    return bool(state.current.members) and not wanted.members


def exit_after_step(name: str) -> None:
    """End the process, as a crash would, if the variable FEEDBUS_EXIT_AT names this step.

    Tests of interruptions set the variable.

    Args:
        name: the name of the step that has just been done.

    """
    if os.environ.get(EXIT_AT) == name:
        os._exit(EXIT_CODE)


def forget_drained(channel: Channel, topology: Topology, generation: Generation) -> None:
    """Remove a generation from the state after its queues were deleted, and delete its ring.

    A consumer calls this when it has found that all queues of the generation are deleted.

    Args:
        channel: a channel to the broker; the caller holds the topology's lock.
        topology: the topology.
        generation: the generation, which is not current.

    """
    state = state_queues.read_locked(channel, topology, generation.exchange)
    if state is None:
        return
    names = Names(topology)
    # The waiting queues are deleted before the generation is removed from the state. If this
    # process is killed between these steps, another process finds the generation in the state, and
    # calls this function again. In the other order, no process would delete the waiting queues.
    for queue in names.members(generation):
        _delete_waiting(channel, names.waiting(queue), names.exchange(generation.exchange))
    if generation in state.draining:
        remaining = tuple(old for old in state.draining if old != generation)
        disordered = (each for each in state.disordered_draining if each != generation.number)
        state = replace(state, draining=remaining, disordered_draining=tuple(disordered))
    # The state is written even if the ledger no longer contains the generation. write() writes to
    # the ledger first, and then to the readers' queue. If an earlier call was killed between these
    # steps, consumers still find the generation in the readers' queue, and call this function
    # again. Then this call must write to the readers' queue.
    state_queues.write(channel, names, state)
    channel.exchange_delete(names.ring(generation))


def _delete_waiting(channel: Channel, queue: str, exchange: str) -> None:
    """Delete the waiting queue of a shard whose queue was deleted; keep it if it has records."""
    count = broker.count_messages(channel.connection, queue)
    if count and not _delete_control_messages(channel, queue):
        events.error(
            "waiting_queue_kept",
            f"the waiting queue {queue} was not deleted: it has {counted(count, 'message')}, but"
            " the queue of the shard does not exist (an operator or feedbus 0.1 has deleted it);"
            f" publish each message to exchange {exchange} with the value of its header {KEY} as"
            " the routing key, and remove it from the queue; `feedbus plan` lists the queue until"
            " it is empty",
            queue=queue,
            exchange=exchange,
            messages=count,
        )
    elif count is not None:
        channel.queue_delete(queue)


def _delete_control_messages(channel: Channel, queue: str) -> bool:
    """Delete the messages at the front of a waiting queue, up to the first record.

    Two kinds of messages are deleted: notices (they have the header FENCE, as fences do), and the
    messages by which `feedbus dead drop` releases keys (header RELEASE). The queue has no consumer.

    Returns:
        True if the queue is empty now; False if it has a record.

    """
    while (message := channel.basic_get(queue)) is not None:
        if {FENCE, RELEASE}.isdisjoint(message.properties.get("application_headers") or {}):
            channel.basic_reject(message.delivery_tag, requeue=True)
            return False
        channel.basic_ack(message.delivery_tag)
    return True


def record_disorder(channel: Channel, topology: Topology, generation: Generation) -> None:
    """Mark a ring as disordered in its state.

    In a disordered ring, keys reach shards that do not own them (see switch_ring()). A consumer
    calls this function when it finds such a ring. If the ring is current, the next call of
    switch_ring() makes a new generation with the same shards. If the ring is old, new records then
    wait for all its queues, because each of them can have records of any key.

    Args:
        channel: a channel to the broker; the caller holds the topology's lock.
        topology: the topology.
        generation: the disordered generation.

    """
    state = state_queues.read_locked(channel, topology, generation.exchange)
    if state is None:
        return
    if state.current == generation and not state.disordered:
        state_queues.write(channel, Names(topology), replace(state, disordered=True))
    elif generation in state.draining and generation.number not in state.disordered_draining:
        disordered = (*state.disordered_draining, generation.number)
        state_queues.write(channel, Names(topology), replace(state, disordered_draining=disordered))


def _connect(channel: Channel, names: Names, generation: Generation) -> None:
    """Route plain messages and packs to a generation."""
    channel.exchange_bind(names.ring(generation), names.exchange(generation.exchange), "")
    for member, _ in generation.members:
        queue, key = names.member(generation, member), names.pack_key(generation, member)
        channel.queue_bind(queue, names.packs(generation.exchange), key)


def _disconnect(channel: Channel, names: Names, generation: Generation) -> None:
    """Stop routing messages to a generation.

    From now on, packs are returned to their publisher, and plain messages are held. Queues of the
    generation may already be deleted: to unbind a missing queue is no error.
    """
    for member, _ in generation.members:
        queue, key = names.member(generation, member), names.pack_key(generation, member)
        channel.queue_unbind(queue, names.packs(generation.exchange), key)
    channel.exchange_unbind(names.ring(generation), names.exchange(generation.exchange), "")
