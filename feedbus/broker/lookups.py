"""Look up by passive declarations whether an object exists, and the counts of a queue.

queue_exists(), count_messages() and count_consumers() raise BrokerOutage if the queue is on a
cluster node that is down, or is exclusive to another connection.
"""

from __future__ import annotations

from feedbus.broker.channels import short_channel
from feedbus.errors import BrokerOutage
from feedbus.wire.amqp_protocols import Connection


def queue_exists(connection: Connection, name: str) -> bool:
    """Whether the broker has a queue of that name.

    Raises:
        BrokerOutage: the queue is on a node that is down, or is exclusive to another connection.
    """
    return _counts(connection, name) is not None


def count_messages(connection: Connection, queue: str) -> int | None:
    """Return the number of ready messages in a queue, or None if the queue does not exist.

    Raises:
        BrokerOutage: the queue is on a node that is down, or is exclusive to another connection.
    """
    counts = _counts(connection, queue)
    return None if counts is None else counts[0]


def count_consumers(connection: Connection, queue: str) -> int | None:
    """Return the number of consumers of a queue, or None if the queue does not exist.

    Raises:
        BrokerOutage: the queue is on a node that is down, or is exclusive to another connection.
    """
    counts = _counts(connection, queue)
    return None if counts is None else counts[1]


def is_exclusive_to_another(connection: Connection, queue: str) -> bool:
    """Whether a queue exists and is exclusive to another open connection."""
    from amqp.exceptions import NotFound, ResourceLocked

    try:
        with short_channel(connection) as channel:
            channel.queue_declare(queue, passive=True)
    except NotFound:
        return False
    except ResourceLocked:
        return True
    return False


def _counts(connection: Connection, queue: str) -> tuple[int, int] | None:
    """Return a queue's (ready messages, consumers), or None if it does not exist.

    Raises:
        BrokerOutage: the queue is on a node that is down, or is exclusive to another connection.

    """
    from amqp.exceptions import NotFound, ResourceLocked

    try:
        with short_channel(connection) as channel:
            counts = channel.queue_declare(queue, passive=True)
    except NotFound as error:
        if "no queue" in str(error.reply_text):
            return None
        msg = (
            f"broker: the cluster node of queue {queue} is down: {error.reply_text}; start the node"
        )
        raise BrokerOutage(msg) from error
    except ResourceLocked as error:
        msg = (
            f"broker: {error.reply_text}; close the connection that declared the queue, or declare"
            " it without exclusive"
        )
        raise BrokerOutage(msg) from error
    return int(counts.message_count), int(counts.consumer_count)


def exchange_exists(connection: Connection, name: str) -> bool:
    """Whether the broker has an exchange of that name."""
    from amqp.exceptions import NotFound

    try:
        with short_channel(connection) as channel:
            channel.exchange_declare(name, "", passive=True)
    except NotFound:
        return False
    return True
