"""Convert AMQP frames to messages for py-amqp, also if a message has invalid properties."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import amqp
from amqp import spec
from amqp.exceptions import FrameSyntaxError, UnexpectedFrame
from kombu.transport import pyamqp

from feedbus.wire.amqp_encoding import read_properties, read_text, write_properties

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
# The methods that are followed by a message: a content header, and frames with its body.
WITH_CONTENT = frozenset({spec.Basic.Deliver, spec.Basic.GetOk, spec.Basic.Return})

_METHOD = struct.Struct(">HH")
_DELIVERY_TAG = struct.Struct(">Q")
_COUNT = struct.Struct(">I")
_CODE = struct.Struct(">H")

Signature = tuple[int, int]


class Message(amqp.Message):
    """A message whose properties can be read and written even if they contain invalid data.

    A connection makes one for each delivered or returned message; publishers make one, too.

    Attributes:
        undecodable: error texts, one for each part that cannot be decoded: a property, a header,
            the routing key, the exchange or the consumer tag.
    """

    __slots__ = ("undecodable",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Create a message without undecodable parts, with the arguments of py-amqp's message."""
        super().__init__(*arguments, **options)
        self.undecodable: Sequence[str] = ()

    def _load_properties(self, _class: int, buf: bytes, offset: int) -> int:
        try:
            properties, self.undecodable = read_properties(buf, offset)
        except (ValueError, IndexError, struct.error) as error:
            msg = f"properties that are not valid AMQP: {error}"
            raise FrameSyntaxError(msg) from error
        self.properties.update(properties)
        return len(buf)

    def _serialize_properties(self) -> bytes:
        return write_properties(self.properties)


class Channel(pyamqp.Channel):
    """A channel whose deliveries can have any routing key, and whose bodies stay bytes."""

    def dispatch_method(self, method_sig: Signature, payload: bytes, content: Any) -> None:
        """Call the callbacks for an AMQP method that the broker has sent.

        py-amqp calls dispatch_method() for each AMQP method.

        Args:
            method_sig: the method's (class id, method id).
            payload: the bytes of the method frame.
            content: the message that follows the method; None if no message follows.
        """
        if content is None or self.is_closing:
            super().dispatch_method(method_sig, payload, content)
            return
        undecodable: list[str] = []
        arguments = _READ[method_sig](payload, undecodable)
        if undecodable:
            content.undecodable = [*content.undecodable, *undecodable]
        listener = self._callbacks.get(method_sig)
        waiting = self._pending.pop(method_sig, None)
        if listener is not None:
            listener(*arguments, content)
        if waiting is not None:
            waiting(method_sig, *arguments, content)

    def _on_basic_cancel(self, consumer_tag: str) -> None:
        """Call on_cancel of a subscription that the broker has cancelled.

        py-amqp raises an error if it does not know the subscription. But RabbitMQ 4.3 cancels a
        subscription again for each further delivery whose consumer timeout expires. So the
        method ignores a subscription that has ended already.
        """
        if consumer_tag in self.callbacks:
            super()._on_basic_cancel(consumer_tag)

    def basic_publish(
        self, msg: Any, exchange: str = "", routing_key: str | bytes = "", **options: Any
    ) -> Any:
        """Publish a message; a routing key that is not UTF-8 is sent with its original bytes.

        Args:
            msg: the amqp Message.
            exchange: the exchange; "" for the default exchange.
            routing_key: the routing key, as bytes or text. In a text, each byte that is not UTF-8
                is a surrogate (Python's error handler "surrogateescape").
            options: further arguments of py-amqp, such as `mandatory`.
        """
        if isinstance(routing_key, str) and not routing_key.isascii():
            routing_key = routing_key.encode(errors="surrogateescape")
        return super().basic_publish(msg, exchange, routing_key, **options)

    def prepare_message(  # noqa: PLR0913, PLR0917 -- the signature is Kombu's
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Any = None,
        properties: Any = None,
        _Message: Any = Message,  # noqa: N803 -- the name is Kombu's
    ) -> Any:
        """Return the amqp Message that basic_publish() expects; Kombu's producer calls it.

        Args:
            body: the body, as bytes or text.
            priority: the priority, from 0 to 255; None for no priority.
            content_type: the content type; None for none.
            content_encoding: the encoding of the body; None for none.
            headers: the application headers; None for none.
            properties: other AMQP properties, such as delivery_mode; None for none.
            _Message: the class of the result.
        """
        return super().prepare_message(
            body, priority, content_type, content_encoding, headers, properties, _Message
        )


class Connection(pyamqp.Connection):
    """py-amqp's connection, with the Message and Channel of this module.

    So a message with invalid properties does not end the connection.
    """

    Channel = Channel

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Create a connection with the arguments of py-amqp's connection."""
        super().__init__(*arguments, frame_handler=frame_handler, **options)


def frame_handler(
    connection: Any, callback: Callable[[int, Signature, bytes, Any], None]
) -> Callable[[tuple[int, int, bytes]], bool]:
    """Return a function that py-amqp calls with each frame; it creates Message objects.

    Args:
        connection: py-amqp's connection.
        callback: called with each complete method. Its arguments are the channel number, the
            signature and the payload of the method, and the Message that follows the method. The
            last argument is None if no message follows.

    Returns:
        A function that gets a frame as (type, channel number, payload). It returns whether the
        frame has completed a method.

    """
    # For each channel: the type of its next frame, and the method whose message is not complete.
    expected: defaultdict[int, int] = defaultdict(lambda: METHOD)
    partial: dict[int, tuple[Signature, bytes, Message]] = {}

    def complete(channel: int) -> bool:
        expected[channel] = METHOD
        signature, payload, message = partial.pop(channel)
        callback(channel, signature, payload, message)
        return True

    def on_frame(frame: tuple[int, int, bytes]) -> bool:
        kind, channel, payload = frame
        connection.bytes_recv += 1
        if kind == HEARTBEAT:
            return False
        if kind != expected[channel]:
            msg = f"received a frame of type {kind}, expected one of type {expected[channel]}"
            raise UnexpectedFrame(msg)
        if kind == METHOD:
            signature = _METHOD.unpack_from(payload)
            if signature not in WITH_CONTENT:
                callback(channel, signature, payload, None)
                return True
            partial[channel] = signature, payload, Message()
            expected[channel] = HEADER
            return False
        message = partial[channel][2]
        if kind == HEADER:
            message.inbound_header(payload)
            if not message.ready:
                expected[channel] = BODY
                return False
            message.body = b""
        else:
            message.inbound_body(payload)
            if not message.ready:
                return False
        return complete(channel)

    return on_frame


def _deliver(payload: bytes, undecodable: list[str]) -> tuple[Any, ...]:
    consumer_tag, at = read_text(payload, 4, "the consumer tag", undecodable)
    (delivery_tag,) = _DELIVERY_TAG.unpack_from(payload, at)
    redelivered = payload[at + 8] & 1 == 1
    exchange, at = read_text(payload, at + 9, "the exchange", undecodable)
    routing_key, _ = read_text(payload, at, "the routing key", undecodable)
    return consumer_tag, delivery_tag, redelivered, exchange, routing_key


def _get_ok(payload: bytes, undecodable: list[str]) -> tuple[Any, ...]:
    (delivery_tag,) = _DELIVERY_TAG.unpack_from(payload, 4)
    redelivered = payload[12] & 1 == 1
    exchange, at = read_text(payload, 13, "the exchange", undecodable)
    routing_key, at = read_text(payload, at, "the routing key", undecodable)
    (count,) = _COUNT.unpack_from(payload, at)
    return delivery_tag, redelivered, exchange, routing_key, count


def _returned(payload: bytes, undecodable: list[str]) -> tuple[Any, ...]:
    (code,) = _CODE.unpack_from(payload, 4)
    text, at = read_text(payload, 6, "the reply", undecodable)
    exchange, at = read_text(payload, at, "the exchange", undecodable)
    routing_key, _ = read_text(payload, at, "the routing key", undecodable)
    return code, text, exchange, routing_key


# Functions that decode the arguments of a method. Each gets the payload of the method frame, and
# adds an error text to `undecodable` for each text that is not UTF-8.
_READ: dict[Signature, Callable[[bytes, list[str]], tuple[Any, ...]]] = {
    spec.Basic.Deliver: _deliver,
    spec.Basic.GetOk: _get_ok,
    spec.Basic.Return: _returned,
}
