"""Publish messages and know of each whether the broker took it: confirms, awaited once a window."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kombu.connection import Connection

from feedbus.broker.confirm_channel import CONFIRM_TIMEOUT_SECONDS, ConfirmChannel
from feedbus.bus.blockage import Blockage
from feedbus.errors import BrokerOutage
from feedbus.metrics import Outcome
from feedbus.wire import Outgoing
from feedbus.wire.amqp import RawConnection
from feedbus.wire.sealing import fitted

WINDOW = 1000
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

    def __init__(self, connection: Connection, blockage: Blockage | None = None) -> None:
        """Put a channel of the connection into confirm mode; blockage learns of alarms."""
        # Kombu opens a lost connection again whenever it is asked for it: this one, or none.
        self._connection: RawConnection = connection.connection
        self._clock = self._connection.clock
        self._blockage = blockage or Blockage(self._clock)
        self._blockage.watch(self._connection)
        self._confirms: ConfirmChannel[Outgoing] = ConfirmChannel(
            self._connection,
            acked=self._on_ack,
            nacked=self._on_nack,
            returned=self._on_return,
        )
        self._frame_bytes = getattr(self._connection, "frame_max", None)
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
        self._confirmed_by = self._clock.monotonic() + timeout_seconds
        self._unblocked_by = self._clock.monotonic() + blocked_seconds
        for message in messages:
            self._put(message)
            # What is written now would only fill buffers that nobody reads.
            while self._blockage.active:
                self._drain()
        while self._confirms.waiting:
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
        self._confirms.close()

    def refuse_waiting(self, reason: str) -> list[Refusal]:
        """Return those without an answer as refused: the broker closed the channel over one."""
        waiting = self._confirms.waiting.values()
        refusals = [Refusal(message, "nacked", reason, final=True) for message in waiting]
        return self._refusals + refusals

    def _put(self, message: Outgoing) -> None:
        confirms = self._confirms
        prepared = fitted(message, self._frame_bytes).prepared(confirms.channel)
        confirms.publish(message, prepared, message.exchange, message.routing_key, mandatory=True)

    def _drain(self) -> None:
        blocked = self._blockage.active
        rest = (self._unblocked_by if blocked else self._confirmed_by) - self._clock.monotonic()
        if rest <= 0:
            why = "; it blocks publishers" if blocked else ""
            msg = f"broker: {len(self._confirms.waiting)} messages unconfirmed in time{why}"
            raise BrokerOutage(msg)
        with self._blockage.counting(), contextlib.suppress(TimeoutError):
            self._connection.drain_events(timeout=min(rest, 1.0))
        if blocked:
            self._confirmed_by = self._clock.monotonic() + self._timeout_seconds

    def _on_ack(self, message: Outgoing) -> None:
        reasons = self._returned.get(message.message_id)
        if reasons:
            self._refusals.append(Refusal(message, "returned", reasons.popleft()))

    def _on_nack(self, message: Outgoing) -> None:
        self._refusals.append(Refusal(message, "nacked", NACKED))

    def _on_return(self, message: Any, exchange: str, routing_key: str, error: Exception) -> None:
        reason = f"no queue for key '{routing_key}' on {exchange} ({error})"
        message_id = message.properties.get("message_id") or ""
        self._returned.setdefault(message_id, deque()).append(reason)
