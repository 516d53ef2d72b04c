"""The base class of channels; after a channel error of AMQP, a channel opens itself again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from amqp.exceptions import ChannelError, FrameSyntaxError, RecoverableConnectionError
from amqp.exceptions import ConnectionError as BrokenConnection
from kombu.transport.base import StdChannel

from feedbus.transports.sqlite import delivery_owners, queued_messages
from feedbus.transports.sqlite.claimed_messages import ClaimedMessages
from feedbus.transports.sqlite.confirms import Outcome, PublishedMessage
from feedbus.transports.sqlite.consumers import Consumer, ConsumerGroup
from feedbus.transports.sqlite.registered_connection import RegisteredConnection
from feedbus.transports.sqlite.transactions import Transaction


class Unsettled(NamedTuple):
    """A delivery that a channel's client has not settled yet.

    Attributes:
        message: the id of the message in the broker's tables.
        consumer: the consumer that got the message; None for a message of basic_get().
    """

    message: int
    consumer: Consumer | None


class BaseChannel(StdChannel):
    """The state of a channel: its consumers, unsettled deliveries and buffered messages.

    After a channel error of AMQP, such as NOT_FOUND, the channel opens itself again, without
    consumers. After a connection error, the connection is closed.

    Args:
        connection: the connection of the channel.
        channel_id: the number of the channel in its connection.
        claimed: the messages that the connection has claimed: taken from the queues for its
            consumers, but not delivered yet.
        confirm_publish: whether each publish returns only when its message is stored durably.
        on_close: called with `channel_id` when the channel is closed.

    Attributes:
        no_ack_consumers: the tags of the consumers that do not acknowledge.
    """

    no_ack_consumers: Any

    def __init__(
        self,
        connection: RegisteredConnection,
        channel_id: int,
        claimed: ClaimedMessages,
        *,
        confirm_publish: bool,
        on_close: Callable[[int], object],
    ) -> None:
        """Create and open the channel.

        Args:
            connection: the connection of the channel.
            channel_id: the number of the channel on its connection.
            claimed: claims the messages for all consumers of the connection.
            confirm_publish: whether each publish waits until its message is stored durably.
            on_close: called with the channel's number when the channel has closed.

        """
        self.connection: RegisteredConnection | None = connection
        self.channel_id = channel_id
        self._claimed = claimed
        self._confirm_publish = confirm_publish
        self._on_close = on_close
        self.is_open = True
        self.events: dict[str, set[Callable[..., None]]] = defaultdict(set)
        self._start()

    def _start(self) -> None:
        self._group = ConsumerGroup()
        self.no_ack_consumers = set()
        self._prefetch = 0
        self._unsettled: dict[int, Unsettled] = {}
        self._last_tag = 0
        self._confirming = False
        self._published = 0
        self._outgoing: list[PublishedMessage] = []
        self._outgoing_bytes = 0
        self._unreported: list[Outcome] = []

    @property
    def _link(self) -> RegisteredConnection:
        if self.connection is None or not self.is_open:
            msg = "the channel is closed; open another channel"
            raise RecoverableConnectionError(msg)
        self.connection.check_open()
        return self.connection

    @contextmanager
    def _method(self) -> Iterator[Transaction]:
        # Messages that this channel has published before this method must be stored first.
        # RabbitMQ, too, gets them first, because a channel sends everything over one TCP stream.
        link = self._link
        self.flush()
        with self._refusals(), link.write() as tx:
            yield tx

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except ChannelError:
            self._reopen()
            raise
        except FrameSyntaxError:  # the error was found before anything was sent to the broker
            raise
        except BrokenConnection:
            if self.connection is not None:
                self.connection.close()
            raise

    def _reopen(self) -> None:
        self._outgoing.clear()
        self._end_consumers()
        self._start()

    def _end_consumers(self) -> None:
        link = self._link
        if link.owner is None or not (self._group.consumers or self._unsettled):
            return
        with link.write() as tx:
            for consumer in list(self._group.consumers.values()):
                unseen = self._claimed.forget(consumer)
                queued_messages.put_back(tx, link.owner, unseen, delivered=False)
                delivery_owners.end_consumer(tx, consumer.id)
            queued_messages.put_back(
                tx, link.owner, [held.message for held in self._unsettled.values()]
            )
        self._unsettled.clear()

    def close(self) -> None:
        """Close the channel: its consumers end, and unsettled deliveries return to their queues.

        A second call does nothing.
        """
        link = self.connection
        if link is None or not self.is_open:
            return
        if link.connected:
            self.flush()
            self._end_consumers()
        self.is_open = False
        self._on_close(self.channel_id)
        self.connection = None

    def flush(self) -> None:
        """Store the published messages that are buffered; PublishingChannel implements it."""
        raise NotImplementedError
