"""The timer: queues on the broker in which a message waits for any time, without a process.

A time is written as digits of base 16, in milliseconds. Each position of a digit has a queue for
each digit, whose time to live is the time of that digit. All messages of a queue wait equally long.
So the first message of a queue is always the next one that is due. A message passes the positions
from the highest to the lowest. Each position has an exchange of the type headers. This exchange
sends the message to the queue of its digit, or to the next position if the digit is 0. A message
that expires in a queue is dead-lettered to the next position. After the last position the exchange
`due` sends it to its target. The digits and the target are headers, so the routing key does not
change. Above 2**32 ms, the longest time to live of a queue, there is one queue for each further
49.7 days.

The queues are quorum queues, which delete a message only when the next queue has confirmed it. The
queues of a position are declared when the first message needs one of them, so a project without
delays has none. This message is published after the broker has written the queues to its disk. From
then on, the exchange `written` of the position exists. If no queue accepts a message when it is
due, the message waits in the queue `undelivered` until one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from feedbus.broker import lookups
from feedbus.broker_names import Names
from feedbus.errors import UsageError
from feedbus.topology import Queue
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Connection
from feedbus.wire.constants import EXPIRATION, PRIORITY, TIMER_POSITIONS, TIMER_TARGET

BASE_BITS = 4  # the bits of a digit
LOW_POSITIONS = 8  # the positions of digits; each higher position stands for 49.7 days
LONGEST_QUEUE_MILLISECONDS = 2**32 - 1
LONGEST_MILLISECONDS = (len(TIMER_POSITIONS) - LOW_POSITIONS + 1) * LONGEST_QUEUE_MILLISECONDS
# (limit, step): a delay below the limit is rounded up to a multiple of the step, in ms.
ROUNDED = ((4_096, 1), (65_536, 16), (LONGEST_MILLISECONDS + 1, 256))


def digits_of(milliseconds: int) -> list[int]:
    """Return the digits of a delay to the base 16, the lowest digit first.

    The list ends with the highest digit that is not 0.

    Args:
        milliseconds: the delay, from 1 to LONGEST_MILLISECONDS; it is rounded up; see ROUNDED.

    """
    unit = next(unit for below, unit in ROUNDED if milliseconds < below)
    rounded = min(-(-milliseconds // unit) * unit, LONGEST_MILLISECONDS)
    further, remaining = divmod(rounded, LONGEST_QUEUE_MILLISECONDS)
    if further > len(TIMER_POSITIONS) - LOW_POSITIONS:
        further, remaining = further - 1, LONGEST_QUEUE_MILLISECONDS
    digits = [remaining >> BASE_BITS * position & 15 for position in range(LOW_POSITIONS)] + [
        1
    ] * further
    while digits and not digits[-1]:
        digits.pop()
    return digits


def position_digits(position: int) -> range:
    """Return the digits, except 0, that a delay can have at a position; 0 is the lowest one."""
    return range(1, 1 << BASE_BITS if position < LOW_POSITIONS else 2)


def queue_milliseconds(position: int, digit: int) -> int:
    """Return how long a message waits in the queue of a digit at a position."""
    return digit << BASE_BITS * position if position < LOW_POSITIONS else LONGEST_QUEUE_MILLISECONDS


def delay_message(names: Names, message: Outgoing, milliseconds: int, target: str) -> Outgoing:
    """Return a message that reaches its target after a delay.

    Its priority becomes a header. In a quorum queue of RabbitMQ 4, messages of a high priority
    overtake others. Then the first message would not be the next that is due. Its expiration
    becomes a header, too: a message that expired in a queue of the timer would be due too early.
    The consumer compares it with the time of publishing; see Delivery.expired().

    Args:
        names: the names of the topology's objects on the broker.
        message: the message, with the routing key that it has at the end of the delay.
        milliseconds: the delay, from 1 to LONGEST_MILLISECONDS.
        target: the queue or exchange that gets the message: a result of retry_target() or
            exchange_target().

    """
    properties, headers = dict(message.properties), dict(message.headers)
    priority = properties.pop("priority", None)
    if priority is not None:
        headers[PRIORITY] = priority
    expiration = properties.pop("expiration", None)
    if expiration is not None:
        headers[EXPIRATION] = expiration
    digits = digits_of(milliseconds)
    positions = dict(zip(TIMER_POSITIONS, map(str, digits), strict=False))
    return replace(
        message,
        exchange=names.timer_position(len(digits) - 1),
        headers={**headers, **positions, TIMER_TARGET: target},
        properties=properties,
    )


def delay_milliseconds_of(headers: Mapping[str, Any]) -> int:
    """Return the delay of a message in milliseconds, from its headers."""
    digits = (
        (position, int(headers.get(name, 0))) for position, name in enumerate(TIMER_POSITIONS)
    )
    return sum(queue_milliseconds(position, digit) for position, digit in digits if digit)


def retry_target(names: Names, queue: Queue) -> str:
    """Return the target of a queue's retries: "queue NAME", or "exchange NAME" for a ring.

    A retry for a ring reaches the shard that owns its key at the end of the delay. feedbus does not
    bind an external queue. So the target of its retries is a queue of the timer, which dead-letters
    to the external queue through the default exchange.
    """
    if names.topology.on_ring(queue):
        return exchange_target(names, queue.exchange)
    if queue.external_name:
        return f"queue {names.timer_forward(queue)}"
    return f"queue {names.unsharded(queue)}"


def exchange_target(names: Names, exchange: str) -> str:
    """Return the target of delayed messages to an exchange: "exchange NAME".

    Raises:
        UsageError: the exchange is external, so its queues are not known.

    """
    if names.topology.exchange(exchange).external_name:
        msg = (
            f"exchange '{exchange}' is external, so messages to it cannot be delayed; publish with"
            " delay to an exchange of this topology instead, and let the handler of its queue"
            f" publish to '{exchange}'"
        )
        raise UsageError(msg)
    return f"exchange {names.exchange(exchange)}"


def is_declared(connection: Connection, names: Names) -> bool:
    """Whether the timer is on the broker; it is declared for the first delayed message."""
    return lookups.exchange_exists(connection, names.timer_due)


@dataclass(frozen=True, slots=True)
class DelayedCounts:
    """How many messages are in the queues of the timer.

    Attributes:
        waiting: how many messages still wait for the end of their delay.
        undelivered: how many messages are due, but no queue accepted them.
    """

    waiting: int = 0
    undelivered: int = 0


def count_delayed(connection: Connection, names: Names) -> DelayedCounts:
    """Count the delayed messages, with one request to the broker for each queue."""
    if not is_declared(connection, names):
        return DelayedCounts()
    queues = (
        names.timer_queue(position, digit)
        for position in range(len(TIMER_POSITIONS))
        for digit in position_digits(position)
    )
    waiting = sum(lookups.count_messages(connection, queue) or 0 for queue in queues)
    return DelayedCounts(waiting, lookups.count_messages(connection, names.timer_undelivered) or 0)
