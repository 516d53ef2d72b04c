"""Wait until queues have no consumer, before they are changed or deleted."""

from __future__ import annotations

from collections.abc import Iterable

from feedbus import broker
from feedbus.clock import Clock
from feedbus.wire.amqp_protocols import Connection

# RabbitMQ counts the consumers of a lost connection until it notices the loss. RabbitMQ notices it
# a moment after a leader election, and up to two heartbeats of 12 s after the loss of a host.
LEAVE_SECONDS = 25.0
LEAVE_PAUSE_SECONDS = 0.1  # between two checks


def wait_for_consumers_to_leave(
    connection: Connection, clock: Clock, queues: Iterable[str]
) -> list[str]:
    """Wait until queues have no consumer; return the queues that still have one after 25 s.

    A function that refuses to change a queue with a consumer calls this first. Otherwise, the
    function could refuse because of a consumer whose connection is lost, but which RabbitMQ still
    counts.

    Args:
        connection: a connection to the broker of the queues.
        clock: the broker's clock.
        queues: the names of the queues on the broker; a queue that does not exist has no consumer.
    """
    deadline = clock.monotonic() + LEAVE_SECONDS
    while queues := [queue for queue in queues if broker.count_consumers(connection, queue)]:
        if clock.monotonic() > deadline:
            break
        clock.sleep(LEAVE_PAUSE_SECONDS)
    return queues
