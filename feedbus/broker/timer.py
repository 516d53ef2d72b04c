"""The timer: queues on the broker in which a message waits for any time, and no process.

A time is written as digits of base 16, in milliseconds. There is a queue for each digit of each
place, in which messages wait for as long as that digit stands for; all messages of a queue wait
equally long, so the first is always the next that is due. A message goes from place to place, the
highest first: the exchange of a place (of type headers) sends it by its digit into a queue, or for
0 on to the next place, and what has expired in a queue is dead-lettered to the next place. Behind
the last place the exchange `due` sends it to its target. The digits and the target are headers, so
the routing key stays the publisher's. Above 2**32 ms, the longest time to live of a queue, there
is one queue for each further 49.7 days.

The queues are quorum queues, which forget a message only when the next queue has confirmed it. The
queues of a place are declared when the first message needs one of them, so a project without delays
has none. That message is published once the broker has written them to its disk; the exchange
`written` of the place says so. What no queue takes when it is due waits in the queue `undelivered`
until one does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from feedbus.broker import entities
from feedbus.broker.confirm_channel import PatientPublisher
from feedbus.broker.connecting import queue_written_seconds
from feedbus.broker.names import Names
from feedbus.errors import UsageError
from feedbus.topology import Exchange, Queue, Topology
from feedbus.wire import Outgoing
from feedbus.wire.amqp import Channel, Connection
from feedbus.wire.constants import PRIORITY, TIMER_PLACES, TIMER_TARGET

log = logging.getLogger(__name__)

BASE_BITS = 4
LOW_PLACES = 8
LONGEST_QUEUE_MILLISECONDS = 2**32 - 1
LONGEST_MILLISECONDS = (len(TIMER_PLACES) - LOW_PLACES + 1) * LONGEST_QUEUE_MILLISECONDS
# A shorter wait is exact; a longer one is rounded up to so many milliseconds, for fewer queues.
ROUNDED = ((4_096, 1), (65_536, 16), (LONGEST_MILLISECONDS + 1, 256))


def digits_of(milliseconds: int) -> list[int]:
    """Return the digits of a wait, the lowest place first, without zeros at the end.

    Args:
        milliseconds: from 1 to LONGEST_MILLISECONDS; it is rounded up as ROUNDED says.

    """
    unit = next(unit for below, unit in ROUNDED if milliseconds < below)
    rounded = min(-(-milliseconds // unit) * unit, LONGEST_MILLISECONDS)
    further, rest = divmod(rounded, LONGEST_QUEUE_MILLISECONDS)
    if further > len(TIMER_PLACES) - LOW_PLACES:
        further, rest = further - 1, LONGEST_QUEUE_MILLISECONDS
    digits = [rest >> BASE_BITS * place & 15 for place in range(LOW_PLACES)] + [1] * further
    while digits and not digits[-1]:
        digits.pop()
    return digits


def queue_milliseconds(place: int, digit: int) -> int:
    """Return how long messages wait in the queue of a digit."""
    return digit << BASE_BITS * place if place < LOW_PLACES else LONGEST_QUEUE_MILLISECONDS


def delayed(names: Names, message: Outgoing, milliseconds: int, target: str) -> Outgoing:
    """Return a message that goes to a target after so long.

    Its priority becomes a header: RabbitMQ 4 lets messages of a high priority pass others in a
    quorum queue, so the first would not be the next that is due.

    Args:
        names: of the topology.
        message: with the routing key that it is to have then, and without an expiration.
        milliseconds: from 1 to LONGEST_MILLISECONDS.
        target: see target_of() and exchange_target().

    """
    properties, own = dict(message.properties), dict(message.headers)
    priority = properties.pop("priority", None)
    if priority is not None:
        own[PRIORITY] = priority
    digits = digits_of(milliseconds)
    places = dict(zip(TIMER_PLACES, map(str, digits), strict=False))
    return replace(
        message,
        exchange=names.timer_place(len(digits) - 1),
        headers={**own, **places, TIMER_TARGET: target},
        properties=properties,
    )


def wait_of(headers: Mapping[str, Any]) -> int:
    """Return how many milliseconds a message waits, by its headers."""
    digits = ((place, int(headers.get(name, 0))) for place, name in enumerate(TIMER_PLACES))
    return sum(queue_milliseconds(place, digit) for place, digit in digits if digit)


def target_of(names: Names, queue: Queue) -> str:
    """Return the target of a queue's retries: the queue, or for a ring the entry to it.

    A retry for a ring finds the shard that owns its key then. An external queue, which is bound to
    nothing of ours, gets what a queue of the timer dead-letters to it by the default exchange.
    """
    if names.topology.on_ring(queue):
        return exchange_target(names, queue.exchange)
    if queue.external_name:
        return f"queue {names.timer_way(queue)}"
    return f"queue {names.unsharded(queue)}"


def exchange_target(names: Names, exchange: str) -> str:
    """Return the target of what is published to an exchange.

    Raises:
        UsageError: it is external, so it is not known which queues it has.

    """
    if names.topology.exchange(exchange).external_name:
        msg = (
            f"exchange '{exchange}' is external, so no message for it can be delayed; delay it for"
            " an exchange of this topology, whose handler publishes it"
        )
        raise UsageError(msg)
    return f"exchange {names.exchange(exchange)}"


class Timer:
    """Declares what delayed messages need, each once for as long as a connection lasts."""

    def __init__(self, topology: Topology) -> None:
        """Declare nothing yet."""
        self._names = Names(topology)
        self._written_seconds = queue_written_seconds(topology)
        self._targets: set[str] = set()
        self._places: set[int] = set()

    def forget(self) -> None:
        """Declare everything anew: another connection may be to a broker that has nothing."""
        self._targets.clear()
        self._places.clear()

    def declare(self, channel: Channel, messages: Sequence[Outgoing]) -> None:
        """Declare what these messages need; return when the broker has written it to its disk.

        The first message that needs a place waits for that; later ones, also of other processes,
        find the exchange that says so.

        Raises:
            UsageError: one of the queues is on the broker with other arguments.
            NotFound: a target does not exist.

        """
        names = self._names
        targets = {str(message.headers[TIMER_TARGET]) for message in messages} - self._targets
        places = {place for message in messages for place in _places_of(message)} - self._places
        if not targets and not places:
            return
        if not self._targets:
            _declare_places(channel, names)
        for target in sorted(targets):
            _bind(channel, names, target)
        for place in sorted(places):
            _declare_queues(channel, names, place)
        if self._written_seconds:
            self._await_written(channel, places)
        self._targets |= targets
        self._places |= places

    def _await_written(self, channel: Channel, places: Iterable[int]) -> None:
        names = [self._names.timer_written(place) for place in sorted(places)]
        new = [name for name in names if not entities.exchange_exists(channel.connection, name)]
        if not new:
            return
        log.info(
            "event=timer_declared exchanges=%s waiting_seconds=%.0f", new, self._written_seconds
        )
        time.sleep(self._written_seconds)
        for name in new:
            channel.exchange_declare(name, "fanout", durable=True, auto_delete=False)


def _places_of(message: Outgoing) -> Iterator[int]:
    """Yield each place in which a message waits."""
    for place, header in enumerate(TIMER_PLACES):
        digit = message.headers.get(header)
        if digit is None:  # it has none from here on
            return
        if int(digit):
            yield place


def exists(connection: Connection, names: Names) -> bool:
    """Whether anything has ever been delayed."""
    return entities.exchange_exists(connection, names.timer_due)


@dataclass(frozen=True, slots=True)
class Delayed:
    """How many messages wait in the timer, and how many have come due without their target."""

    waiting: int = 0
    undelivered: int = 0


def count(connection: Connection, names: Names) -> Delayed:
    """Count what is in the timer; it takes a question to the broker for each queue."""
    if not exists(connection, names):
        return Delayed()
    waiting = sum(entities.count(connection, queue) or 0 for queue in _queues(names))
    return Delayed(waiting, entities.count(connection, names.timer_undelivered) or 0)


def _queues(names: Names) -> Iterator[str]:
    """Yield the name of each queue that there may be."""
    for place in range(len(TIMER_PLACES)):
        for digit in _digits(place):
            yield names.timer_queue(place, digit)


def _digits(place: int) -> range:
    """Return the digits but 0 that a place can have."""
    return range(1, 1 << BASE_BITS if place < LOW_PLACES else 2)


def restore(channel: Channel, names: Names) -> None:
    """Bind every target of the topology anew, and send on what has come due without its target.

    Its targets are gone when a queue is replaced, or was removed for a while.
    """
    if not exists(channel.connection, names):
        return
    bound = set()
    topology = names.topology
    ours = [each for each in topology.exchanges.values() if not each.external_name]
    targets = {target_of(names, queue) for queue in topology.queues.values()}
    targets |= {exchange_target(names, exchange.name) for exchange in ours}
    for exchange in ours:  # their guards may have keys that the exchanges have no more
        channel.exchange_delete(names.timer_guard(exchange.name))
    for target in sorted(targets):
        kind, _, name = target.partition(" ")
        there = entities.queue_exists if kind == "queue" else entities.exchange_exists
        if there(channel.connection, name):
            _bind(channel, names, target)
            bound.add(target)
    _send_on(channel, names, bound)


def _send_on(channel: Channel, names: Names, bound: set[str]) -> None:
    sent, others = 0, []
    with PatientPublisher(channel.connection) as publisher:
        # What comes back is not taken again.
        for _ in range(entities.count(channel.connection, names.timer_undelivered) or 0):
            message = channel.basic_get(names.timer_undelivered)
            if message is None:
                break
            headers = message.properties.get("application_headers") or {}
            if headers.get(TIMER_TARGET) not in bound:
                others.append(message.delivery_tag)
                continue
            key = message.delivery_info["routing_key"]
            publisher.publish([(message, names.timer_due, key)])
            channel.basic_ack(message.delivery_tag)
            sent += 1
    for tag in others:
        channel.basic_reject(tag, requeue=True)
    if sent:
        log.info("event=undelivered_sent messages=%d", sent)


def _declare_places(channel: Channel, names: Names) -> None:
    """Declare the exchanges, from the end on, so that none is without its next."""
    undelivered = names.timer_undelivered
    channel.exchange_declare(undelivered, "fanout", durable=True, auto_delete=False)
    entities.declare_kept(channel, undelivered, {}, quorum=True)
    channel.queue_bind(undelivered, undelivered, "")
    arguments = {"alternate-exchange": undelivered}
    channel.exchange_declare(
        names.timer_due, "headers", durable=True, auto_delete=False, arguments=arguments
    )
    for place, header in enumerate(TIMER_PLACES):
        name = names.timer_place(place)
        channel.exchange_declare(name, "headers", durable=True, auto_delete=False)
        match = {"x-match": "all", header: "0"}
        channel.exchange_bind(names.timer_place(place - 1), name, "", arguments=match)


def _declare_queues(channel: Channel, names: Names, place: int) -> None:
    """Declare the queues of a place."""
    for digit in _digits(place):
        name = names.timer_queue(place, digit)
        arguments = {
            "x-message-ttl": queue_milliseconds(place, digit),
            "x-dead-letter-exchange": names.timer_place(place - 1),
        }
        entities.declare_kept(channel, name, arguments, quorum=True)
        match = {"x-match": "all", TIMER_PLACES[place]: str(digit)}
        channel.queue_bind(name, names.timer_place(place), "", arguments=match)


def _declare_guard(channel: Channel, names: Names, exchange: Exchange) -> str:
    """Declare an exchange that passes on to another only what that one has a queue for.

    A quorum queue keeps what cannot be routed, and gives nothing else away while it has more than
    a few such messages. The rest goes to the undelivered ones, by the alternate exchange.
    """
    guard = names.timer_guard(exchange.name)
    channel.exchange_declare(
        guard,
        exchange.type,
        durable=True,
        auto_delete=False,
        arguments={"alternate-exchange": names.timer_undelivered},
    )
    for queue in names.topology.queues.values():
        if queue.exchange == exchange.name and not queue.external_name:
            for key in entities.binding_keys(queue):
                channel.exchange_bind(names.exchange(exchange.name), guard, key)
    return guard


def _bind(channel: Channel, names: Names, target: str) -> None:
    kind, _, name = target.partition(" ")
    for queue in names.topology.queues.values():
        if queue.external_name and names.timer_way(queue) == name:
            on = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue.external_name}
            entities.declare_kept(channel, name, {"x-message-ttl": 1, **on}, quorum=True)
    match = {"x-match": "all", TIMER_TARGET: target}
    for exchange in names.topology.exchanges.values():
        if kind == "exchange" and not exchange.hashed and names.exchange(exchange.name) == name:
            name = _declare_guard(channel, names, exchange)
    bind = channel.queue_bind if kind == "queue" else channel.exchange_bind
    bind(name, names.timer_due, "", arguments=match)
