"""Delete a queue that has no consumer; the caller chooses whether its messages may be deleted."""

from __future__ import annotations

from feedbus import broker
from feedbus.generations.queue_emptying import IN_USE, QueueEmptier
from feedbus.topology import Topology
from feedbus.wire.amqp_protocols import Connection


def remove_queue(
    connection: Connection, topology: Topology, queue: str, *, nonempty: bool = False
) -> str:
    """Delete a queue that has no consumer.

    `feedbus apply` calls this for a queue that the topology no longer has.

    Args:
        connection: a connection to the queue's broker.
        topology: the topology of the queue.
        queue: the name of the queue on the broker.
        nonempty: whether the queue may be deleted with its messages. If it is False, the queue is
            deleted only if it is empty.

    Returns:
        "" if the queue was deleted, else a text for the operator: why the queue was not deleted.

    """
    if not nonempty:
        with QueueEmptier(connection, queue, None) as emptier:
            return emptier.delete(broker.in_flight_seconds(topology))
    if broker.count_consumers(connection, queue):
        return IN_USE
    channel = connection.channel()
    channel.queue_delete(queue)
    channel.close()
    return ""
