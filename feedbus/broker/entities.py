"""Declare a topology on a broker: exchanges, queues and bindings, with their arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from feedbus.broker import ordering
from feedbus.broker.connecting import queue_written_seconds
from feedbus.broker.differences import differing, differs_in, explained, found_in
from feedbus.broker.names import Names
from feedbus.errors import Outage, UsageError
from feedbus.logs import EventLog
from feedbus.topology import (
    NO_DELIVERY_LIMIT,
    Consumer,
    Exchange,
    Generation,
    Queue,
    Schedule,
    Topology,
)
from feedbus.wire.amqp import Channel, Connection

events = EventLog(__name__)

EXPIRES_MARGIN_MILLISECONDS = 60_000
# A quorum queue gives its dead letters away once they are confirmed; by default it just sends them.
AT_LEAST_ONCE = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


def declare(channel: Channel, topology: Topology) -> None:
    """Declare every exchange, queue and binding of a topology; existing ones stay.

    What is external has to be there; see feedbus.broker.external.

    A hash exchange's entry is not bound to its ring here: see generations.

    Raises:
        UsageError: an entity exists with other arguments.

    """
    names = Names(topology)
    declare_exchanges(channel, names)
    for queue in topology.queues.values():
        _declare_trouble_queues(channel, names, queue)
    for schedule in topology.schedules.values():
        declare_schedule(channel, names, schedule)
    for consumer in topology.consumers.values():
        queue = consumer.queue
        if queue.external_name or topology.on_ring(queue):
            continue
        name = names.queue(consumer)
        declare_queue(channel, names, consumer, name)
        for key in binding_keys(queue):
            channel.queue_bind(name, names.exchange(queue.exchange), key)


def binding_keys(queue: Queue) -> tuple[str, ...]:
    """Return the keys by which a queue on no ring is bound to its exchange."""
    return queue.routing_keys or ("",)


def declare_exchanges(channel: Channel, names: Names) -> None:
    """Declare every exchange that is not external, and the further objects of a hash exchange."""
    for exchange in names.topology.exchanges.values():
        if exchange.external_name:
            continue
        with explained(names.exchange(exchange.name)):
            _declare_exchange(channel, names, exchange)


def _declare_exchange(channel: Channel, names: Names, exchange: Exchange) -> None:
    name = names.exchange(exchange.name)
    if not exchange.hashed:
        arguments = dict(exchange.arguments)
        channel.exchange_declare(
            name, exchange.type, durable=True, auto_delete=False, arguments=arguments
        )
        return
    held = names.held(exchange.name)
    channel.exchange_declare(held, "fanout", durable=True, auto_delete=False)
    declare_kept(channel, held, {}, quorum=quorum_beside(names.topology, exchange.name))
    channel.queue_bind(held, held, "")
    entry = {"alternate-exchange": held}
    channel.exchange_declare(name, "fanout", durable=True, auto_delete=False, arguments=entry)
    channel.exchange_declare(names.packs(exchange.name), "direct", durable=True, auto_delete=False)


def declare_ring(
    channel: Channel,
    names: Names,
    generation: Generation,
    report: Callable[[str], None] | None = None,
) -> None:
    """Declare a generation's ring and its queues, bound in the generation's order.

    The ring is declared when its queues are on the broker's disk, so one that exists needs no wait.

    Args:
        channel: on which it is declared.
        names: of the topology.
        generation: its ring is declared.
        report: called with the reason if this takes long; by default it is logged.

    """
    topology = names.topology
    ring = names.ring(generation)
    arguments = dict(topology.exchanges[generation.exchange].arguments)
    if not exchange_exists(channel.connection, ring):
        _declare_written(channel, names, generation, report)
    with explained(ring):
        channel.exchange_declare(
            ring, "x-consistent-hash", durable=True, auto_delete=False, arguments=arguments
        )
    queues = [(names.member(generation, member), weight) for member, weight in generation.members]
    keys = ordering.weight_keys(queues)
    for (member, _), (queue, _), key in zip(generation.members, queues, keys, strict=True):
        declare_queue(channel, names, topology.consumer(member), queue)
        channel.queue_bind(queue, ring, key)


def _declare_written(
    channel: Channel,
    names: Names,
    generation: Generation,
    report: Callable[[str], None] | None,
) -> None:
    """Declare the queues of a new ring, and wait until the broker has written them to its disk.

    RabbitMQ confirms a quorum queue before. If it is killed then, the queue starts again
    without its messages, those that were confirmed included. Classic queues are on the disk.
    """
    topology = names.topology
    consumers = [(topology.consumer(member), member) for member, _ in generation.members]
    for consumer, member in consumers:
        declare_queue(channel, names, consumer, names.member(generation, member))
    seconds = queue_written_seconds(topology)
    if not seconds or all(consumer.queue.type != "quorum" for consumer, _ in consumers):
        return
    text = (
        f"{generation.exchange}: waiting {seconds:.0f} s until the broker has written the"
        f" {len(consumers)} new quorum queues to its disk: if it was killed before, they would lose"
        " what they have confirmed"
    )
    if report is None:
        events.info("queues_declared", text, exchange=generation.exchange, queues=len(consumers))
    else:
        report(text)
    channel.connection.clock.sleep(seconds)


def declare_queue(channel: Channel, names: Names, consumer: Consumer, name: str) -> None:
    """Declare the queue of a consumer under a name.

    A quorum queue that is there with another delivery limit, as earlier versions declared it,
    stays until `feedbus apply` replaces it.
    """
    arguments = queue_arguments(names, consumer.queue)
    try:
        with explained(name):
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
    except UsageError as error:
        if differs_in(error.__cause__) != "x-delivery-limit":
            raise
        there = found_in(error.__cause__)
        arguments |= {"x-delivery-limit": int(there) if there.isdecimal() else None}
        with explained(name):  # on the same channel, which an error closes and opens again
            channel.queue_declare(
                name,
                durable=True,
                auto_delete=False,
                arguments={each: value for each, value in arguments.items() if value is not None},
            )
        events.warning(
            "delivery_limit_differs",
            f"queue {name} has a delivery limit of '{there}' on the broker, so the broker may"
            " dead-letter messages that no handler has seen; run `feedbus apply`, which replaces"
            " the queue and keeps its messages",
            queue=name,
            limit=there,
        )


def queue_arguments(names: Names, queue: Queue) -> dict[str, Any]:
    """Return a queue's arguments for the broker; feedbus.topology.DECLARED names them."""
    arguments: dict[str, Any] = {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": names.dead(queue),
        "x-queue-type": queue.type,  # a virtual host can have another default
    }
    if queue.type == "quorum":
        arguments["x-delivery-limit"] = NO_DELIVERY_LIMIT
    if queue.single_active_consumer:
        arguments["x-single-active-consumer"] = True
    if queue.message_ttl_seconds is not None:
        arguments["x-message-ttl"] = round(queue.message_ttl_seconds * 1000)
    if queue.max_length is not None:
        arguments["x-max-length"] = queue.max_length
    if queue.overflow is not None:
        arguments["x-overflow"] = queue.overflow
    return {**arguments, **queue.arguments}


def quorum_beside(topology: Topology, exchange: str) -> bool:
    """Whether an exchange's auxiliary queues must be quorum queues, as one of its queues is."""
    return any(
        queue.type == "quorum" for queue in topology.queues.values() if queue.exchange == exchange
    )


def kept_arguments(arguments: Mapping[str, Any], *, quorum: bool) -> dict[str, Any]:
    """Return the arguments of an auxiliary queue, which has the type of its queue."""
    if not quorum:
        return {"x-queue-type": "classic", **arguments}
    kept = {"x-queue-type": "quorum", "x-delivery-limit": NO_DELIVERY_LIMIT, **arguments}
    return kept | AT_LEAST_ONCE if "x-dead-letter-exchange" in kept else kept


def declare_kept(
    channel: Channel, name: str, arguments: Mapping[str, Any], *, quorum: bool
) -> None:
    """Declare an auxiliary queue: dead letters, retries, held messages, the generations.

    One that is there with the other type stays as it is, since it may hold messages; deleted
    when it is empty, it is declared again with its family's.
    """
    wanted, other = (kept_arguments(arguments, quorum=each) for each in (quorum, not quorum))
    try:
        with explained(name):
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=wanted)
    except UsageError as error:
        if differs_in(error.__cause__) not in differing(wanted, other):
            raise
        with explained(name):  # on the same channel, which an error closes and opens again
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=other)


def declare_schedule(channel: Channel, names: Names, schedule: Schedule) -> None:
    """Declare the queue that keeps the time of a schedule's last firing."""
    quorum = quorum_beside(names.topology, schedule.exchange)
    declare_kept(channel, names.schedule(schedule.name), {}, quorum=quorum)


def _declare_trouble_queues(channel: Channel, names: Names, queue: Queue) -> None:
    declare_kept(channel, names.dead(queue), {}, quorum=queue.type == "quorum")
    for delay in queue.retry.delays_seconds:
        declare_delay(channel, names, queue, round(delay * 1000))


def declare_delay(
    channel: Channel, names: Names, queue: Queue, milliseconds: int, *, expires: bool = False
) -> None:
    """Declare the retry queue of a queue for one delay.

    A retry for a ring comes back by the entry, with its own routing key, so that it finds the
    shard that owns its key then; any other comes back to its queue alone, not to its siblings.

    Args:
        channel: of the broker.
        names: of the topology.
        queue: the queue of the retries.
        milliseconds: the delay.
        expires: True when no retry policy names this delay, so that the broker drops it after use.

    """
    name = names.delay(queue, milliseconds)
    arguments = delay_arguments(names, queue, milliseconds)
    if expires:
        arguments["x-expires"] = 2 * milliseconds + EXPIRES_MARGIN_MILLISECONDS
    with explained(name):
        channel.exchange_declare(name, "fanout", durable=True, auto_delete=expires)
    declare_kept(channel, name, arguments, quorum=queue.type == "quorum")
    channel.queue_bind(name, name, "")


def declare_waiting(channel: Channel, queue: Queue, name: str) -> None:
    """Declare a queue in which records wait for earlier records of their keys."""
    arguments = {"x-single-active-consumer": True}
    declare_kept(channel, name, arguments, quorum=queue.type == "quorum")


def delay_arguments(names: Names, queue: Queue, milliseconds: int) -> dict[str, Any]:
    """Return the arguments of a retry queue with this delay."""
    arguments: dict[str, Any] = {"x-message-ttl": milliseconds, "x-dead-letter-exchange": ""}
    if names.topology.on_ring(queue):
        arguments["x-dead-letter-exchange"] = names.exchange(queue.exchange)
    else:
        arguments["x-dead-letter-routing-key"] = names.unsharded(queue)
    return arguments


def queue_exists(connection: Connection, name: str) -> bool:
    """Whether the broker has a queue of that name."""
    return _look(connection, name) is not None


def count(connection: Connection, queue: str) -> int | None:
    """Return the number of ready messages in a queue, or None if it does not exist."""
    found = _look(connection, queue)
    return None if found is None else found[0]


def consumers(connection: Connection, queue: str) -> int | None:
    """Return the number of consumers of a queue, or None if it does not exist."""
    found = _look(connection, queue)
    return None if found is None else found[1]


def is_anothers(connection: Connection, queue: str) -> bool:
    """Whether a queue is exclusive to another connection, which is therefore open."""
    from amqp.exceptions import NotFound, ResourceLocked

    channel = connection.channel()
    try:
        channel.queue_declare(queue, passive=True)
    except NotFound:
        return False
    except ResourceLocked:
        return True
    channel.close()
    return False


def _look(connection: Connection, queue: str) -> tuple[int, int] | None:
    """Return a queue's (ready messages, consumers), or None if it does not exist.

    Raises:
        Outage: the queue is on a node that is down, or exclusive to another connection.

    """
    from amqp.exceptions import NotFound, ResourceLocked

    channel = connection.channel()
    try:
        counts = channel.queue_declare(queue, passive=True)
    except NotFound as error:  # which has closed the channel
        if "no queue" in str(error.reply_text):
            return None
        msg = f"broker: the cluster node of queue {queue} is down: {error.reply_text}"
        raise Outage(msg) from error
    except ResourceLocked as error:
        msg = (
            f"broker: {error.reply_text}; close the connection that declared the queue, or declare"
            " it without exclusive"
        )
        raise Outage(msg) from error
    channel.close()
    return int(counts.message_count), int(counts.consumer_count)


def exchange_exists(connection: Connection, name: str) -> bool:
    """Whether the broker has an exchange of that name."""
    from amqp.exceptions import NotFound

    channel = connection.channel()
    try:
        channel.exchange_declare(name, "", passive=True)
    except NotFound:
        return False  # which has closed the channel
    channel.close()
    return True
