"""The mark of a removed queue, which its consumers empty and delete, and the fence that ends it.

The topology has no such queue any more, but the queue may still have messages. They are ready, or a
consumer has received them, or they wait in retry queues. No program but the consumers knows when
all of them are handled. So `feedbus apply` removes the bindings of the queue, and then the queue
ends like an old queue of a ring: `feedbus apply` puts a fence into it, and the last consumer of the
queue proves that it is empty, and deletes it.

Any program can publish a fence. So a consumer accepts the fence only if the mark of the queue
exists: an exchange without bindings. If the topology gets the queue again, the mark is deleted.
"""

from __future__ import annotations

from feedbus import broker
from feedbus.broker.publisher import publish_all
from feedbus.broker_names import Names, Role, has_role
from feedbus.generations.probes import fence_message
from feedbus.wire.amqp_protocols import Channel, Connection

# The roles of queues that are not read until their end: they are empty when the queue of their
# owner is deleted.
AUXILIARY = {Role.DEAD, Role.WAITING, Role.RETRY, Role.PARKED}


def ends_with_fence(queue: str) -> bool:
    """Whether a queue is read by a consumer as its own queue, so that a fence can end it.

    Args:
        queue: the name of the queue on the broker.

    """
    return not has_role(queue, {*AUXILIARY, Role.BEFORE})


def mark(channel: Channel, names: Names, queue: str) -> None:
    """Mark a queue as removed from the topology; `feedbus apply` calls this.

    The queue has no bindings any more.

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
    """Put a fence to the end of a removed queue; a full queue may refuse it.

    Args:
        connection: a connection to the broker.
        queue: the name of the queue on the broker.

    """
    publish_all(connection, [fence_message(queue, queue)], nacked_seconds=0.0)
