"""The part of a channel that publishes and reports confirms and returns."""

# ruff: noqa: ARG002, FBT001, FBT002 -- the signatures are py-amqp's

from __future__ import annotations

from typing import Any

from amqp.exceptions import AMQPNotImplementedError, MessageNacked

from feedbus.transports.sqlite.base_channel import BaseChannel
from feedbus.transports.sqlite.confirms import Confirm, PublishedMessage, store
from feedbus.transports.sqlite.message_conversion import pack

# In confirm mode, basic_publish() itself stores the buffered messages when there are this many of
# them, or when their bodies have this many bytes.
BUFFERED_MESSAGES = 500
BUFFERED_BYTES = 8_000_000


class PublishingChannel(BaseChannel):
    """The part of a channel with the AMQP methods that publish messages."""

    def confirm_select(self, nowait: bool = False) -> None:
        """Start confirm mode: each later message gets a delivery tag, and its confirm is reported.

        Args:
            nowait: ignored.
        """
        self.flush()
        self._confirming = True

    def basic_publish(
        self,
        msg: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
    ) -> None:
        """Publish a message immediately or, in confirm mode, with others in one transaction.

        With the option confirm_publish, the message is stored durably when basic_publish() returns.

        Args:
            msg: the amqp Message.
            exchange: the exchange; "" for the default exchange.
            routing_key: the routing key.
            mandatory: whether the message is returned to the program if it matches no queue.
            immediate: must be False, as on RabbitMQ.
            timeout: ignored.
            confirm_timeout: ignored.

        Raises:
            MessageNacked: confirm_publish is set, and a full queue refuses the message.
            NotFound: there is no such exchange. In confirm mode, the error is raised by the call
                that stores the buffered messages, which can be a later call of another method.
            FileUnavailable: the message, or an earlier buffered one, could not be stored. A
                message that is not stored is not confirmed.
            UnicodeError: the routing key is not UTF-8.
            FrameSyntaxError: AMQP cannot represent the routing key, a header or the priority.
            PreconditionFailed: the expiration is not a number of milliseconds.
            AMQPNotImplementedError: immediate is set.
        """
        if immediate:
            refusal = "NOT_IMPLEMENTED - immediate=true"
            raise AMQPNotImplementedError(refusal, (60, 40))
        link = self._link
        if self._confirm_publish:
            self._confirming = True
        with self._refusals():
            content = pack(msg, exchange, routing_key)
        tag = 0
        if self._confirming:
            self._published += 1
            tag = self._published
        self._outgoing.append(PublishedMessage(tag, content, msg, mandatory))
        self._outgoing_bytes += len(content.body)
        if self._confirm_publish:
            self.flush()
            self._refuse_nacked(tag)
        elif not self._confirming or self._is_full():
            self.flush()
        else:
            link.wake_event_loop()

    def _refuse_nacked(self, tag: int) -> None:
        nacked = Confirm("basic_nack", tag, multiple=False) in self._unreported
        self.report()
        if nacked:
            raise MessageNacked

    def _is_full(self) -> bool:
        return len(self._outgoing) >= BUFFERED_MESSAGES or self._outgoing_bytes >= BUFFERED_BYTES

    def flush(self) -> None:
        """Store the buffered messages; the next drain_events() reports their confirms and returns.

        Raises:
            NotFound: the exchange of a message does not exist; later messages are not stored.
            FileUnavailable: the messages could not be stored.
        """
        if not self._outgoing:
            return
        outgoing, self._outgoing, self._outgoing_bytes = self._outgoing, [], 0
        with self._link.write(durable=self._confirming) as tx:
            outcomes, failure = store(tx, outgoing)
        self._unreported += outcomes
        if failure is not None:
            self.report()
            self._reopen()
            raise failure

    def report(self) -> bool:
        """Report the returns and confirms that have not been reported yet to the program.

        The connection calls this when it processes events. The callbacks are those that the program
        has registered for returned, confirmed and refused messages.

        Returns:
            False if there was nothing to report, so no callback was called.

        """
        unreported, self._unreported = self._unreported, []
        for outcome in unreported:
            outcome.report(self.events)
        return bool(unreported)
