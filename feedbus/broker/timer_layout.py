"""The exchanges and queues that a timer may have: their names, arguments and keys.

The timer keeps delayed messages. See feedbus.broker.timer for positions and digits. For some
exchanges of the topology, the timer has a guard: another exchange, to which the timer sends the
messages that are due. The guard forwards them to the exchange of the topology.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from feedbus.broker import queue_arguments
from feedbus.broker.timer import position_digits, queue_milliseconds
from feedbus.broker_names import Names
from feedbus.topology import Exchange, Queue
from feedbus.wire.constants import TIMER_POSITIONS


def position_arguments(names: Names, position: int, digit: int) -> Mapping[str, Any]:
    """Return the arguments of the timer's queue for delays with this digit at a position.

    The delay in milliseconds is written as a number with digits of base 16. A message waits in one
    queue after the other, one for each digit that is not 0. When the message expires in a queue, it
    moves to the exchange of the next lower position. From position 0, it moves to the exchange
    `due`, which sends it to its target.

    Args:
        names: the names of the topology's objects on the broker.
        position: the position of the digit in the delay; the lowest digit has the position 0.
        digit: the digit, from 1 to 15.
    """
    return {
        "x-message-ttl": queue_milliseconds(position, digit),
        "x-dead-letter-exchange": names.timer_position(position - 1),
    }


def forward_arguments(queue: Queue) -> Mapping[str, Any]:
    """Return the arguments of the timer's queue through which retries reach an external queue.

    A message expires there after 1 ms, and is dead-lettered to the external queue.
    """
    return {
        "x-message-ttl": 1,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue.external_name,
    }


def queues_of_timer(names: Names) -> dict[str, Mapping[str, Any]]:
    """Return the arguments of every queue that a topology's timer may have, by the queue's name.

    Queues for delays that no message has needed yet are included, although they are not declared.
    """
    queues: dict[str, Mapping[str, Any]] = {names.timer_undelivered: {}}
    for position in range(len(TIMER_POSITIONS)):
        for digit in position_digits(position):
            queues[names.timer_queue(position, digit)] = position_arguments(names, position, digit)
    for queue in names.topology.queues.values():
        if queue.external_name:
            queues[names.timer_forward(queue)] = forward_arguments(queue)
    return {
        name: queue_arguments.auxiliary_arguments(arguments, quorum=True)
        for name, arguments in queues.items()
    }


def exchanges_of_timer(names: Names) -> set[str]:
    """Return the names of every exchange that a topology's timer may have, declared or not."""
    exchanges = {names.timer_due, names.timer_undelivered}
    for position in range(len(TIMER_POSITIONS)):
        exchanges |= {names.timer_position(position), names.timer_written(position)}
    guarded = filter(has_guard, names.topology.exchanges.values())
    return exchanges | {names.timer_guard(exchange.name) for exchange in guarded}


def missing_queues(names: Names, seen: Collection[str]) -> Iterator[str]:
    """Yield the names of the timer's queues that are missing on the broker.

    All queues of a position are declared together, when the first message needs one of them. So if
    the broker has none of the queues of a position, none of them counts as missing.

    Args:
        names: the names of the topology's objects on the broker.
        seen: the names of the queues that the broker has.

    """
    for position in range(len(TIMER_POSITIONS)):
        queues = [names.timer_queue(position, digit) for digit in position_digits(position)]
        missing = [name for name in queues if name not in seen]
        if len(missing) < len(queues):
            yield from missing


def has_guard(exchange: Exchange) -> bool:
    """Whether the timer has a guard for an exchange.

    A guard is an exchange of the timer. The timer sends messages that are due to the guard. The
    guard forwards a message to the exchange of the topology only if that exchange has a queue for
    the message. Other messages go to the timer's queue for undelivered messages. Without a guard,
    such a message would stay in a queue of the timer, and could block the messages behind it.

    If an exchange has an alternate exchange, messages that match no queue go there, so no guard is
    needed. The entry of a hash exchange has an alternate exchange of feedbus. For other exchanges,
    the user can set an alternate exchange. An external exchange needs no guard, because it cannot
    be the target of delayed messages.
    """
    return not (
        exchange.hashed or exchange.external_name or "alternate-exchange" in exchange.arguments
    )


def guard_keys(names: Names, exchange: Exchange) -> Iterator[str]:
    """Yield the binding keys with which the guard of an exchange is bound to the exchange.

    They are the binding keys of the queues of the exchange.

    Args:
        names: the names of the topology's objects on the broker.
        exchange: an exchange for which has_guard() is true.
    """
    for queue in names.topology.queues.values():
        if queue.exchange == exchange.name and not queue.external_name:
            yield from queue_arguments.binding_keys(queue)
