"""A channel with the methods, events and errors of py-amqp, so that py-amqp's users can use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu.transport import pyamqp
from kombu.transport.base import to_rabbitmq_queue_arguments

from feedbus.transports.sqlite.consuming_channel import ConsumingChannel
from feedbus.transports.sqlite.declaring_channel import DeclaringChannel
from feedbus.transports.sqlite.publishing_channel import PublishingChannel


class Channel(DeclaringChannel, PublishingChannel, ConsumingChannel):
    """A channel with all methods that py-amqp's and Kombu's clients call.

    A connection makes it in `Connection.channel()`.
    """

    Message = pyamqp.Message
    auto_decode = True  # if a message declares an encoding, its body is delivered as text

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the amqp Message that basic_publish() expects; Kombu's producer calls it.

        Args:
            body: the body, as bytes or text.
            priority: the priority, from 0 to 255; None for no priority.
            content_type: the content type, such as "application/json"; None for none.
            content_encoding: the encoding of the body, such as "utf-8"; None for none.
            headers: the application headers; None for none.
            properties: other AMQP properties, such as delivery_mode; None for none.
        """
        prepare: Any = pyamqp.Channel.prepare_message
        return prepare(self, body, priority, content_type, content_encoding, headers, properties)

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> Any:
        """Return the x-arguments of a queue; Kombu calls it before it declares a queue.

        Args:
            arguments: the x-arguments that the program has set; None for none.
            kwargs: Kombu's options of the queue, such as `message_ttl` in seconds or `max_length`.
        """
        return to_rabbitmq_queue_arguments(arguments or {}, **kwargs)

    def message_to_python(self, raw_message: Any) -> Any:
        """Return Kombu's Message for a delivered amqp Message; Kombu's consumer calls it."""
        return self.Message(raw_message, channel=self)
