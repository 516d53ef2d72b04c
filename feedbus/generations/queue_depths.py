"""Queue depths: the number of messages that wait for each consumer, in its current queues."""

from __future__ import annotations

from dataclasses import dataclass

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.generations import state_queues
from feedbus.topology import Queue, Topology
from feedbus.wire.amqp_protocols import Connection


@dataclass(frozen=True, slots=True)
class Depths:
    """The numbers of messages that wait for one consumer; depths_of() returns it.

    The consumer of a shard has a queue of its own, but all shards of a `[queues.NAME]` table share
    the retry queues and the queue of dead letters.

    Attributes:
        ready: messages in the consumer's own queue; for a shard, of the current generation.
        retrying: messages of the table that wait in retry queues for their next attempt.
        dead: dead letters of the table.
        waiting: records in the consumer's waiting queue that no consumer has received. The broker
            does not know which of them have failed, and which wait for an earlier record. The
            records that the consumer has received are counted by the consumer itself.

    """

    ready: int
    retrying: int
    dead: int
    waiting: int = 0


def depths_of(connection: Connection, topology: Topology) -> dict[str, Depths]:
    """Return the depths of each consumer by its name; a queue that is missing counts as empty.

    `feedbus status` and the operations process call this.

    Args:
        connection: a connection to the topology's broker.
        topology: the topology, which declares the consumers.

    """
    names = Names(topology)
    current = {
        name: state.current for name, state in state_queues.states(connection, topology).items()
    }

    def count(queue: str) -> int:
        return broker.count_messages(connection, queue) or 0

    def retrying(queue: Queue) -> int:
        return sum(
            count(names.retry_queue(queue, delay)) for delay in queue.retry.delays_milliseconds
        )

    shared = {
        queue.name: (retrying(queue), count(names.dead(queue)))
        for queue in topology.queues.values()
    }
    depths: dict[str, Depths] = {}
    for consumer in topology.consumers.values():
        generation = current.get(consumer.queue.exchange)
        queue = names.member(generation, consumer.name) if generation else names.queue(consumer)
        waiting = count(names.waiting(queue)) if consumer.queue.order_by else 0
        depths[consumer.name] = Depths(count(queue), *shared[consumer.queue.name], waiting)
    return depths
