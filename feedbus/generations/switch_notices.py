"""Notify the consumers of old rings of a switch: by notices, and by fences in the old queues."""

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
    """Notify the consumers of all old queues that get no more messages.

    If a call is interrupted, the next call does the rest. The caller does not hold the topology's
    lock: a fence can wait for room in a full queue, and the consumer of that queue may need the
    lock before it can make room.

    Args:
        connection: a connection to the topology's broker.
        topology: the topology.
        states: the states of the rings. If a switch is not complete, only the consumers of the
            rings before it are notified.

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

    The notice is a fence in the waiting queue of each queue. It contains the current generation. So
    the consumers do not all read the state at the same time, which only one process can do. A
    consumer that receives the notice then also reads its new queue. A consumer without a waiting
    queue, or of an earlier version, begins with its new queue later: it gets no notice, and reads
    the state when it receives the fence of its queue.

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

    The consumer that receives the fence reads the state of the ring. If the queue belongs to an old
    generation, the consumer proves that it is empty and deletes it. The switch is already complete,
    so the consumer can do this at once.

    A full queue refuses the fence. If the queue has a consumer, the fence is published again until
    the consumer has made room. Otherwise the queue gets no fence: the next consumer that reads the
    queue publishes one.

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
