"""Wait until the old generations and the replaced queues are empty."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from feedbus import broker
from feedbus.broker import inventory
from feedbus.broker_names import WAITING, Names
from feedbus.generations import ring_state
from feedbus.topology import Topology
from feedbus.wire.amqp_protocols import Connection

CHECK_SECONDS = 0.25
# How long --no-wait waits for consumers to delete queues that have only a fence.
DELETION_SECONDS = 3.0


def await_drained(
    connection: Connection,
    topology: Topology,
    leaving: Iterable[str],
    progress: Callable[[int], None],
) -> None:
    """Wait until old generations, removed queues and replaced queues are empty.

    `feedbus apply` calls this, unless the option --no-wait is given. There is no time limit.

    Args:
        connection: a connection to the broker.
        topology: the topology as the file declares it now.
        leaving: the names of removed queues that are to be deleted when they are empty.
        progress: called at each check with the number of messages that are left.

    """
    clock = broker.clock(topology)
    while (left := messages_left(connection, topology, leaving)) is not None:
        progress(left)
        clock.sleep(CHECK_SECONDS)
    progress(0)


def is_drained(
    connection: Connection,
    topology: Topology,
    leaving: Iterable[str],
    progress: Callable[[int], None],
) -> bool:
    """Return whether old generations, removed queues and replaced queues are empty.

    `feedbus apply --no-wait` calls this. If the queues have no messages except their fences, the
    function waits a short time, in which the consumers delete the queues.

    Args:
        connection: a connection to the broker.
        topology: the topology as the file declares it now.
        leaving: the names of removed queues that are to be deleted when they are empty.
        progress: called once with the number of messages that are left, if the result is False.

    """
    fences = sum(1 for _ in _queues_to_drain(connection, topology))
    clock = broker.clock(topology)
    end = clock.monotonic() + DELETION_SECONDS
    while (left := messages_left(connection, topology, leaving)) is not None:
        if left > fences or clock.monotonic() > end:
            progress(left)
            return False
        clock.sleep(CHECK_SECONDS)
    return True


def messages_left(connection: Connection, topology: Topology, leaving: Iterable[str]) -> int | None:
    """Return the number of messages in queues that drain; None if all of them are drained.

    The queue of an old generation, or `before` of a replaced queue, is drained only when its
    consumer has deleted it.

    A queue that drains gets no new messages, and its consumer empties it. The caller calls this
    until the result is None.

    Args:
        connection: a connection to the broker.
        topology: the topology as the file declares it now.
        leaving: the names of removed queues that are to be deleted when they are empty.

    """
    left = [
        broker.count_messages(connection, queue) for queue in _queues_to_drain(connection, topology)
    ]
    left_in_removed = [_count(connection, topology, queue) for queue in leaving]
    if all(count is None for count in left) and not any(left_in_removed):
        # A consumer deletes the last queue of a generation before it removes the generation from
        # the state. So the state is read, too.
        states = ring_state.exact_states(connection, topology).values()
        if not any(state.draining for state in states):
            return None
    return sum(count or 0 for count in (*left, *left_in_removed))


def _count(connection: Connection, topology: Topology, queue: str) -> int:
    """Count the ready messages of a queue; of a waiting queue, count all messages.

    A consumer keeps all records of its waiting queue as unacknowledged deliveries, so the waiting
    queue has no ready messages.
    """
    if not queue.endswith(WAITING):
        return broker.count_messages(connection, queue) or 0
    seen = inventory.read_inventory(topology).queues.get(queue)
    return seen.messages if seen is not None else 0


def _queues_to_drain(connection: Connection, topology: Topology) -> Iterator[str]:
    """Yield the queues that consumers empty and then delete.

    These are the queues of old generations, and the queues with the messages of replaced queues.
    """
    names = Names(topology)
    for state in ring_state.exact_states(connection, topology).values():
        for old in state.draining:
            yield from names.members(old)
    for consumer in topology.consumers.values():
        if not topology.on_ring(consumer.queue):
            yield names.before(consumer)
