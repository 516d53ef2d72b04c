"""What a topology declares on a broker: exchanges, queues and bindings, with their arguments."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from kombu.connection import Connection

from feedbus.broker.names import Names
from feedbus.errors import UsageError
from feedbus.topology import Consumer, Exchange, Generation, Queue, Topology

EXPIRES_MARGIN_MILLISECONDS = 60_000


def declare(channel: Any, topology: Topology) -> None:
    """Declare every exchange, queue and binding of a topology; what exists already stays.

    A hash exchange's entry is not led to its ring here: see generations.

    Raises:
        UsageError: an entity exists with other arguments.

    """
    names = Names(topology)
    for exchange in topology.exchanges.values():
        with _told_apart(names.exchange(exchange.name)):
            _declare_exchange(channel, names, exchange)
    for queue in topology.queues.values():
        _declare_trouble_queues(channel, names, queue)
    for consumer in topology.consumers.values():
        exchange = topology.exchanges[consumer.queue.exchange]
        if exchange.hashed:
            continue
        name = names.queue(consumer)
        with _told_apart(name):
            declare_queue(channel, names, consumer, name)
        for key in consumer.queue.routing_keys or ("",):
            channel.queue_bind(name, names.exchange(exchange.name), key)


def _declare_exchange(channel: Any, names: Names, exchange: Exchange) -> None:
    name = names.exchange(exchange.name)
    if not exchange.hashed:
        arguments = dict(exchange.arguments)
        channel.exchange_declare(
            name, exchange.type, durable=True, auto_delete=False, arguments=arguments
        )
        return
    held = names.held(exchange.name)
    channel.exchange_declare(held, "fanout", durable=True, auto_delete=False)
    channel.queue_declare(held, durable=True, auto_delete=False)
    channel.queue_bind(held, held, "")
    entry = {"alternate-exchange": held}
    channel.exchange_declare(name, "fanout", durable=True, auto_delete=False, arguments=entry)
    channel.exchange_declare(names.packs(exchange.name), "direct", durable=True, auto_delete=False)


def declare_ring(channel: Any, names: Names, generation: Generation) -> None:
    """Declare a generation's ring and its queues, bound in the generation's order."""
    topology = names.topology
    ring = names.ring(generation)
    arguments = dict(topology.exchanges[generation.exchange].arguments)
    with _told_apart(ring):
        channel.exchange_declare(
            ring, "x-consistent-hash", durable=True, auto_delete=False, arguments=arguments
        )
    for member, weight in generation.members:
        queue = names.member(generation, member)
        with _told_apart(queue):
            declare_queue(channel, names, topology.consumer(member), queue)
        channel.queue_bind(queue, ring, str(weight))


def declare_queue(channel: Any, names: Names, consumer: Consumer, name: str) -> None:
    """Declare the queue of a consumer under a name."""
    channel.queue_declare(
        name, durable=True, auto_delete=False, arguments=queue_arguments(names, consumer.queue)
    )


def queue_arguments(names: Names, queue: Queue) -> dict[str, Any]:
    """Return a queue's arguments as the broker takes them."""
    arguments: dict[str, Any] = {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": names.dead(queue),
    }
    if queue.type != "classic":
        arguments["x-queue-type"] = queue.type
    if queue.single_active_consumer:
        arguments["x-single-active-consumer"] = True
    if queue.delivery_limit is not None:
        arguments["x-delivery-limit"] = queue.delivery_limit
    if queue.message_ttl_seconds is not None:
        arguments["x-message-ttl"] = round(queue.message_ttl_seconds * 1000)
    if queue.max_length is not None:
        arguments["x-max-length"] = queue.max_length
    if queue.overflow is not None:
        arguments["x-overflow"] = queue.overflow
    return {**arguments, **queue.arguments}


def _declare_trouble_queues(channel: Any, names: Names, queue: Queue) -> None:
    dead = names.dead(queue)
    with _told_apart(dead):
        channel.queue_declare(dead, durable=True, auto_delete=False)
    for delay in queue.retry.delays_seconds:
        declare_delay(channel, names, queue, round(delay * 1000))


def declare_delay(
    channel: Any, names: Names, queue: Queue, milliseconds: int, *, expires: bool = False
) -> None:
    """Declare where retries of a queue wait so long.

    A retry for a ring comes back by the entry, with its own routing key, so that it finds the
    shard that owns its key then; any other comes back to its queue alone, not to its siblings.

    Args:
        channel: of the broker.
        names: of the topology.
        queue: whose retries wait.
        milliseconds: how long they wait.
        expires: True when no ladder names this delay, so that the broker drops it after use.

    """
    name = names.delay(queue, milliseconds)
    arguments: dict[str, Any] = {"x-message-ttl": milliseconds, "x-dead-letter-exchange": ""}
    if names.topology.exchanges[queue.exchange].hashed:
        arguments["x-dead-letter-exchange"] = names.exchange(queue.exchange)
    else:
        arguments["x-dead-letter-routing-key"] = f"{names.topology.name}.{queue.name}"
    if expires:
        arguments["x-expires"] = 2 * milliseconds + EXPIRES_MARGIN_MILLISECONDS
    with _told_apart(name):
        channel.exchange_declare(name, "fanout", durable=True, auto_delete=expires)
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        channel.queue_bind(name, name, "")


@contextlib.contextmanager
def _told_apart(name: str) -> Iterator[None]:
    """Tell what the broker has otherwise than the topology, instead of its 406."""
    from amqp.exceptions import PreconditionFailed

    try:
        yield
    except PreconditionFailed as error:
        msg = (
            f"{name} exists on the broker with other arguments: {error.reply_text}; "
            "drain and delete it there, or give it the arguments that it has"
        )
        raise UsageError(msg) from error


def queue_exists(connection: Connection, name: str) -> bool:
    """Whether the broker has a queue of that name."""
    from amqp.exceptions import NotFound

    channel = connection.channel()
    try:
        channel.queue_declare(name, passive=True)
    except NotFound:
        return False  # which has closed the channel
    channel.close()
    return True
