"""Release the keys of deleted dead letters: with `block_on_dead`, a dead letter blocks its key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext

from feedbus import broker
from feedbus.broker.channels import short_channel
from feedbus.broker.locks import WAIT_SECONDS
from feedbus.broker.publisher import publish_all
from feedbus.broker_names import Names
from feedbus.generations import state_queues
from feedbus.topology import Queue, Topology
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Connection
from feedbus.wire.constants import RELEASE


def release(
    connection: Connection,
    topology: Topology,
    queue: Queue,
    message_ids: Iterable[str],
    *,
    wait_seconds: float = WAIT_SECONDS,
) -> None:
    """Make the consumers of a queue handle the records that wait for some dead letters.

    The function is called when dead letters are deleted, by a command or because of a limit. The
    caller deletes them before or after the call. The function publishes a message for each dead
    letter to every waiting queue of the queue. If the queue has shards, the function holds the
    topology's lock meanwhile. So the number of shards does not change, and no consumer moves
    waiting records.

    Args:
        connection: a connection to the broker.
        topology: the topology of the queue.
        queue: a queue with `block_on_dead`.
        message_ids: the message ids of the dead letters; "" stands for all dead letters.
        wait_seconds: how long to wait if another process holds the lock.

    Raises:
        UsageError: another process holds the lock for longer than wait_seconds.

    """
    lock = broker.locked(connection, topology, wait_seconds=wait_seconds)
    with lock if topology.on_ring(queue) else nullcontext():
        waiting = [*_waiting_queues(connection, topology, queue)]
        messages = [
            Outgoing("", name, b"", None, "", {RELEASE: message_id}, stamp=None)
            for message_id in message_ids
            for name in waiting
        ]
        # Refusals are ignored: a waiting queue that does not exist contains no records to release.
        publish_all(connection, messages)


def _waiting_queues(connection: Connection, topology: Topology, queue: Queue) -> Iterator[str]:
    """Yield the names of the waiting queues of a queue, or of all its shards in all generations.

    If the queue has shards, the caller holds the topology's lock.
    """
    names = Names(topology)
    consumers = [each for each in topology.consumers.values() if each.queue.name == queue.name]
    if not topology.on_ring(queue):
        yield from (names.waiting(names.queue(each)) for each in consumers)
        return
    with short_channel(connection) as channel:
        state = state_queues.read_locked(channel, topology, queue.exchange)
    if state is not None:
        for generation in (*state.draining, state.current):
            yield from map(names.waiting, names.members(generation))
