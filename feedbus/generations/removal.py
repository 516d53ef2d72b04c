"""Delete a queue only as it was agreed: empty and unused, or with what is in it."""

from __future__ import annotations

from feedbus import broker
from feedbus.broker import entities
from feedbus.generations.emptying import IN_USE, Emptying
from feedbus.topology import Topology
from feedbus.wire.amqp import Connection


def remove_queue(
    connection: Connection, topology: Topology, queue: str, *, nonempty: bool = False
) -> str:
    """Delete a queue that nobody consumes; return why that was not done, "" when it is gone.

    Args:
        connection: to its broker.
        topology: whose queue.
        queue: by its name there.
        nonempty: whether its messages may go with it.

    """
    if not nonempty:
        with Emptying(connection, queue, None) as emptying:
            return emptying.delete(broker.in_flight_seconds(topology))
    if entities.consumers(connection, queue):
        return IN_USE
    channel = connection.channel()
    channel.queue_delete(queue)
    channel.close()
    return ""
