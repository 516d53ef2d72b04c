"""The end of a queue that was removed from the topology: its mark on the broker, and its fence.

A removed queue may still have messages. These messages are ready, or a consumer has received them,
or they wait in retry queues. Only the consumers know when all these messages are handled. So
`feedbus apply` removes the bindings of the queue, and then the queue ends like an old queue of a
ring. `feedbus apply` puts a *fence* into the queue, a message that marks its end. The last consumer
of the queue proves that the queue is empty, and deletes the queue.

Any program can publish a fence. So a consumer accepts the fence of a removed queue only if the
queue has a *mark*: an exchange without bindings, whose name contains the name of the queue. If the
queue is added to the topology again, the next declaration deletes the mark.
"""

from __future__ import annotations

from feedbus import broker
from feedbus.broker.publisher import publish_all
from feedbus.broker_names import Names, Role, has_role
from feedbus.generations.probes import fence_message
from feedbus.wire.amqp_protocols import Channel, Connection

# The roles of the auxiliary queues of a queue. Auxiliary queues get no fence. The consumer handles
# their retries and waiting records before it deletes the queue. Then `feedbus apply` deletes the
# auxiliary queues.
AUXILIARY = {Role.DEAD, Role.WAITING, Role.RETRY, Role.PARKED}


def ends_with_fence(queue: str) -> bool:
    """Whether a fence must mark the end of this queue, after it was removed from the topology.

    The result is True for the own queue of a consumer. It is False for auxiliary queues such as
    retry queues, and for the queue `before`, which keeps the messages of a replaced queue.

    Args:
        queue: the name of the queue on the broker.

    """
    return not has_role(queue, {*AUXILIARY, Role.BEFORE})


def mark(channel: Channel, names: Names, queue: str) -> None:
    """Mark a queue as removed from the topology; `feedbus apply` calls this.

    The caller has removed the bindings of the queue.

    Args:
        channel: a channel to the broker.
        names: the names of the topology's objects on the broker.
        queue: the name of the queue on the broker.

    """
    channel.exchange_declare(names.removed(queue), "fanout", durable=True, auto_delete=False)


def is_marked(connection: Connection, names: Names, queue: str) -> bool:
    """Whether a queue is marked as removed.

    Args:
        connection: a connection to the broker.
        names: the names of the topology's objects on the broker.
        queue: the name of the queue on the broker.

    """
    return broker.exchange_exists(connection, names.removed(queue))


def put_fence(connection: Connection, queue: str) -> None:
    """Put a fence at the end of a removed queue.

    A full queue may refuse the fence. The caller puts another fence into the queue later.

    Args:
        connection: a connection to the broker.
        queue: the name of the queue on the broker.

    """
    publish_all(connection, [fence_message(queue, queue)], nacked_seconds=0.0)
