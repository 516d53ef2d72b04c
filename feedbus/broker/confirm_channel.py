"""Publish on a channel in confirm mode, and know of each message whether the broker took it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, Generic, Self, TypeVar

from feedbus.errors import BrokerOutage
from feedbus.wire.amqp import Connection

CONFIRM_TIMEOUT_SECONDS = 30.0
FULL_PAUSE_SECONDS = 0.1

Item = TypeVar("Item")
Letter = tuple[Any, str, str]  # a prepared message, its exchange, its routing key


class ConfirmChannel(Generic[Item]):
    """A channel of its own; it hands out what the broker answers to each item published on it.

    kombu's own confirm_publish takes any confirm for the one that it waits for; here each message
    has its own delivery tag.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        acked: Callable[[Item], None],
        nacked: Callable[[Item], None],
        returned: Callable[[Any, str, str, Exception], None],
    ) -> None:
        """Open a channel of a connection (py-amqp's, or that of a transport) in confirm mode.

        Args:
            connection: whoever waits for answers calls its drain_events().
            acked: called with each item that the broker took, or returned before.
            nacked: called with each item that the broker refused.
            returned: called with the message, exchange, routing key and error of what no queue
                took; its acked comes afterwards.

        """
        self.channel = connection.channel()
        self.waiting: dict[int, Item] = {}
        self._last_tag = 0
        self._acked, self._nacked, self._returned = acked, nacked, returned
        self.channel.confirm_select()
        self.channel.events["basic_ack"].add(self._on_ack)
        self.channel.events["basic_nack"].add(self._on_nack)
        self.channel.events["basic_return"].add(self._on_return)

    def publish(
        self, item: Item, message: Any, exchange: str, key: str, *, mandatory: bool
    ) -> None:
        """Publish a prepared message; item is what its answer is given for."""
        self._last_tag += 1
        self.waiting[self._last_tag] = item
        self.channel.basic_publish(message, exchange, key, mandatory=mandatory)

    def close(self) -> None:
        """Close the channel; the connection stays."""
        if self.channel.is_open:
            self.channel.close()

    def _on_ack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 -- py-amqp's signature
        for item in self._answered(tag, multiple=multiple):
            self._acked(item)

    def _on_nack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 -- py-amqp's signature
        for item in self._answered(tag, multiple=multiple):
            self._nacked(item)

    def _on_return(self, error: Exception, exchange: str, key: str, message: Any) -> None:
        self._returned(message, exchange, key, error)

    def _answered(self, tag: int, *, multiple: bool) -> list[Item]:
        if not multiple:
            return [self.waiting.pop(tag)] if tag in self.waiting else []
        tags = list(takewhile(lambda waiting: waiting <= tag, self.waiting))  # which ascend
        return [self.waiting.pop(answered) for answered in tags]


class PatientPublisher:
    """Publishes what a change of a ring moves or writes down, and waits for queues that are full.

    Example:
        with PatientPublisher(channel.connection) as publisher:
            publisher.publish([(message, "", queue)])

    """

    def __init__(self, connection: Connection) -> None:
        """Open a channel of a connection, as a channel names it."""
        self._connection = connection
        self._full: list[Letter] = []
        self._returned: list[tuple[Any, str]] = []
        self._channel = self._opened()
        self._clock = self._channel.channel.connection.clock

    def _opened(self) -> ConfirmChannel[Letter]:
        return ConfirmChannel(
            self._connection,
            acked=lambda _: None,
            nacked=self._full.append,
            returned=lambda message, _, key, __: self._returned.append((message, key)),
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Close the channel; after an error its connection is of no use, and may not answer."""
        if failed is None:
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
                self._channel.publish(letter, *letter, mandatory=mandatory)
            self._await()
            left = list(self._full)
            self._full.clear()
            if left:
                self._clock.sleep(FULL_PAUSE_SECONDS)
                # RabbitMQ 3.10 nacks for ever on a channel that met a queue between two leaders.
                self._channel.close()
                self._channel = self._opened()
        return list(self._returned)

    def _await(self) -> None:
        deadline = self._clock.monotonic() + CONFIRM_TIMEOUT_SECONDS
        while self._channel.waiting:
            if self._clock.monotonic() > deadline:
                msg = f"broker: {len(self._channel.waiting)} messages unconfirmed"
                raise BrokerOutage(msg)
            try:
                self._connection.drain_events(timeout=1.0)
            except TimeoutError:
                continue
