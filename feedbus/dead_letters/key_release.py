"""Release the keys that dead letters block, after these dead letters were deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from feedbus.broker.publisher import publish_all
from feedbus.broker_names import Names
from feedbus.generations import ring_state
from feedbus.topology import Queue, Topology
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Connection
from feedbus.wire.constants import RELEASE


def release(
    connection: Connection, topology: Topology, queue: Queue, message_ids: Iterable[str]
) -> None:
    """Let the consumers of a queue handle the records that wait for deleted dead letters.

    It publishes a message for each dead letter to every waiting queue of the queue.

    Args:
        connection: a connection to the broker.
        topology: the topology of the queue.
        queue: a queue with `block_on_dead`.
        message_ids: the ids of the deleted dead letters; "" stands for all dead letters.

    """
    waiting = [*_waiting_queues(connection, topology, queue)]
    messages = [
        Outgoing("", name, b"", None, "", {RELEASE: message_id}, stamp=None)
        for message_id in message_ids
        for name in waiting
    ]
    publish_all(connection, messages)  # refusals are ignored: perhaps no waiting queue exists


def _waiting_queues(connection: Connection, topology: Topology, queue: Queue) -> Iterator[str]:
    names = Names(topology)
    consumers = [each for each in topology.consumers.values() if each.queue.name == queue.name]
    if not topology.on_ring(queue):
        yield from (names.waiting(names.queue(each)) for each in consumers)
        return
    state = ring_state.exact_states(connection, topology).get(queue.exchange)
    if state is not None:
        for generation in (*state.draining, state.current):
            yield from map(names.waiting, names.members(generation))
