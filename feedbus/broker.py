"""Speak to a broker: connect, declare what a topology says, count what waits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kombu.connection import Connection

from feedbus import locks
from feedbus.errors import Outage, UsageError
from feedbus.names import Names
from feedbus.topology import Consumer, Exchange, Generation, Queue, Topology

CONNECT_TIMEOUT_SECONDS = 5.0
HEARTBEAT_SECONDS = 20.0
TCP_USER_TIMEOUT_MILLISECONDS = 30_000
LOCK_TIMEOUT_SECONDS = 10.0
LOCK_POLL_SECONDS = 0.1
EXPIRES_MARGIN_MILLISECONDS = 60_000
TCP_USER_TIMEOUT = 18  # Linux's number; absent from the socket module elsewhere


def connect(topology: Topology) -> Connection:
    """Return an open connection to the topology's broker.

    Raises:
        Outage: the broker cannot be reached.

    """
    connection = _connection(topology.broker_url)
    with outage(connection, topology.broker_url):
        connection.connect()
    return connection


def _connection(url: str) -> Connection:
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        from feedbus.transports.sqlite import Transport  # noqa: PLC0415 -- only where it is used

        path = Path("/" + rest.lstrip("/"))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Connection(transport=Transport, virtual_host=str(path))
    secure = scheme == "amqps"
    # Not amqp://, which would pick librabbitmq where that happens to be installed.
    return Connection(
        f"pyamqp://{rest}",
        ssl=secure,
        heartbeat=HEARTBEAT_SECONDS,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        transport_options={
            "socket_settings": {TCP_USER_TIMEOUT: TCP_USER_TIMEOUT_MILLISECONDS},
            "confirm_publish": False,
        },
    )


def connection_errors(connection: Connection) -> tuple[type[BaseException], ...]:
    """Return what a lost or refusing broker raises on this connection."""
    errors = (*connection.connection_errors, *connection.recoverable_connection_errors)
    return tuple({*errors, ConnectionError, OSError})


@contextlib.contextmanager
def outage(connection: Connection, url: str) -> Iterator[None]:
    """Raise Outage for whatever a lost or refusing broker raises inside."""
    try:
        yield
    except connection_errors(connection) as error:
        msg = f"broker {public_url(url)}: {error or type(error).__name__}"
        raise Outage(msg) from error


def public_url(url: str) -> str:
    """Return a URL without its password, for messages."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return url.replace(f":{parts.password}@", ":***@", 1)


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
    channel.exchange_declare(
        names.packs(exchange.name), "direct", durable=True, auto_delete=False
    )


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
    from amqp.exceptions import PreconditionFailed  # noqa: PLC0415 -- with kombu, late

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
    from amqp.exceptions import NotFound  # noqa: PLC0415 -- with kombu, late

    channel = connection.channel()
    try:
        channel.queue_declare(name, passive=True)
    except NotFound:
        return False  # which has closed the channel
    channel.close()
    return True


@contextlib.contextmanager
def locked(connection: Connection, topology: Topology) -> Iterator[None]:
    """Hold the lock under which rings are switched; whoever dies with it gives it back.

    Raises:
        UsageError: somebody else holds it for longer than LOCK_TIMEOUT_SECONDS.

    """
    scheme, _, rest = topology.broker_url.partition("://")
    taken = (
        locks.held(Path("/" + rest.lstrip("/") + ".lock"), LOCK_TIMEOUT_SECONDS)
        if scheme == "sqlite"
        else _exclusive_queue(connection, f"{topology.name}.lock")
    )
    with taken:
        yield


@contextlib.contextmanager
def _exclusive_queue(connection: Connection, name: str) -> Iterator[None]:
    from amqp.exceptions import ResourceLocked  # noqa: PLC0415 -- with kombu, late

    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while True:
        channel = connection.channel()
        try:
            channel.queue_declare(name, exclusive=True, auto_delete=True, durable=False)
            break
        except ResourceLocked as error:
            if time.monotonic() > deadline:
                msg = f"{name} is held: another apply or up is at work; wait for it to end"
                raise UsageError(msg) from error
            time.sleep(LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        channel.queue_delete(name)
        channel.close()
