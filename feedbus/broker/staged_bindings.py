"""Give a new exchange the bindings of all its queues at one moment.

A message that is published between two bindings of a new exchange would reach one queue, but not
the other. So the queues are bound to another exchange first, the *staged bindings*. Then the
staged bindings are bound to the new exchange:

    exchange ──▶ staged bindings ──▶ queues

Until then, a message reaches no queue, and the broker returns it to its publisher. Later the queues
are bound to the exchange itself, and the staged bindings are deleted. A queue that has both
bindings gets each message once: a broker puts a message into a queue only once, even if several
bindings match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from feedbus.broker import lookups
from feedbus.broker.queue_arguments import binding_keys
from feedbus.broker_names import Names
from feedbus.topology import Consumer, Exchange
from feedbus.wire.amqp_protocols import Channel

# The binding key with which one binding forwards all messages, by the type of the exchange. A
# direct exchange needs a binding for each key: a message reaches all queues of its key, or none.
FORWARDS_ALL = {"fanout": "", "topic": "#"}


def prepare(channel: Channel, names: Names, exchange: Exchange) -> bool:
    """Bind the existing queues of an exchange to a temporary exchange, its staged bindings.

    The caller then declares the exchange, and calls connect(). So the exchange gets the bindings of
    all its queues at one moment.

    Args:
        channel: a channel to the broker.
        names: the names of the topology's objects on the broker.
        exchange: the exchange. It is not on the broker, or the caller will delete it.

    Returns:
        Whether the exchange has existing queues. If not, there are no staged bindings.

    """
    staged = names.staged_bindings(exchange.name)
    channel.exchange_delete(staged)  # an interrupted `feedbus apply` may have left it
    bindings = [
        (*target, key)
        for consumer in _consumers(names, exchange)
        if (target := _target(channel, names, consumer)) is not None
        for key in binding_keys(consumer.queue)
    ]
    if bindings:
        arguments = dict(exchange.arguments)
        channel.exchange_declare(
            staged, exchange.type, durable=True, auto_delete=False, arguments=arguments
        )
    for bind, destination, key in bindings:
        bind(destination, staged, key)
    return bool(bindings)


def connect(channel: Channel, names: Names, exchange: Exchange) -> None:
    """Bind the staged bindings to a new exchange, so that its queues get its messages.

    The staged bindings are a temporary exchange, to which prepare() has bound the queues.

    Args:
        channel: a channel to the broker.
        names: the names of the topology's objects on the broker.
        exchange: the exchange.

    """
    keys = {
        FORWARDS_ALL.get(exchange.type, key)
        for consumer in _consumers(names, exchange)
        for key in binding_keys(consumer.queue)
    }
    for key in sorted(keys):
        channel.exchange_bind(
            names.staged_bindings(exchange.name), names.exchange(exchange.name), key
        )


def _consumers(names: Names, exchange: Exchange) -> Iterator[Consumer]:
    """Yield the consumers whose queues are bound to the exchange itself."""
    for consumer in names.topology.consumers.values():
        queue = consumer.queue
        if queue.exchange == exchange.name and not names.topology.on_ring(queue):
            yield consumer


def _target(
    channel: Channel, names: Names, consumer: Consumer
) -> tuple[Callable[..., Any], str] | None:
    """Return what gets the messages of a consumer's queue, with the method that binds it.

    During the replacement of a queue, it is the gate, the exchange in front of the queue. The
    result is None if the queue does not exist.
    """
    gate, queue = names.gate(consumer), names.queue(consumer)
    if lookups.exchange_exists(channel.connection, gate):
        return channel.exchange_bind, gate
    if lookups.queue_exists(channel.connection, queue):
        return channel.queue_bind, queue
    return None
