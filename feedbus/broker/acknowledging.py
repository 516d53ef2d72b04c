"""Acknowledge several deliveries of a channel."""

from __future__ import annotations

from collections.abc import Sequence

from feedbus.wire.amqp_protocols import Channel


def acknowledge(channel: Channel, delivery_tags: Sequence[int]) -> None:
    """Acknowledge only these deliveries, and no earlier delivery; a runner calls it after handling.

    The embedded broker acknowledges all of them in one transaction. RabbitMQ gets one frame for
    each delivery.

    Args:
        channel: the channel of the deliveries.
        delivery_tags: the tags of the deliveries.
    """
    ack_together = getattr(channel, "ack_together", None)
    if ack_together is not None:
        ack_together(delivery_tags)
        return
    for delivery_tag in delivery_tags:
        channel.basic_ack(delivery_tag)
