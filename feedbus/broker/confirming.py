"""Publish what a change of a ring moves or writes down: confirmed, before anything else is done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from feedbus.errors import BrokerOutage

CONFIRM_TIMEOUT_SECONDS = 30.0
FULL_PAUSE_SECONDS = 0.1

Letter = tuple[Any, str, str]  # a prepared message, its exchange, its routing key


class Confirming:
    """Publishes on a channel of its own and waits until the broker has what it was given."""

    def __init__(self, connection: Any) -> None:
        """Open a channel of a connection, as a channel names it, in confirm mode."""
        self._connection = connection
        self._waiting: dict[int, Letter] = {}
        self._full: list[Letter] = []
        self._returned: list[tuple[Any, str]] = []
        self._open()

    def _open(self) -> None:
        self._channel = self._connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_nack)
        self._channel.events["basic_return"].add(self._on_return)
        self._last_tag = 0

    def close(self) -> None:
        """Close the channel."""
        if self._channel.is_open:
            self._channel.close()

    def publish(
        self, letters: Sequence[Letter], *, mandatory: bool = False
    ) -> list[tuple[Any, str]]:
        """Publish letters in order; return (message, routing key) of those that came back.

        A queue that is full and says so is waited for.

        Raises:
            BrokerOutage: they were not confirmed in time.

        """
        self._returned.clear()
        left = list(letters)
        while left:
            for letter in left:
                message, exchange, key = letter
                self._last_tag += 1
                self._waiting[self._last_tag] = letter
                self._channel.basic_publish(message, exchange, key, mandatory=mandatory)
            self._await()
            left, self._full = self._full, []
            if left:
                time.sleep(FULL_PAUSE_SECONDS)
                # RabbitMQ 3.10 nacks for ever on a channel that met a queue between two leaders.
                self._channel.close()
                self._open()
        return list(self._returned)

    def _await(self) -> None:
        deadline = time.monotonic() + CONFIRM_TIMEOUT_SECONDS
        while self._waiting:
            if time.monotonic() > deadline:
                msg = f"broker: {len(self._waiting)} messages unconfirmed"
                raise BrokerOutage(msg)
            try:
                self._connection.drain_events(timeout=1.0)
            except TimeoutError:
                continue

    def _on_ack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 -- py-amqp's signature
        self._settled(tag, multiple=multiple)

    def _on_nack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 -- py-amqp's signature
        self._full += self._settled(tag, multiple=multiple)

    def _on_return(self, _error: Exception, _exchange: str, key: str, message: Any) -> None:
        self._returned.append((message, key))

    def _settled(self, tag: int, *, multiple: bool) -> list[Letter]:
        tags = [each for each in self._waiting if each <= tag] if multiple else [tag]
        return [self._waiting.pop(each) for each in tags if each in self._waiting]
