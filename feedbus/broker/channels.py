"""Channels that are used for a few methods and then closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from feedbus.wire.amqp_protocols import Channel, Connection


@contextmanager
def short_channel(connection: Connection) -> Iterator[Channel]:
    """Open a channel for a `with` block, and close it, also after an error of the channel.

    An error closes the channel on the broker. But the client opens the channel again under the same
    number, and a connection has 2,047 numbers on RabbitMQ. So a caller that ignores such errors
    must close the channel as well.
    """
    from amqp.exceptions import ChannelError

    channel = connection.channel()
    try:
        yield channel
    except ChannelError:
        channel.close()
        raise
    channel.close()
