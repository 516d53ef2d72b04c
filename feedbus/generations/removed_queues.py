"""The end of a queue that was removed from the topology: its mark on the broker, and its fence.

A removed queue may still have messages. These messages are ready, or a consumer has received them,
or they wait in retry queues. Only the consumers know when all these messages are handled. So
`feedbus apply` removes the bindings of the queue, and then the queue ends like an old queue of a
ring. `feedbus apply` puts a *fence* into the queue, a message that marks its end. The last consumer
of the queue proves that the queue is empty, and deletes the queue.

Any program can publish a fence. So a consumer accepts the fence of a removed queue only if the
queue has a *mark*: an exchange without bindings, whose name contains the name of the queue. If the
queue is added to the topology again, the next declaration deletes the mark.

The shards of a removed ring end one after the other. A retry returns to the ring, which can route
it to any shard that is bound. So a shard is unbound before it is proved to be empty. Then the other
shards get the retries. The last shard of the ring stays bound until the other shards are deleted.
"""

from __future__ import annotations

from feedbus import broker
from feedbus.broker import declarations
from feedbus.broker.publisher import publish_all
from feedbus.broker_names import Names, Role, has_role
from feedbus.generations import state_queues
from feedbus.generations.probes import fence_message
from feedbus.topology import Queue, Topology
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


def can_get_retries(connection: Connection, topology: Topology, queue: Queue, name: str) -> bool:
    """Whether retries can still reach a removed queue; unbind a shard, so that none can.

    A consumer calls this before it proves that the queue is empty. Retries reach a queue until its
    retry queues are empty. Retries of shards return to the ring, which routes them to any of its
    shards. So this function unbinds a shard from the ring, unless it is the last one that exists.
    The last shard can get retries at least until the other shards are deleted.

    The caller holds the topology's lock, and has checked that the queue is marked as removed.

    Args:
        connection: a connection to the broker.
        topology: the topology of the consumer, which still has the queue.
        queue: the table of the queue in topology.toml.
        name: the name of the queue, or of one of its shards, on the broker.

    """
    names = Names(topology)
    if topology.on_ring(queue):
        channel = connection.channel()
        state = state_queues.read_locked(channel, topology, queue.exchange)
        generation = state.current if state else topology.generation(queue.exchange)
        shards = [one for one in names.members(generation) if broker.queue_exists(connection, one)]
        can_unbind = name in shards[:-1]
        if can_unbind:
            declarations.unbind_shard(channel, names, generation, name)
        channel.close()
        if len(shards) > 1:
            return not can_unbind
    return any(
        broker.count_messages(connection, names.retry_queue(queue, delay))
        for delay in queue.retry.delays_milliseconds
    )
