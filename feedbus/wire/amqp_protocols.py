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
    """A channel; its methods have the names and arguments of the AMQP methods.

    The channels of all kinds of brokers have these methods. They raise the exceptions of py-amqp.

    Attributes:
        auto_decode: whether the body of a delivered message becomes text if its properties declare
            an encoding; feedbus sets it to False.
        events: sets of callbacks by event, such as "basic_ack", "basic_nack" and "basic_return".
    """

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
        """Declare an exchange; if an equal one exists, nothing changes.

        Args:
            exchange: the name.
            type: the exchange type, such as "topic".
            passive: True to check only whether the exchange exists.
            durable: whether the exchange survives a restart of the broker.
            auto_delete: whether the broker deletes the exchange with its last binding.
            nowait: True to send the method without waiting for the answer.
            arguments: the x-arguments; None for none.

        Raises:
            NotFound: passive is set, and there is no such exchange.
            PreconditionFailed: the exchange exists with other properties.
        """

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
        """Bind an exchange to another exchange.

        Args:
            destination: the exchange that receives messages.
            source: the exchange that routes messages.
            routing_key: the binding key; on an exchange of type x-consistent-hash, the weight.
            nowait: True to send the method without waiting for the answer.
            arguments: the arguments of the binding, such as x-match; None for none.

        Raises:
            NotFound: one of the exchanges does not exist.
        """

    def exchange_unbind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,  # noqa: FBT001, FBT002 -- AMQP's arguments
        arguments: Arguments = None,
    ) -> object:
        """Remove a binding between exchanges; a missing binding is not an error.

        Args:
            destination: the exchange that receives messages.
            source: the exchange that routes messages.
            routing_key: the binding key.
            nowait: True to send the method without waiting for the answer.
            arguments: the arguments with which the binding was made; None for none.
        """

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
        """Declare a queue; return its numbers of messages and consumers.

        Args:
            queue: the name; "" for a random one.
            passive: True to check only whether the queue exists.
            durable: whether the queue survives a restart of the broker.
            exclusive: whether only this connection may use the queue. The broker deletes such a
                queue when the connection ends.
            auto_delete: whether the broker deletes the queue with its last consumer.
            nowait: True to send the method without waiting for the answer.
            arguments: the x-arguments, such as x-message-ttl; None for none.

        Raises:
            NotFound: passive is set, and there is no such queue.
            PreconditionFailed: the queue exists with other properties.
            ResourceLocked: the queue is exclusive to another connection.
        """

    def queue_bind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        nowait: bool = False,  # noqa: FBT001, FBT002 -- AMQP's arguments
        arguments: Arguments = None,
    ) -> object:
        """Bind a queue to an exchange.

        Args:
            queue: the queue that receives messages.
            exchange: the exchange that routes messages.
            routing_key: the binding key; on an exchange of type x-consistent-hash, the weight.
            nowait: True to send the method without waiting for the answer.
            arguments: the arguments of the binding, such as x-match; None for none.

        Raises:
            NotFound: the queue or the exchange does not exist.
        """

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        nowait: bool = False,  # noqa: FBT001, FBT002 -- AMQP's arguments
        arguments: Arguments = None,
    ) -> object:
        """Remove a binding of a queue to an exchange; a missing binding is not an error.

        Args:
            queue: the queue.
            exchange: the exchange.
            routing_key: the binding key.
            nowait: True to send the method without waiting for the answer.
            arguments: the arguments with which the binding was made; None for none.
        """

    def queue_purge(self, queue: str = "") -> Any:
        """Delete the ready messages of a queue; return their number."""

    def queue_delete(self, queue: str = "") -> Any:
        """Delete a queue with its messages; return the number of messages.

        A missing queue is not an error.
        """

    def basic_qos(self, prefetch_size: int, prefetch_count: int, a_global: bool) -> object:  # noqa: FBT001 -- as above
        """Limit the number of unacknowledged deliveries (the prefetch).

        Args:
            prefetch_size: must be 0.
            prefetch_count: the largest number of unacknowledged deliveries; 0 for no limit.
            a_global: True for one limit of the channel; False for a limit of each later consumer.
        """

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

        Args:
            queue: the name of the queue.
            consumer_tag: the tag of the subscription; "" for a random one.
            exclusive: whether the queue may have no other consumer.
            callback: called with each delivered message.
            on_cancel: called with the consumer tag if the broker ends the subscription.

        Raises:
            NotFound: there is no such queue.
            AccessRefused: another consumer uses the queue exclusively.
        """

    def basic_cancel(self, consumer_tag: str) -> object:
        """End the subscription with this consumer tag."""

    def basic_get(self, queue: str = "") -> Any:
        """Return the next ready message of a queue, or None if there is none."""

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> object:  # noqa: FBT001, FBT002 -- as above
        """Acknowledge a delivery; with multiple, also all earlier deliveries of the channel."""

    def basic_reject(self, delivery_tag: int, requeue: bool) -> object:  # noqa: FBT001 -- as above
        """Reject a delivery; with requeue, the message returns to its queue.

        Without requeue, the broker dead-letters the message.
        """

    def basic_recover(self, requeue: bool = False) -> object:  # noqa: FBT001, FBT002 -- as above
        """Return all unacknowledged messages of this channel to their queues.

        Requeue must be True.
        """

    def basic_publish(
        self,
        msg: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,  # noqa: FBT001, FBT002 -- as above
    ) -> object:
        """Publish a message.

        Args:
            msg: a result of prepare_message().
            exchange: the exchange; "" for the default exchange.
            routing_key: the routing key.
            mandatory: whether the broker returns the message if no queue matches.
        """

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
        """Return a message that basic_publish() can publish.

        Args:
            body: the body.
            priority: the priority, from 0 to 255; None for no priority.
            content_type: the content type; None for none.
            content_encoding: the encoding of the body; None for none.
            headers: the application headers; None for none.
            properties: other AMQP properties, such as delivery_mode; None for none.
        """


class Connection(Protocol):
    """An AMQP connection: Kombu's connection, or the raw connection in it.

    Both have these methods. A function that needs only these methods accepts both.
    """

    @property
    def connection_errors(self) -> tuple[type[BaseException], ...]:
        """The exception classes that mean that a connection is lost or refused."""

    @property
    def recoverable_connection_errors(self) -> tuple[type[BaseException], ...]:
        """The connection errors after which a new connection may succeed."""

    def channel(self) -> Channel:
        """Open a channel, and return it."""

    def drain_events(self, *, timeout: float | None = None) -> object:
        """Process the next event, such as a delivery, a confirm or the answer to a method.

        Args:
            timeout: seconds to wait for the event. None means 40 s on RabbitMQ (5 s during a
                close), and no limit on other brokers.

        Raises:
            TimeoutError: no event has arrived in time.
            RecoverableConnectionError: the connection is closed or lost.
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
        """Process the data that has arrived, without waiting.

        feedbus calls it while a handler runs, and before it publishes over an open connection.

        Raises:
            RecoverableConnectionError: the connection is closed or lost.
        """

    def wake_on(self, descriptor: int) -> None:
        """Make drain_events() raise TimeoutError as soon as a descriptor can be read.

        The runner uses it for a descriptor that can be read when a handler call has ended.
        """
