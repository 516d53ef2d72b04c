"""A delivery as the broker hands it over, and what its body turns out to be."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feedbus.wire.constants import PUBLISHED_AT, RECORD_COUNT


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message in hand, not settled yet; exchange is the name on the broker."""

    tag: int
    body: bytes
    content_type: str | None
    message_id: str
    exchange: str
    routing_key: str
    headers: Mapping[str, Any]
    redelivered: bool
    consumer_tag: str = ""

    @classmethod
    def of(cls, message: Any) -> Delivery:
        """Read what kombu's transports call back with."""
        info, properties = message.delivery_info, message.properties
        body = message.body
        return cls(
            tag=message.delivery_tag,
            body=body if isinstance(body, bytes) else str(body).encode(),
            content_type=properties.get("content_type"),
            message_id=properties.get("message_id") or uuid.uuid4().hex,
            exchange=info.get("exchange", ""),
            routing_key=info.get("routing_key", ""),
            headers=message.headers or {},
            redelivered=bool(info.get("redelivered")),
            consumer_tag=info.get("consumer_tag", ""),
        )

    @property
    def record_count(self) -> int:
        """How many records it says that it carries."""
        count = self.headers.get(RECORD_COUNT, 1)
        return count if isinstance(count, int) and count > 0 else 1

    @property
    def published_at_microseconds(self) -> int | None:
        """When it was published first, where its publisher said so."""
        told = self.headers.get(PUBLISHED_AT)
        return told if isinstance(told, int) else None
