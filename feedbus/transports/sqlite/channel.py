"""A channel with the methods, events and errors of py-amqp, so that the same clients can use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu.transport import pyamqp
from kombu.transport.base import to_rabbitmq_queue_arguments

from feedbus.transports.sqlite.consuming_channel import ConsumingChannel
from feedbus.transports.sqlite.declaring_channel import DeclaringChannel
from feedbus.transports.sqlite.publishing_channel import PublishingChannel


class Channel(DeclaringChannel, PublishingChannel, ConsumingChannel):
    """A channel with all methods that py-amqp's and Kombu's clients call."""

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
        """Return the amqp Message that basic_publish expects."""
        prepare: Any = pyamqp.Channel.prepare_message
        return prepare(self, body, priority, content_type, content_encoding, headers, properties)

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> Any:
        """Return the x-arguments for Kombu's options of a queue."""
        return to_rabbitmq_queue_arguments(arguments or {}, **kwargs)

    def message_to_python(self, raw_message: Any) -> Any:
        """Return Kombu's message for a delivered message."""
        return self.Message(raw_message, channel=self)
