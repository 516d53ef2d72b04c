"""A message on its way to the broker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from feedbus.wire.amqp import Channel
from feedbus.wire.constants import PUBLISHED_AT

PERSISTENT = 2


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message on its way to the broker.

    Attributes:
        exchange: the name on the broker.
        routing_key: of the message.
        body: the bytes.
        content_type: of the body; None for none.
        message_id: a text of at most 255 bytes; "" for none.
        headers: the framework's own and, on a message that goes on, the publisher's.
        counted_as: the exchange's name in the topology, or what else the message is for; metrics
            count it so.
        properties: AMQP's other properties by their names in py-amqp, such as priority and
            correlation_id.
        content_encoding: of the body; None for none.
        stamped: whether it says when it was published, if its headers do not.
        records: how many it carries, as metrics count it.

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
    stamped: bool = True
    records: int = 1

    def prepared(self, channel: Channel) -> Any:
        """Return the message as a channel's basic_publish takes it."""
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
            self._all_headers(),
            properties,
        )

    def all_properties(self) -> dict[str, Any]:
        """Return every property of the message, its headers among them."""
        return {
            **self.properties,
            "content_type": self.content_type,
            "content_encoding": self.content_encoding,
            "application_headers": self._all_headers(),
            "delivery_mode": PERSISTENT,
            "message_id": self.message_id or None,
        }

    def _all_headers(self) -> Mapping[str, Any]:
        if not self.stamped:
            return self.headers
        return {PUBLISHED_AT: time.time_ns() // 1000, **self.headers}
