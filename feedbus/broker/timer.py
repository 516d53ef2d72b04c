"""The timer: queues on the broker in which a message waits for any delay, without a process.

The delay in milliseconds is written as a number with digits of base 16. The lowest digit has the
position 0. Each position has one queue for each digit from 1 to 15. The time to live of the queue
is the part of the delay for which the digit stands: 3 at position 1 is 3 * 16 ms. So all messages
of a queue wait equally long, and the first message of the queue is always the next to expire.

Each position also has an exchange of the type headers. A message passes the positions from the
highest to the lowest:

- The exchange of a position sends the message to the queue of the message's digit. If the digit is
  0, the exchange sends the message to the exchange of the next lower position.
- When the message expires in the queue, the broker dead-letters it to the exchange of the next
  lower position.
- Position 0 is followed by the exchange `due`. This exchange sends the message to its target, the
  queue or exchange for which the message was published.

The digits and the target are headers of the message, so its routing key does not change. The eight
lowest positions suffice for the longest time to live of a queue, 2**32 - 1 ms. Each higher position
has one queue, with this time to live of 49.7 days.

The queues are quorum queues, which delete a message only when the next queue has confirmed it. The
queues of a position are declared when the first message needs one of them, so a project without
delays has none. Then the process waits until the broker has written the queues to its disk,
declares the exchange `written` of the position, and publishes the message. While this exchange
exists, the queues of the position are on the disk, and no process waits for them.

If no queue accepts a message that is due, the message waits in the queue `undelivered`, until
restore() of feedbus.broker.timer_objects sends it again.
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
LOW_POSITIONS = 8  # the positions of base 16; each higher position stands for 49.7 days
LONGEST_QUEUE_MILLISECONDS = 2**32 - 1
LONGEST_MILLISECONDS = (len(TIMER_POSITIONS) - LOW_POSITIONS + 1) * LONGEST_QUEUE_MILLISECONDS
# (limit, step), both in ms: a delay below the limit is rounded up to a multiple of the step.
ROUNDED = ((4_096, 1), (65_536, 16), (LONGEST_MILLISECONDS + 1, 256))


def digits_of(milliseconds: int) -> list[int]:
    """Return the digits of a delay, the digit of position 0 first.

    The message waits in one queue of the timer for each digit that is not 0. The list ends with
    such a digit. The digits of the positions 0 to 7 have the base 16. A delay from 49.7 days has
    further digits: each is 1, and stands for 49.7 days.

    Delays below 4.1 s are exact. Below 65.5 s, they are rounded up to a multiple of 16 ms, longer
    ones to a multiple of 256 ms.

    Args:
        milliseconds: the delay, from 1 to LONGEST_MILLISECONDS.
    """
    step = next(step for limit, step in ROUNDED if milliseconds < limit)
    rounded = min(-(-milliseconds // step) * step, LONGEST_MILLISECONDS)
    further, remaining = divmod(rounded, LONGEST_QUEUE_MILLISECONDS)
    if further > len(TIMER_POSITIONS) - LOW_POSITIONS:
        # For the longest delay, the eight lowest positions together stand for 49.7 days, too.
        further, remaining = further - 1, LONGEST_QUEUE_MILLISECONDS
    digits = [remaining >> BASE_BITS * position & 15 for position in range(LOW_POSITIONS)] + [
        1
    ] * further
    while digits and not digits[-1]:
        digits.pop()
    return digits


def position_digits(position: int) -> range:
    """Return the digits except 0 that a delay can have at a position: 1 to 15, or only 1.

    Args:
        position: the position of the digit in the delay. The lowest digit has the position 0; the
            digits of the positions 0 to 7 have the base 16, higher ones are 0 or 1.
    """
    return range(1, 1 << BASE_BITS if position < LOW_POSITIONS else 2)


def queue_milliseconds(position: int, digit: int) -> int:
    """Return how long a message waits in the timer's queue for a digit at a position.

    Args:
        position: the position of the digit in the delay; the lowest digit has the position 0.
        digit: the digit, from 1 to 15.
    """
    return digit << BASE_BITS * position if position < LOW_POSITIONS else LONGEST_QUEUE_MILLISECONDS


def delay_message(names: Names, message: Outgoing, milliseconds: int, target: str) -> Outgoing:
    """Return a message that reaches its target after a delay, through the queues of the timer.

    Two properties of the message become headers, because they would change its delay:

    - The priority. In a quorum queue of RabbitMQ 4, messages with a high priority overtake others.
      Then the first message of a queue of the timer would not be the next to expire.
    - The expiration. A message that expired in a queue of the timer because of its own expiration
      would be due too early. The consumer checks the expiration from the header.

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
    """Return the rounded delay of a message in milliseconds; 0 if it was not delayed.

    Args:
        headers: the headers of the message, with the digits of the delay.
    """
    digits = (
        (position, int(headers.get(name, 0))) for position, name in enumerate(TIMER_POSITIONS)
    )
    return sum(queue_milliseconds(position, digit) for position, digit in digits if digit)


def retry_target(names: Names, queue: Queue) -> str:
    """Return the target of a queue's retries: "queue NAME", or "exchange NAME" for a ring.

    A retry is a failed record that is to be handled again. A retry for a ring reaches the shard
    that owns its key at the end of the delay.

    feedbus does not bind external queues, so the timer cannot send a retry to an external queue
    directly. The target of such a retry is a queue of the timer. This queue dead-letters the retry
    to the external queue through the default exchange.

    Args:
        names: the names of the topology's objects on the broker; NAME is one of them.
        queue: the queue whose records are tried again.
    """
    if names.topology.on_ring(queue):
        return exchange_target(names, queue.exchange)
    if queue.external_name:
        return f"queue {names.timer_forward(queue)}"
    return f"queue {names.unsharded(queue)}"


def exchange_target(names: Names, exchange: str) -> str:
    """Return the target of delayed messages to an exchange: "exchange NAME".

    Args:
        names: the names of the topology's objects on the broker.
        exchange: the name of the exchange in topology.toml; NAME is its name on the broker.

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
    """Whether the timer's exchanges are on the broker; the first delayed message declares them."""
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
    """Count the delayed messages, with one request to the broker for each queue of the timer.

    Without a timer, both counts are 0.
    """
    if not is_declared(connection, names):
        return DelayedCounts()
    queues = (
        names.timer_queue(position, digit)
        for position in range(len(TIMER_POSITIONS))
        for digit in position_digits(position)
    )
    waiting = sum(lookups.count_messages(connection, queue) or 0 for queue in queues)
    return DelayedCounts(waiting, lookups.count_messages(connection, names.timer_undelivered) or 0)
