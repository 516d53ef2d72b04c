"""Notify the consumers of old rings that a switch has replaced their ring.

A consumer of an old ring gets two messages. A *fence* marks the end of its old queue. A *notice* is
a fence in its waiting queue, the queue of records that wait for earlier ones. The notice arrives
before the consumer has read the backlog of the old queue, and contains the new generation.
"""

from __future__ import annotations

from collections.abc import Iterable

from feedbus import broker
from feedbus.broker.publisher import NACKED_SECONDS, publish_all
from feedbus.broker_names import Names
from feedbus.generations import probes, ring_state
from feedbus.generations.ring_state import RingState
from feedbus.generations.switch import exit_after_step
from feedbus.topology import Generation, Topology
from feedbus.wire.amqp_protocols import Connection


def notify_consumers(
    connection: Connection, topology: Topology, states: Iterable[RingState]
) -> None:
    """Publish notices and fences to the consumers of old queues that get no more messages.

    If a call is interrupted, the next call publishes all notices and fences again. The caller does
    not hold the topology's lock. The reason is that a fence can wait for room in a full queue, and
    the consumer of the full queue may need the lock before it can make room.

    Args:
        connection: a connection to the topology's broker.
        topology: the topology.
        states: the states of the rings. If a switch is not complete, the ring that it replaces can
            still get held messages. Then only the consumers of even older rings are notified.

    """
    names = Names(topology)
    for state in states:
        for old in state.ending:
            put_notices(connection, names, old, state.current)
        for old in state.ending:
            put_fences(connection, names, old)
        if state.ending:
            exit_after_step("fenced")


def put_notices(connection: Connection, names: Names, old: Generation, current: Generation) -> None:
    """Notify the consumers of an old ring that it was replaced, before they reach the fences.

    A notice is put into the waiting queue of each old queue, if a consumer reads the waiting queue.
    A consumer that begins later reads the state of the ring anyway. The notice contains the current
    generation, so its receiver need not read the state. Only one process at a time can read the
    state, and without the notice all consumers would read it at once. A consumer that
    receives the notice begins to read its new queue, too. A consumer without a waiting queue, or
    with an earlier version of feedbus, does not use the notice. It reads the state when it receives
    the fence of its old queue, and only then begins with its new queue.

    Args:
        connection: a connection to the broker.
        names: the names of the topology's objects on the broker.
        old: the generation of the old ring.
        current: the current generation.

    """
    waiting_queues = [names.waiting(queue) for queue in names.members(old)]
    read_queues = [queue for queue in waiting_queues if broker.count_consumers(connection, queue)]
    body = ring_state.encode_generation(current)
    notices = [probes.fence_message(queue, old.digest, body=body) for queue in read_queues]
    publish_all(connection, notices, nacked_seconds=0.0)


def put_fences(connection: Connection, names: Names, old: Generation) -> None:
    """Publish a fence to each queue of a ring.

    The consumer that receives the fence reads the state of the ring. If the state says that the
    queue is old and gets no more messages, the consumer proves that the queue is empty, and deletes
    the queue.

    A full queue refuses the fence. If the queue has a consumer, the fence is published again until
    the consumer has made room. If the queue has no consumer, it gets no fence now: the next
    consumer that reads the queue publishes a fence to it.

    Args:
        connection: a connection to the broker.
        names: the names of the topology's objects on the broker.
        old: the generation of the ring.

    """
    queues = names.members(old)
    while queues:
        fences = [probes.fence_message(queue, old.digest) for queue in queues]
        refusals = publish_all(connection, fences, nacked_seconds=NACKED_SECONDS)
        full_queues = [each.message.routing_key for each in refusals if each.outcome == "nacked"]
        queues = [queue for queue in full_queues if not _waits_for_consumer(connection, queue)]


def _waits_for_consumer(connection: Connection, queue: str) -> bool:
    """Whether a queue has messages and no consumer."""
    # A quorum queue whose leader is unavailable reports 0 messages and 0 consumers. Then the result
    # is False, so the fence is published again.
    return bool(broker.count_messages(connection, queue)) and not broker.count_consumers(
        connection, queue
    )
