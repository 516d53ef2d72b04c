"""The phase of a queue: whether it is in use, and if not, whether it can still get messages.

A consumer that receives a fence, the message that marks the end of a queue, must know the phase.
"""

from __future__ import annotations

from typing import Literal

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.errors import UsageError
from feedbus.generations import removed_queues, state_queues
from feedbus.generations.ring_state import RingState
from feedbus.topology import Consumer, Generation, Topology
from feedbus.wire.amqp_protocols import Channel, Connection

# - "in use": the queue is current, so a fence does not end it.
# - "switching": the queue is old, but the switch that replaced it is not complete. So the queue can
#   still get held messages. This is also the result if the latest state of the ring cannot be read,
#   because another process has the topology's lock.
# - "ending": the queue is old and gets no more messages. Its consumer empties and deletes it.
# - "removed": the topology no longer has the queue. It is deleted when its messages, its retries
#   and its waiting records are handled.
Phase = Literal["ending", "switching", "in use", "removed"]


def phase_of(connection: Connection, topology: Topology, consumer: Consumer, queue: str) -> Phase:
    """Return the phase of a consumer's queue, read from the broker.

    The phase is "in use" (the queue is current), "switching" (the queue is old, and can still get
    messages), "ending" (the queue is old, and gets no more messages) or "removed" (the topology no
    longer has the queue).

    A consumer calls this when it receives a fence, and before it puts a fence into an old queue.

    Args:
        connection: a connection to the topology's broker.
        topology: the topology.
        consumer: the consumer that reads the queue.
        queue: the name of the queue on the broker.

    """
    names = Names(topology)
    phase = _phase_without_mark(connection, topology, consumer, queue)
    if phase == "in use" and removed_queues.is_marked(connection, names, queue):
        return "removed"
    return phase


def _phase_without_mark(
    connection: Connection, topology: Topology, consumer: Consumer, queue: str
) -> Phase:
    names = Names(topology)
    if not topology.on_ring(consumer.queue):
        if queue != names.before(consumer):
            return "in use"
        # The queue `before` has the messages of a queue that was replaced by a queue with other
        # arguments (queue_replacement.py). Until the replacement is complete, the queue has an
        # exchange in front of it, the gate.
        is_replacing = broker.exchange_exists(connection, names.gate(consumer))
        return "switching" if is_replacing else "ending"
    exchange = consumer.queue.exchange
    state_before = state_queues.states(connection, topology).get(exchange)
    if _phase_of(names, state_before, queue) == "ending":
        return "ending"
    try:
        # The state in the readers' queue can be out of date. The ledger, which is read under the
        # lock, always has the latest state. If the two differ, the state is written again to both.
        with broker.locked(connection, topology, wait_seconds=0.0):
            channel = connection.channel()
            state = state_queues.read_locked(channel, topology, exchange)
            if state is not None and state != state_before:
                state_queues.repair(channel, names, state)
            channel.close()
    except UsageError:
        # Another process has the lock, perhaps for a switch. The consumer calls this again later.
        return "switching"
    return _phase_of(names, state, queue)


def generations_since(
    channel: Channel, topology: Topology, exchange: str, queue: str
) -> tuple[Generation, ...]:
    """Return the generation of a shard's old queue and all later generations, oldest first.

    The result is empty if the queue is not old, or if the switch that made it old is not complete.

    The consumer of an old queue calls this, under the topology's lock, before it moves the waiting
    records of the queue to later generations.

    Args:
        channel: a channel to the broker.
        topology: the topology.
        exchange: the name of the exchange in topology.toml.
        queue: the name of the old queue on the broker.

    """
    names = Names(topology)
    state = state_queues.read_locked(channel, topology, exchange)
    if _phase_of(names, state, queue) != "ending":
        return ()
    assert state is not None  # noqa: S101 -- for the type checker
    chain = (*state.draining, state.current)
    for index, old in enumerate(state.draining):
        if queue in names.members(old):
            return chain[index:]
    return ()


def _phase_of(names: Names, state: RingState | None, queue: str) -> Phase:
    if state is None:
        return "in use"
    for old in state.draining:
        if queue in names.members(old):
            return "ending" if old in state.ending else "switching"
    return "in use"
