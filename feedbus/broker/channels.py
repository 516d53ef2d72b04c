"""Channels that are used for a few methods and then closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from feedbus.wire.amqp_protocols import Channel, Connection


@contextmanager
def short_channel(connection: Connection) -> Iterator[Channel]:
    """Open a channel for a `with` block, and close it, also after an error of the channel.

    After an error, the broker closes the channel, and py-amqp opens it again under the same number.
    RabbitMQ allows 2,047 channels on a connection. Without the close, each error that a caller
    ignores would leave one more channel open.
    """
    from amqp.exceptions import ChannelError

    channel = connection.channel()
    try:
        yield channel
    except ChannelError:
        channel.close()
        raise
    channel.close()
