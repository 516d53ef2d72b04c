"""A message that is ready to be sent to the broker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from feedbus.wire.amqp_protocols import Channel
from feedbus.wire.constants import PUBLISHED_AT

PERSISTENT = 2
LARGEST_MICROSECONDS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that is ready to be sent to the broker.

    Attributes:
        exchange: the name of the exchange on the broker.
        routing_key: the routing key of the message.
        body: the bytes.
        content_type: the content type of the body; None if there is none.
        message_id: a text of at most 255 bytes; "" for none.
        headers: the headers of feedbus and of the publisher.
        counted_as: the value of a label in the metrics: the name of the exchange in topology.toml,
            or the purpose of the message, such as "retry".
        properties: maps the names of AMQP's other properties, as py-amqp writes them, to their
            values, such as priority and correlation_id.
        content_encoding: the encoding of the body; None if there is none.
        stamp: the name of the header that gets the time of sending, unless the message has this
            header already; None for no such header.
        records: the number of records in the message, for the metrics.

    """

    exchange: str
    routing_key: str
    body: bytes
    content_type: str | None
    message_id: str
    headers: Mapping[str, Any] = field(default_factory=dict)
    counted_as: str = "other"
    properties: Mapping[str, Any] = field(default_factory=dict)
    content_encoding: str | None = "utf-8"
    stamp: str | None = PUBLISHED_AT
    records: int = 1

    def as_amqp_message(self, channel: Channel) -> Any:
        """Return the argument of basic_publish(), with the time of sending as a header.

        Args:
            channel: the channel on which the message is published.
        """
        properties = {
            **self.properties,
            "delivery_mode": PERSISTENT,
            "message_id": self.message_id or None,
        }
        return channel.prepare_message(
            self.body,
            properties.pop("priority", None),
            self.content_type,
            self.content_encoding,
            self._all_headers(channel.connection.clock.wall_nanoseconds() // 1000),
            properties,
        )

    def all_properties(self) -> dict[str, Any]:
        """Return all properties of the message, to compute their size before the message is sent.

        The time of sending is not known yet, so the largest possible time takes its place.
        """
        return {
            **self.properties,
            "content_type": self.content_type,
            "content_encoding": self.content_encoding,
            "application_headers": self._all_headers(LARGEST_MICROSECONDS),
            "delivery_mode": PERSISTENT,
            "message_id": self.message_id or None,
        }

    def _all_headers(self, microseconds: int) -> Mapping[str, Any]:
        if self.stamp is None:
            return self.headers
        return {self.stamp: microseconds, **self.headers}


@dataclass(frozen=True, slots=True)
class Moved(Outgoing):
    """A message that was taken from a queue and is published again to another exchange.

    The new message is persistent, and has no user id. Otherwise, its properties, headers and body
    are those of the taken message.

    Attributes:
        delivered_message: the message as the broker delivered it.
    """

    delivered_message: Any = None

    @classmethod
    def of(cls, delivered_message: Any, exchange: str, routing_key: str) -> Self:
        """Return the message that publishes a taken message to another exchange.

        Args:
            delivered_message: the message as the broker delivered it. This method removes its
                user id, and makes it persistent.
            exchange: the name of the exchange on the broker.
            routing_key: the routing key of the new message.

        """
        # A message with the property `user_id` was published by this user. RabbitMQ refuses the
        # message if another user publishes it again.
        delivered_message.properties.pop("user_id", None)
        delivered_message.properties["delivery_mode"] = PERSISTENT
        message_id = delivered_message.properties.get("message_id") or ""
        return cls(
            exchange,
            routing_key,
            delivered_message.body,
            None,
            message_id,
            stamp=None,
            delivered_message=delivered_message,
        )

    def as_amqp_message(self, channel: Channel) -> Any:
        """Return the delivered message, from which of() has removed the user id.

        The channel is ignored.
        """
        del channel
        return self.delivered_message
