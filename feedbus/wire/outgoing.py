"""A message on its way to the broker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message on its way to the broker.

    Attributes:
        exchange: the name on the broker.
        routing_key: of the message.
        body: the bytes.
        content_type: of the body.
        message_id: a text of at most 255 bytes.
        headers: the framework's own and, on a message that goes on, the publisher's.
        counted_as: the exchange's name in the topology, or what else the message is for; metrics
            count it so.
        properties: AMQP's other properties by their names in py-amqp, such as priority and
            correlation_id.

    """

    exchange: str
    routing_key: str
    body: bytes
    content_type: str
    message_id: str
    headers: Mapping[str, Any] = field(default_factory=dict)
    counted_as: str = "other"
    properties: Mapping[str, Any] = field(default_factory=dict)
