"""Replace a retry queue by one with other arguments, and park its retries meanwhile.

Retries are *parked* while their retry queue, or the queue of their records, is deleted and declared
again: they are in another queue, until unpark() moves them back.
"""

from __future__ import annotations

from feedbus import broker
from feedbus.broker import declarations, queue_arguments
from feedbus.broker.differences import find_differences
from feedbus.broker.inventory import Inventory
from feedbus.broker_names import PARKED, Names, Role, belongs_to_queue, derived
from feedbus.generations.queue_deletion import move_and_delete
from feedbus.generations.queue_emptying import MessageMover, QueueEmptier
from feedbus.generations.switch import exit_after_step
from feedbus.topology import Queue, Topology
from feedbus.wire.amqp_protocols import Connection


def parked_retry_queues(topology: Topology, seen: Inventory) -> list[tuple[str, str]]:
    """Return a pair of names for each retry queue whose retries are still parked.

    The first name is that of the queue in topology.toml, the second is that of the retry queue on
    the broker.

    Retries are parked in another queue while their retry queue is declared again. If the process is
    killed meanwhile, the retries stay parked until the next process calls unpark().

    Args:
        topology: the topology.
        seen: the objects that the broker has.

    """
    parked = []
    for name in seen.queues:
        original = derived(name)
        if original is None or original.role is not Role.PARKED:
            continue
        queue = original.owner.removeprefix(f"{topology.name}.")
        if queue in topology.queues:
            parked.append((queue, name.removesuffix(PARKED)))
    return parked


def wrong_retry_queues(topology: Topology, queue: Queue, seen: Inventory) -> list[str]:
    """Return the retry queues of a queue that have wrong arguments, by their names on the broker.

    `feedbus apply` replaces these retry queues.

    Args:
        topology: the topology, which declares the arguments.
        queue: the queue.
        seen: the objects that the broker has.

    """
    names = Names(topology)
    # A retry queue usually keeps its type, because it may have messages.
    types = (True,) if queue_arguments.may_refuse_retries(queue) else (True, False)
    wrong = []
    for milliseconds in queue.retry.delays_milliseconds:
        name = names.retry_queue(queue, milliseconds)
        if name not in seen.queues:
            continue
        arguments = queue_arguments.retry_queue_arguments(names, queue, milliseconds)
        kinds = [queue_arguments.auxiliary_arguments(arguments, quorum=quorum) for quorum in types]
        if all(find_differences(seen.queues[name].arguments, wanted) for wanted in kinds):
            wrong.append(name)
    return wrong


def park_and_delete(
    connection: Connection, topology: Topology, retry_queue: str, *, quorum: bool
) -> None:
    """Move the retries of a retry queue to another queue, and delete the retry queue.

    This is done if the retry queue has wrong arguments. The caller then declares it again, and
    calls unpark(), which moves the retries back. Until then, a consumer that has to send a retry to
    this retry queue holds: it waits, and tries again.

    Args:
        connection: a connection to the topology's broker.
        topology: the topology.
        retry_queue: the name of the retry queue on the broker.
        quorum: whether the queue of the records is a quorum queue.

    """
    channel = connection.channel()
    if broker.queue_exists(connection, retry_queue):
        # Consumers publish retries to an exchange with the name of the retry queue.
        channel.queue_unbind(retry_queue, retry_queue, "")
    channel.close()
    broker.clock(topology).sleep(broker.in_flight_seconds(topology))
    park(connection, topology, retry_queue, quorum=quorum)
    exit_after_step("delay-parked")
    move_and_delete(connection, topology, retry_queue, Names(topology).parked_retries(retry_queue))
    exit_after_step("delay-deleted")


def shards_behind(seen: Inventory, entry: str, owner: str) -> list[tuple[str, str]]:
    """Return the shards of a queue that an entry, the exchange in front of a ring, routes to.

    Args:
        seen: the objects that the broker has.
        entry: the name of the entry on the broker.
        owner: the name of the sharded queue, with the topology's name.

    Returns:
        For each shard, the names of its ring exchange and of its queue on the broker. The list is
        empty if the entry belongs to other queues.

    """
    return [
        (ring.destination, binding.destination)
        for ring in seen.bindings
        if ring.kind == "exchange" and ring.source == entry
        for binding in seen.bindings
        if binding.source == ring.destination and belongs_to_queue(binding.destination, owner)
    ]


def return_retries_to_ring(
    connection: Connection, topology: Topology, seen: Inventory, retry_queue: str, entry: str
) -> None:
    """Replace a retry queue of removed shards, so that its retries return to their ring.

    Retries of shards return to the entry, the exchange in front of the ring. If the entry is
    removed from the topology, `feedbus apply` deletes it first, so that no new messages arrive.
    Then the broker would drop the retries. The ring stays until its shards are empty.

    The delay of waiting retries begins again. Meanwhile, a consumer that has to send a retry holds.

    Args:
        connection: a connection to the topology's broker.
        topology: the topology, without the queue of the records.
        seen: the objects that the broker has.
        retry_queue: the name of the retry queue on the broker.
        entry: the name of the entry on the broker. If other queues use it, nothing is changed.

    """
    made = derived(retry_queue)
    shards = shards_behind(seen, entry, made.owner) if made is not None else []
    if not shards:
        return
    ring, shard = shards[0]
    quorum = seen.queues[shard].arguments.get("x-queue-type") == "quorum"
    if broker.queue_exists(connection, retry_queue):  # else, an interrupted call has deleted it
        park_and_delete(connection, topology, retry_queue, quorum=quorum)
    milliseconds = int(retry_queue.rpartition(".")[2])
    arguments = {"x-message-ttl": milliseconds, "x-dead-letter-exchange": ring}
    channel = connection.channel()
    declarations.declare_auxiliary(channel, retry_queue, arguments, quorum=quorum)
    channel.queue_bind(retry_queue, retry_queue, "")
    parked = Names(topology).parked_retries(retry_queue)
    channel.exchange_delete(parked)
    channel.close()
    move_and_delete(connection, topology, parked, retry_queue)


def park(connection: Connection, topology: Topology, retry_queue: str, *, quorum: bool) -> None:
    """Park retries: move them from their retry queue to another queue.

    park_and_delete() calls this before it deletes the retry queue.

    Args:
        connection: a connection to the topology's broker.
        topology: the topology.
        retry_queue: the name of the retry queue on the broker.
        quorum: whether the queue of the records is a quorum queue.

    """
    parked = Names(topology).parked_retries(retry_queue)
    channel = connection.channel()
    channel.exchange_declare(parked, "fanout", durable=True, auto_delete=False)
    declarations.declare_auxiliary(channel, parked, {}, quorum=quorum)
    channel.queue_bind(parked, parked, "")
    channel.close()
    with QueueEmptier(connection, retry_queue, MessageMover(connection, parked)) as emptier:
        emptier.move_all()


def unpark(connection: Connection, topology: Topology, queue: Queue, retry_queue: str) -> None:
    """Move parked retries back to their retry queue.

    If the retry queue does not exist, because the topology no longer has it, the retries go to the
    queue of their records. If the queue of their records has shards, the retries go to the entry,
    the exchange in front of the ring. In both cases, a consumer handles the retries immediately.

    `feedbus up` and `feedbus apply` call this after the retry queue was declared again.

    Args:
        connection: a connection to the topology's broker.
        topology: the topology.
        queue: the queue of the records.
        retry_queue: the name of the retry queue on the broker.

    """
    names = Names(topology)
    parked = names.parked_retries(retry_queue)
    channel = connection.channel()
    channel.exchange_delete(parked)
    channel.close()
    if broker.queue_exists(connection, retry_queue):
        move_and_delete(connection, topology, parked, retry_queue)
    elif topology.on_ring(queue):
        move_and_delete(connection, topology, parked, names.exchange(queue.exchange))
    else:
        move_and_delete(connection, topology, parked, "", names.unsharded(queue))
