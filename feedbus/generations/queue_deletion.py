"""Delete a queue that has no consumer.

Its messages are moved to an exchange or deleted with the queue, or the queue must be empty.
"""

from __future__ import annotations

from feedbus import broker
from feedbus.errors import BrokerOutage, UsageError
from feedbus.generations.leaving_consumers import wait_for_consumers_to_leave
from feedbus.generations.queue_emptying import IN_USE, NO_ANSWER, MessageMover, QueueEmptier
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


def move_and_delete(
    connection: Connection, topology: Topology, queue: str, exchange: str, key: str | None = None
) -> None:
    """Move all messages of one of feedbus's own queues to an exchange, and delete the queue.

    The function first waits until the queue has no consumer, at most 25 s.

    Args:
        connection: a connection to the queue's broker.
        topology: the topology of the queue.
        queue: the name of the queue on the broker.
        exchange: the name on the broker of the exchange; "" for the default exchange.
        key: the new routing key of all messages; by default they keep their routing keys.

    Raises:
        BrokerOutage: the broker does not answer, or does not accept a message.
        UsageError: a consumer uses the queue.

    """
    wait_for_consumers_to_leave(connection, broker.clock(topology), [queue])
    if reason := try_to_move_and_delete(connection, topology, queue, exchange, key):
        msg = f"{queue}: {reason}"
        raise BrokerOutage(msg) if reason == NO_ANSWER else UsageError(msg)


def try_to_move_and_delete(
    connection: Connection, topology: Topology, queue: str, exchange: str, key: str | None = None
) -> str:
    """Move all messages of a queue to an exchange, and delete the queue.

    Args:
        connection: a connection to the queue's broker.
        topology: the topology of the queue.
        queue: the name of the queue on the broker.
        exchange: the name on the broker of the exchange; "" for the default exchange.
        key: the new routing key of all messages; by default they keep their routing keys.

    Returns:
        "" if the queue was deleted, else a text for the operator: why the queue was not deleted.

    """
    with QueueEmptier(connection, queue, MessageMover(connection, exchange, key)) as emptier:
        return emptier.delete(broker.in_flight_seconds(topology))
