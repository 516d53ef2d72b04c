"""The interfaces of AMQP connections and channels that feedbus uses with every broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Protocol

from feedbus.clock import Clock

Arguments = Mapping[str, Any] | None


class Declared(Protocol):
    """The broker's answer to the declaration of a queue."""

    @property
    def message_count(self) -> int:
        """The number of ready messages."""

    @property
    def consumer_count(self) -> int:
        """The number of consumers."""


class Channel(Protocol):
    """A channel; its methods have the names and arguments of the AMQP methods."""

    @property
    def connection(self) -> RawConnection:
        """The connection of the channel."""

    @property
    def is_open(self) -> bool:
        """Whether the channel is open."""

    auto_decode: bool
    events: Mapping[str, Any]

    def close(self) -> object:
        """Close the channel; unacknowledged messages return to their queues."""

    def exchange_declare(  # noqa: PLR0913, PLR0917 -- AMQP's arguments
        self,
        exchange: str,
        type: str,  # noqa: A002 -- AMQP's name
        passive: bool = False,  # noqa: FBT001, FBT002 -- as above
        durable: bool = False,  # noqa: FBT001, FBT002 -- as above
        auto_delete: bool = True,  # noqa: FBT001, FBT002 -- as above
        nowait: bool = False,  # noqa: FBT001, FBT002 -- as above
        arguments: Arguments = None,
    ) -> object:
        """Declare an exchange."""

    def exchange_delete(self, exchange: str) -> object:
        """Delete an exchange; a missing exchange is not an error."""

    def exchange_bind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,  # noqa: FBT001, FBT002 -- AMQP's arguments
        arguments: Arguments = None,
    ) -> object:
        """Bind an exchange to another exchange."""

    def exchange_unbind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,  # noqa: FBT001, FBT002 -- AMQP's arguments
        arguments: Arguments = None,
    ) -> object:
        """Remove a binding between exchanges."""

    def queue_declare(  # noqa: PLR0913, PLR0917 -- AMQP's arguments
        self,
        queue: str = "",
        passive: bool = False,  # noqa: FBT001, FBT002 -- as above
        durable: bool = False,  # noqa: FBT001, FBT002 -- as above
        exclusive: bool = False,  # noqa: FBT001, FBT002 -- as above
        auto_delete: bool = True,  # noqa: FBT001, FBT002 -- as above
        nowait: bool = False,  # noqa: FBT001, FBT002 -- as above
        arguments: Arguments = None,
    ) -> Declared:
        """Declare a queue."""

    def queue_bind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        nowait: bool = False,  # noqa: FBT001, FBT002 -- AMQP's arguments
        arguments: Arguments = None,
    ) -> object:
        """Bind a queue to an exchange."""

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        nowait: bool = False,  # noqa: FBT001, FBT002 -- AMQP's arguments
        arguments: Arguments = None,
    ) -> object:
        """Remove a binding of a queue."""

    def queue_purge(self, queue: str = "") -> Any:
        """Delete the ready messages of a queue; return their number."""

    def queue_delete(self, queue: str = "") -> Any:
        """Delete a queue with its messages; return the number of messages."""

    def basic_qos(self, prefetch_size: int, prefetch_count: int, a_global: bool) -> object:  # noqa: FBT001 -- as above
        """Limit the number of unacknowledged deliveries (the prefetch)."""

    def basic_consume(
        self,
        queue: str = "",
        consumer_tag: str = "",
        *,
        exclusive: bool = False,
        callback: Callable[[Any], None] | None = None,
        on_cancel: Callable[[str], None] | None = None,
    ) -> Any:
        """Subscribe to a queue; return the consumer tag.

        The callback gets each delivered message. If the broker ends the subscription, on_cancel is
        called with the consumer tag.
        """

    def basic_cancel(self, consumer_tag: str) -> object:
        """End a subscription."""

    def basic_get(self, queue: str = "") -> Any:
        """Return the next ready message of a queue, or None if there is none."""

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> object:  # noqa: FBT001, FBT002 -- as above
        """Acknowledge a delivery; with multiple, also all earlier deliveries of the channel."""

    def basic_reject(self, delivery_tag: int, requeue: bool) -> object:  # noqa: FBT001 -- as above
        """Reject a delivery; with requeue, the message returns to its queue."""

    def basic_recover(self, requeue: bool = False) -> object:  # noqa: FBT001, FBT002 -- as above
        """Return all unacknowledged messages to their queues."""

    def basic_publish(
        self,
        msg: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,  # noqa: FBT001, FBT002 -- as above
    ) -> object:
        """Publish a message."""

    def confirm_select(self) -> object:
        """Make the broker confirm the messages that are published on this channel."""

    def prepare_message(  # noqa: PLR0913, PLR0917 -- Kombu's arguments
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Mapping[str, Any] | None = None,
        properties: MutableMapping[str, Any] | None = None,
    ) -> Any:
        """Return a message that can be published."""


class Connection(Protocol):
    """A connection: Kombu's connection, or the raw connection in it."""

    @property
    def connection_errors(self) -> tuple[type[BaseException], ...]:
        """The exception classes that mean that a connection is lost or refused."""

    @property
    def recoverable_connection_errors(self) -> tuple[type[BaseException], ...]:
        """The connection errors after which a new connection may succeed."""

    def channel(self) -> Channel:
        """Open a channel."""

    def drain_events(self, *, timeout: float | None = None) -> object:
        """Process the next event, such as a delivery, a confirm or the answer to a method.

        Args:
            timeout: seconds to wait for the event; None to wait without a limit.

        Raises:
            TimeoutError: no event has arrived in time.

        """


class RawConnection(Connection, Protocol):
    """The connection within Kombu's connection. It is not opened again when it is lost.

    Attributes:
        clock: gives the time, and waits, for all code that uses the broker.
        on_blocked: called with the broker's reason when the broker blocks publishers.
        on_unblocked: called when the broker accepts messages again.
        is_blocked: whether the broker blocks publishers now.

    """

    clock: Clock
    on_blocked: Callable[[str], None] | None
    on_unblocked: Callable[[], None] | None
    is_blocked: bool

    def take_arrived(self) -> None:
        """Process the data that has arrived, without waiting; raise if the connection is lost."""

    def wake_on(self, descriptor: int) -> None:
        """Make drain_events() raise TimeoutError as soon as a descriptor can be read.

        The runner uses it for a descriptor that can be read when a handler call has ended.
        """
