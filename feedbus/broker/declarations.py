"""Declare a topology on a broker: exchanges, queues and bindings.

A hash exchange is an exchange of type x-consistent-hash in topology.toml. On the broker, it has two
exchanges: the entry, a fanout exchange to which publishers publish, and behind the entry the ring,
an x-consistent-hash exchange to which the queues of the shards are bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from feedbus.broker import lookups, queue_arguments, staged_bindings, weight_padding
from feedbus.broker.connecting import queue_written_seconds
from feedbus.broker.differences import (
    explain_refusal,
    find_differences,
    refused_argument,
    value_on_broker,
)
from feedbus.broker_names import Names
from feedbus.errors import UsageError
from feedbus.logs import EventLog
from feedbus.topology import Consumer, Exchange, Generation, Queue, Schedule, Topology
from feedbus.wire.amqp_protocols import Channel

events = EventLog(__name__)


def declare(channel: Channel, topology: Topology) -> None:
    """Declare every exchange, queue and binding of a topology; existing objects are not changed.

    `feedbus up` and `feedbus apply` call it, and so does a process that finds the topology missing
    on the broker. External objects are not declared: another system declares them. The rings of
    hash exchanges and the queues of their shards are not declared here either, because each
    generation has its own ring and queues: declare_ring() declares them.

    Args:
        channel: a channel of the broker.
        topology: the topology.

    Raises:
        UsageError: an exchange or queue exists with other arguments.
    """
    names = Names(topology)
    declare_exchanges(channel, names)
    for queue in topology.queues.values():
        _declare_failure_queues(channel, names, queue)
    for schedule in topology.schedules.values():
        declare_schedule(channel, names, schedule)
    for consumer in topology.consumers.values():
        queue = consumer.queue
        if queue.external_name or topology.on_ring(queue):
            continue
        name = names.queue(consumer)
        # An interrupted `feedbus apply` may have marked the queue as removed from the topology. The
        # mark is an exchange.
        channel.exchange_delete(names.removed(name))
        declare_queue(channel, names, consumer, name)
        for key in queue_arguments.binding_keys(queue):
            channel.queue_bind(name, names.exchange(queue.exchange), key)
    for exchange in topology.exchanges.values():
        channel.exchange_delete(names.staged_bindings(exchange.name))


def declare_exchanges(channel: Channel, names: Names) -> None:
    """Declare all exchanges of a topology that are not external.

    For a hash exchange, also declare its exchange for packs and its queue for held messages.

    Args:
        channel: a channel of the broker.
        names: the names of the topology's objects on the broker.

    Raises:
        UsageError: an exchange exists with another type or other arguments.
    """
    for exchange in names.topology.exchanges.values():
        if exchange.external_name:
            continue
        exists = lookups.exchange_exists(channel.connection, names.exchange(exchange.name))
        staged = not exists and staged_bindings.prepare(channel, names, exchange)
        declare_exchange(channel, names, exchange, staged=staged)


def declare_exchange(channel: Channel, names: Names, exchange: Exchange, *, staged: bool) -> None:
    """Declare an exchange of a topology that is not external.

    Args:
        channel: a channel of the broker.
        names: the names of the topology's objects on the broker.
        exchange: the exchange.
        staged: whether the exchange is new, and staged_bindings.prepare() has bound its queues to
            a temporary exchange. If so, the new exchange sends its messages to that exchange.

    Raises:
        UsageError: the exchange exists with another type or other arguments.
    """
    with explain_refusal(names.exchange(exchange.name), replaceable=True):
        _declare_exchange(channel, names, exchange)
    if staged:
        staged_bindings.connect(channel, names, exchange)


def _declare_exchange(channel: Channel, names: Names, exchange: Exchange) -> None:
    name = names.exchange(exchange.name)
    if not exchange.hashed:
        arguments = dict(exchange.arguments)
        channel.exchange_declare(
            name, exchange.type, durable=True, auto_delete=False, arguments=arguments
        )
        return
    held_name = names.held(exchange.name)
    channel.exchange_declare(held_name, "fanout", durable=True, auto_delete=False)
    declare_auxiliary(
        channel, held_name, {}, quorum=queue_arguments.needs_quorum(names.topology, exchange.name)
    )
    channel.queue_bind(held_name, held_name, "")
    entry_arguments = {"alternate-exchange": held_name}
    channel.exchange_declare(
        name, "fanout", durable=True, auto_delete=False, arguments=entry_arguments
    )
    channel.exchange_declare(names.packs(exchange.name), "direct", durable=True, auto_delete=False)


def declare_ring(
    channel: Channel,
    names: Names,
    generation: Generation,
    report: Callable[[str], None] | None = None,
) -> None:
    """Declare a generation's ring and its queues; bind the queues in the generation's order.

    A new ring is declared only after its queues are on the broker's disk. So if the ring already
    exists, its queues are on the disk, and there is no wait.

    Args:
        channel: a channel of the broker.
        names: the names of the topology's objects on the broker.
        generation: the generation whose ring is declared.
        report: called with the reason if the function has to wait for the disk; None to log the
            reason.

    Raises:
        UsageError: the ring or a queue exists with other arguments, or the binding keys would be
            longer than AMQP allows (see weight_padding).
    """
    topology = names.topology
    ring = names.ring(generation)
    arguments = dict(topology.exchanges[generation.exchange].arguments)
    if not lookups.exchange_exists(channel.connection, ring):
        _declare_and_await_disk(channel, names, generation, report)
    with explain_refusal(ring):
        channel.exchange_declare(
            ring, "x-consistent-hash", durable=True, auto_delete=False, arguments=arguments
        )
    keys = _ring_keys(names, generation)
    for (member, _), (queue, key) in zip(generation.members, keys.items(), strict=True):
        _declare_shard(channel, names, topology.consumer(member), queue)
        channel.queue_bind(queue, ring, key)


def unbind_shard(channel: Channel, names: Names, generation: Generation, queue: str) -> None:
    """Unbind the queue of a shard from its ring; the other shards then get its share of messages.

    Args:
        channel: a channel of the broker.
        names: the names of the topology's objects on the broker.
        generation: the generation of the ring.
        queue: the name of the queue on the broker.

    """
    key = _ring_keys(names, generation)[queue]
    channel.queue_unbind(queue, names.ring(generation), key)


def _ring_keys(names: Names, generation: Generation) -> dict[str, str]:
    """Map the name of each queue of a ring to its binding key, in the order of the bindings."""
    queues = [(names.member(generation, member), weight) for member, weight in generation.members]
    keys = weight_padding.weight_keys(queues)
    return {queue: key for (queue, _), key in zip(queues, keys, strict=True)}


def _declare_shard(channel: Channel, names: Names, consumer: Consumer, name: str) -> None:
    """Declare the queue of a shard; with `order_by`, also its waiting queue."""
    channel.exchange_delete(names.removed(name))  # a mark of an interrupted `feedbus apply`
    declare_queue(channel, names, consumer, name)
    if consumer.queue.order_by:
        declare_waiting_queue(channel, consumer.queue, names.waiting(name))


def _declare_and_await_disk(
    channel: Channel,
    names: Names,
    generation: Generation,
    report: Callable[[str], None] | None,
) -> None:
    """Declare the queues of a new ring, and wait until they are on the broker's disk.

    RabbitMQ reports that a quorum queue is declared before it has written the queue to its disk. If
    RabbitMQ is killed in between, the queue starts again without its messages, including confirmed
    ones. A classic queue is on the disk when RabbitMQ reports that it is declared.
    """
    topology = names.topology
    consumers = [(topology.consumer(member), member) for member, _ in generation.members]
    for consumer, member in consumers:
        _declare_shard(channel, names, consumer, names.member(generation, member))
    seconds = queue_written_seconds(topology)
    if not seconds or all(consumer.queue.type != "quorum" for consumer, _ in consumers):
        return
    text = (
        f"{generation.exchange}: waiting {seconds:.0f} s until the broker has written the"
        f" {len(consumers)} new quorum queues to its disk: if the broker is killed earlier, these"
        " queues can lose confirmed messages"
    )
    if report is None:
        events.info("queues_declared", text, exchange=generation.exchange, queues=len(consumers))
    else:
        report(text)
    channel.connection.clock.sleep(seconds)


def declare_queue(channel: Channel, names: Names, consumer: Consumer, name: str) -> None:
    """Declare the queue of a consumer.

    An earlier version of feedbus declared quorum queues with another delivery limit. If the broker
    has such a queue, the queue is accepted and a warning is logged; `feedbus apply` replaces the
    queue.

    Args:
        channel: a channel of the broker.
        names: the names of the topology's objects on the broker.
        consumer: the consumer that reads the queue.
        name: the name of the queue on the broker.

    Raises:
        UsageError: the queue exists with other arguments.

    """
    arguments = queue_arguments.declared_arguments(names, consumer.queue)
    # On a ring, `feedbus apply` replaces no single queue: it makes a new generation.
    replaceable = not names.topology.on_ring(consumer.queue)
    try:
        with explain_refusal(name, replaceable=replaceable):
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
    except UsageError as error:
        if refused_argument(error.__cause__) != "x-delivery-limit":
            raise
        limit = value_on_broker(error.__cause__)
        arguments |= {"x-delivery-limit": int(limit) if limit.isdecimal() else None}
        # After the error, the client opens the channel again.
        with explain_refusal(name, replaceable=replaceable):
            channel.queue_declare(
                name,
                durable=True,
                auto_delete=False,
                arguments={each: value for each, value in arguments.items() if value is not None},
            )
        events.warning(
            "delivery_limit_differs",
            f"queue {name}: its delivery limit is {limit} on the broker, so the broker may"
            " dead-letter messages that no handler has seen; run `feedbus apply`, which replaces"
            " the queue and keeps its messages",
            queue=name,
            limit=limit,
        )


def declare_auxiliary(
    channel: Channel,
    name: str,
    arguments: Mapping[str, Any],
    *,
    quorum: bool,
    replaceable: bool = False,
) -> None:
    """Declare an auxiliary queue, such as a queue for dead letters, retries or held messages.

    If the queue exists with the other queue type, the existing queue is used, because it may have
    messages.

    Args:
        channel: a channel of the broker.
        name: the name of the queue on the broker.
        arguments: the arguments that do not depend on the queue type.
        quorum: True for a quorum queue, False for a classic queue.
        replaceable: whether `feedbus apply` can replace the existing queue; the text of the error
            depends on it.

    Raises:
        UsageError: the queue exists with other arguments.

    """
    wanted, of_other_type = (
        queue_arguments.auxiliary_arguments(arguments, quorum=each) for each in (quorum, not quorum)
    )
    try:
        with explain_refusal(name, replaceable=replaceable):
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=wanted)
    except UsageError as error:
        # An argument in which the two queue types differ can be refused because of the type. For
        # any other argument, a declaration with the other type would be refused, too.
        if refused_argument(error.__cause__) not in find_differences(wanted, of_other_type):
            raise
        # After the error, the client opens the channel again.
        with explain_refusal(name, replaceable=replaceable):
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=of_other_type)


def declare_schedule(channel: Channel, names: Names, schedule: Schedule) -> None:
    """Declare the queue that keeps, in one message, the time for which a schedule was last fired.

    To fire a schedule is to publish its message.

    Args:
        channel: a channel of the broker.
        names: the names of the topology's objects on the broker.
        schedule: the schedule.

    Raises:
        UsageError: the queue exists with other arguments.
    """
    quorum = queue_arguments.needs_quorum(names.topology, schedule.exchange)
    declare_auxiliary(channel, names.schedule(schedule.name), {}, quorum=quorum)


def _declare_failure_queues(channel: Channel, names: Names, queue: Queue) -> None:
    declare_auxiliary(channel, names.dead(queue), {}, quorum=queue.type == "quorum")
    for delay in queue.retry.delays_milliseconds:
        declare_retry_queue(channel, names, queue, delay)


def declare_retry_queue(channel: Channel, names: Names, queue: Queue, milliseconds: int) -> None:
    """Declare the queue in which the retries of a queue wait for one delay.

    A retry is a failed record that is to be handled again. After the delay:

    - If the queue is on a ring, the broker sends the record to the entry, with the original routing
      key of the record. So the record reaches the shard that owns the key at this time.
    - Otherwise, the broker sends the record to the queue itself, and not to other queues of the
      exchange.

    Args:
        channel: a channel of the broker.
        names: the names of the topology's objects on the broker.
        queue: the queue whose records are tried again.
        milliseconds: the delay.

    Raises:
        UsageError: the retry queue exists with other arguments.
    """
    name = names.retry_queue(queue, milliseconds)
    arguments = queue_arguments.retry_queue_arguments(names, queue, milliseconds)
    with explain_refusal(name):
        channel.exchange_declare(name, "fanout", durable=True, auto_delete=False)
    quorum = queue.type == "quorum" or queue_arguments.may_refuse_retries(queue)
    declare_auxiliary(channel, name, arguments, quorum=quorum, replaceable=True)
    channel.queue_bind(name, name, "")


def declare_waiting_queue(channel: Channel, queue: Queue, name: str) -> None:
    """Declare a waiting queue: records wait in it for earlier records of their keys.

    Args:
        channel: a channel of the broker.
        queue: the queue of the records; it determines the queue type.
        name: the name of the waiting queue on the broker.

    Raises:
        UsageError: the waiting queue exists with other arguments.
    """
    arguments = {"x-single-active-consumer": True}
    declare_auxiliary(channel, name, arguments, quorum=queue.type == "quorum")
