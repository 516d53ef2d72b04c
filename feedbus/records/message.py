"""The metadata of the message that contains a record, for handlers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, ClassVar

from feedbus.wire import Delivery
from feedbus.wire.constants import OF_DELIVERIES, OWN


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Message:
    """The message of a record; a handler gets the message by a parameter with this annotation.

    A test can create it: `mail(order, Message(routing_key="mail.ann"))`.

    Attributes:
        routing_key: the routing key with which the record was published, also after a retry.
        headers: the headers of the publisher, read-only.
        message_id: the id of the record. If its publisher set none, the id is derived from the
            message, and is the same at each delivery.
        attempt: 1 for the first attempt, 2 for the first retry.
        priority: None if the publisher gave none.
        published_at: the time of the first publish, in UTC, also for a retry and a requeued dead
            letter; None if the message does not contain a time.
        redelivered: whether the broker has delivered the message before, for example to a process
            that was killed.
        queue: the name of the queue in topology.toml.
        consumer: the name of the queue or, on a queue with shards, of the shard.
        content_type: the content type of the body; None if the publisher gave none.
        type: AMQP's property of that name, None if the publisher gave none.
        correlation_id: AMQP's property of that name, None if the publisher gave none.

    """

    __feedbus_parameter__: ClassVar[str] = "message"

    routing_key: str = ""
    headers: Mapping[str, Any] = field(default_factory=_empty)
    message_id: str = ""
    attempt: int = 1
    priority: int | None = None
    published_at: datetime | None = None
    redelivered: bool = False
    queue: str = ""
    consumer: str = ""
    content_type: str | None = None
    type: str | None = None
    correlation_id: str | None = None

    @classmethod
    def of(
        cls, delivery: Delivery, *, routing_key: str, message_id: str, queue: str, consumer: str
    ) -> Message:
        """Return the message of one record of a delivery.

        feedbus calls this when a handler, a middleware or the dead handler reads the message.

        Args:
            delivery: the delivery.
            routing_key: the routing key of the record.
            message_id: the id of the record.
            queue: the name of the queue in topology.toml.
            consumer: the name of the consumer.

        """
        properties = delivery.properties
        return cls(
            routing_key,
            MappingProxyType(
                {
                    name: value
                    for name, value in delivery.headers.items()
                    if not name.startswith(OWN) and name not in OF_DELIVERIES
                }
            ),
            message_id,
            delivery.attempts + 1,
            properties.get("priority"),
            _moment(delivery),
            delivery.redelivered,
            queue,
            consumer,
            delivery.content_type,
            _text(properties.get("type")),
            _text(properties.get("correlation_id")),
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _moment(delivery: Delivery) -> datetime | None:
    """Return the time of publishing: from feedbus's header, otherwise from AMQP's timestamp."""
    microseconds = delivery.published_at_microseconds
    seconds = delivery.properties.get("timestamp") if microseconds is None else None
    try:
        if microseconds is not None:
            return datetime.fromtimestamp(microseconds / 1_000_000, UTC)
        return datetime.fromtimestamp(seconds, UTC) if type(seconds) is int else None
    except (ValueError, OverflowError, OSError):  # a year that datetime does not have
        return None
