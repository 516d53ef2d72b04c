"""Publish messages and know of each whether the broker took it: confirms, awaited once a window."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from feedbus.errors import Outage
from feedbus.metrics import Outcome

WINDOW = 500
CONFIRM_TIMEOUT_SECONDS = 30.0
PUBLISHED_AT = "feedbus-published-at"
RECORD_COUNT = "feedbus-records"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message on its way to the broker; exchange is the name on the broker.

    What metrics count it as is the exchange's name in the topology, or what else it is for.
    """

    exchange: str
    routing_key: str
    body: bytes
    content_type: str
    message_id: str
    headers: Mapping[str, Any] = field(default_factory=dict)
    counted_as: str = "other"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that the broker did not take: "returned" or "nacked", and why."""

    message: Outgoing
    outcome: Outcome
    reason: str


class Publisher:
    """Publishes on one channel of a connection that does nothing else."""

    def __init__(self, connection: Any) -> None:
        """Put a channel of the connection into confirm mode."""
        self._connection = connection
        self._channel = connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_nack)
        self._channel.events["basic_return"].add(self._on_return)
        self._last_tag = 0
        self._waiting: dict[int, Outgoing] = {}
        self._returned: dict[str, deque[str]] = {}
        self._refusals: list[Refusal] = []

    @property
    def channel(self) -> Any:
        """The channel, for declarations that a publish needs first."""
        return self._channel

    def send(
        self, messages: Sequence[Outgoing], timeout_seconds: float = CONFIRM_TIMEOUT_SECONDS
    ) -> list[Refusal]:
        """Publish in order, persistent and mandatory; return what the broker did not take.

        Args:
            messages: a window of them, in the order in which they are to arrive.
            timeout_seconds: for the confirms of all of them.

        Raises:
            Outage: they were not confirmed in time; the connection is of no use any more.

        """
        self._refusals = []
        self._returned.clear()
        for message in messages:
            self._put(message)
        self._await(timeout_seconds)
        return self._refusals

    def _put(self, message: Outgoing) -> None:
        prepared = self._channel.prepare_message(
            message.body,
            content_type=message.content_type,
            content_encoding="utf-8",
            headers={PUBLISHED_AT: time.time_ns() // 1000, **message.headers},
            properties={"delivery_mode": 2, "message_id": message.message_id},
        )
        self._last_tag += 1
        self._waiting[self._last_tag] = message
        self._channel.basic_publish(prepared, message.exchange, message.routing_key, mandatory=True)

    def _await(self, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while self._waiting:
            rest = deadline - time.monotonic()
            if rest <= 0:
                msg = f"broker: {len(self._waiting)} messages unconfirmed in {timeout_seconds} s"
                raise Outage(msg)
            try:
                self._connection.drain_events(timeout=min(rest, 1.0))
            except TimeoutError:
                continue

    def _on_ack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 -- py-amqp's signature
        for message in self._settled(tag, multiple=multiple):
            reasons = self._returned.get(message.message_id)
            if reasons:
                self._refusals.append(Refusal(message, "returned", reasons.popleft()))

    def _on_nack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 -- py-amqp's signature
        for message in self._settled(tag, multiple=multiple):
            self._refusals.append(Refusal(message, "nacked", "refused by the broker (nack)"))

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        reason = f"no queue for key '{routing_key}' on {exchange} ({error})"
        self._returned.setdefault(message.properties["message_id"], deque()).append(reason)

    def _settled(self, tag: int, *, multiple: bool) -> list[Outgoing]:
        if not multiple:
            return [self._waiting.pop(tag)] if tag in self._waiting else []
        tags = [waiting for waiting in self._waiting if waiting <= tag]
        return [self._waiting.pop(settled) for settled in tags]
