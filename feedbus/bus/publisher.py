"""Publish messages and know of each whether the broker took it: confirms, awaited once a window."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from feedbus.bus.blockage import Blockage
from feedbus.errors import BrokerOutage
from feedbus.metrics import Outcome
from feedbus.wire import Outgoing
from feedbus.wire.sealing import fitted

WINDOW = 1000
CONFIRM_TIMEOUT_SECONDS = 30.0
NACKED = "refused by the broker (nack): its queue is full or cannot write"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that the broker did not take: "returned" or "nacked", and why."""

    message: Outgoing
    outcome: Outcome
    reason: str
    final: bool = False  # the channel was closed over it, or over one published with it


class Publisher:
    """Publishes on one channel of a connection that does nothing else."""

    def __init__(self, connection: Any, blockage: Blockage | None = None) -> None:
        """Put a channel of the connection into confirm mode; blockage learns of alarms."""
        # Kombu opens a lost connection again whenever it is asked for it: this one, or none.
        self._connection = connection.connection
        self._blockage = blockage or Blockage()
        self._blockage.watch(self._connection)
        self._channel = self._connection.channel()
        self._frame_bytes = getattr(self._connection, "frame_max", None)
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_nack)
        self._channel.events["basic_return"].add(self._on_return)
        self._last_tag = 0
        self._waiting: dict[int, Outgoing] = {}
        self._returned: dict[str, deque[str]] = {}
        self._refusals: list[Refusal] = []
        self._timeout_seconds = CONFIRM_TIMEOUT_SECONDS
        self._confirmed_by = self._unblocked_by = 0.0

    def send(
        self,
        messages: Sequence[Outgoing],
        timeout_seconds: float = CONFIRM_TIMEOUT_SECONDS,
        blocked_seconds: float = CONFIRM_TIMEOUT_SECONDS,
    ) -> list[Refusal]:
        """Publish in order, persistent and mandatory; return what the broker did not take.

        Args:
            messages: a window of them, in the order in which they are to arrive.
            timeout_seconds: for the confirms of all of them.
            blocked_seconds: for an alarm of the broker, after which the confirms have their time.

        Raises:
            BrokerOutage: they were not confirmed in time; the connection is of no use any more.

        """
        self._refusals = []
        self._returned.clear()
        self._timeout_seconds = timeout_seconds
        self._confirmed_by = time.monotonic() + timeout_seconds
        self._unblocked_by = time.monotonic() + blocked_seconds
        for message in messages:
            self._put(message)
            # What is written now would only fill buffers that nobody reads.
            while self._blockage.active:
                self._drain()
        while self._waiting:
            self._drain()
        self._blockage.over()
        return self._refusals

    def take_arrived(self) -> None:
        """Notice what has come since the last send; raise what py-amqp does for a lost connection.

        What is written to a connection that the broker has closed is not refused at once.
        """
        self._connection.take_arrived()

    def close(self) -> None:
        """Close the channel; the connection stays."""
        self._channel.close()

    def refuse_waiting(self, reason: str) -> list[Refusal]:
        """Return those without an answer as refused: the broker closed the channel over one."""
        waiting, self._waiting = self._waiting, {}
        refusals = [Refusal(message, "nacked", reason, final=True) for message in waiting.values()]
        return self._refusals + refusals

    def _put(self, message: Outgoing) -> None:
        prepared = fitted(message, self._frame_bytes).prepared(self._channel)
        self._last_tag += 1
        self._waiting[self._last_tag] = message
        self._channel.basic_publish(prepared, message.exchange, message.routing_key, mandatory=True)

    def _drain(self) -> None:
        blocked = self._blockage.active
        rest = (self._unblocked_by if blocked else self._confirmed_by) - time.monotonic()
        if rest <= 0:
            why = "; it blocks publishers" if blocked else ""
            msg = f"broker: {len(self._waiting)} messages unconfirmed in time{why}"
            raise BrokerOutage(msg)
        with self._blockage.counting(), contextlib.suppress(TimeoutError):
            self._connection.drain_events(timeout=min(rest, 1.0))
        if blocked:
            self._confirmed_by = time.monotonic() + self._timeout_seconds

    def _on_ack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 -- py-amqp's signature
        for message in self._settled(tag, multiple=multiple):
            reasons = self._returned.get(message.message_id)
            if reasons:
                self._refusals.append(Refusal(message, "returned", reasons.popleft()))

    def _on_nack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 -- py-amqp's signature
        for message in self._settled(tag, multiple=multiple):
            self._refusals.append(Refusal(message, "nacked", NACKED))

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        reason = f"no queue for key '{routing_key}' on {exchange} ({error})"
        message_id = message.properties.get("message_id") or ""
        self._returned.setdefault(message_id, deque()).append(reason)

    def _settled(self, tag: int, *, multiple: bool) -> list[Outgoing]:
        if not multiple:
            return [self._waiting.pop(tag)] if tag in self._waiting else []
        tags = list(takewhile(lambda waiting: waiting <= tag, self._waiting))  # which ascend
        return [self._waiting.pop(settled) for settled in tags]
