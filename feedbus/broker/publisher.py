"""Publish messages, and report for each whether the broker accepted it.

feedbus uses a Publisher for every message that must not be lost: messages of programs, handlers and
schedules, retries, dead letters, rows of the outbox, and messages that a change of shards moves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from amqp import spec
from amqp.exceptions import AccessRefused, ChannelError, NotFound

from feedbus.broker.blocked_publishing import Alarm
from feedbus.broker.refused_messages import NACKED, Refusal, hold_back
from feedbus.broker.unconfirmed_messages import UnconfirmedMessages
from feedbus.errors import BrokerOutage, UsageError
from feedbus.units import counted
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Channel, Connection, RawConnection
from feedbus.wire.message_in_message import fit_properties

WINDOW = 1000  # the number of messages that share one wait for confirms
CONFIRM_TIMEOUT_SECONDS = 30.0
NACKED_SECONDS = 2.0  # how long to try again after a negative confirm (nack) of a message
NACKED_PAUSE_SECONDS = 0.1  # the wait before a nacked message is published again
# If no confirm arrives for this time, the broker is slow. Then the rest of the wait does not count
# for the time limit of a handler; see Alarm.during_wait().
SILENT_SECONDS = 1.0
WOKEN_SECONDS = 0.01  # how long to sleep after a wait without data; see _await_confirms()


class Publisher:
    """Publishes persistent and mandatory messages on a separate channel, and awaits their confirms.

    If a queue is full, the publisher tries again for nacked_seconds. If the broker closes the
    channel because of one message, the publisher returns this message as refused, and publishes the
    others.
    While the broker blocks publishers, the publisher waits. In a `with` block, the channel is
    closed at the end, unless an error ends the block.

    Args:
        connection: an open connection to the broker.
        timeout_seconds: how long to wait for the confirms of up to 1,000 messages.
        blocked_seconds: how long to wait while the broker blocks publishers.
        nacked_seconds: how long to try again with a message that the broker refuses, for example
            because a queue is full.
        alarm: the state of the broker's alarms. A caller that connects again gives the same object
            to the next publisher. By default, the publisher creates one.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        timeout_seconds: float = CONFIRM_TIMEOUT_SECONDS,
        blocked_seconds: float = CONFIRM_TIMEOUT_SECONDS,
        nacked_seconds: float = NACKED_SECONDS,
        alarm: Alarm | None = None,
    ) -> None:
        """Create a publisher with a channel of its own on a connection.

        Args:
            connection: an open connection. Other code may use this connection, too, but not in
                another thread at the same time.
            timeout_seconds: the time limit for the confirms of up to 1,000 messages. The time
                begins again after an alarm of the broker, and whenever messages are published
                again.
            blocked_seconds: how long an alarm of the broker may block the publisher.
            nacked_seconds: how long to try again with a message if its queue is full, or if the
                node of the queue has just died.
            alarm: the state of the broker's alarms. A caller that connects again gives the same
                object to the next publisher. By default, the publisher creates one.

        """
        self._timeout_seconds = timeout_seconds
        self._blocked_seconds = blocked_seconds
        self._nacked_seconds = nacked_seconds
        self._has_waited_long = False
        self._channel: Channel | None = connection.channel()
        # The confirms arrive on the AMQP connection of this channel. It is stored here, because
        # Kombu's object `connection` opens another AMQP connection if the first one is lost.
        self._connection: RawConnection = self._channel.connection
        self._clock = self._connection.clock
        self._alarm = alarm or Alarm(self._clock)
        self._alarm.watch(self._connection)
        self._frame_bytes = getattr(self._connection, "frame_max", None)
        self._confirm_deadline = self._unblock_deadline = 0.0
        self._unconfirmed = UnconfirmedMessages(self._channel)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Close the channel, but not after an error: the connection may not answer then."""
        if failed is None:
            self.close()

    def send(self, messages: Sequence[Outgoing]) -> list[Refusal]:
        """Publish in order and wait for every confirm; return the messages that were not accepted.

        The publisher sends up to 1,000 messages, a window, and waits for their confirms before it
        sends the next window. If a queue is full, the publisher tries again for the constructor's
        nacked_seconds. If the queue is still full then, the message is refused. The publisher does
        not send the messages of later windows that have the same exchange and routing key, because
        they would overtake the refused message. The result contains these messages, too. Later
        messages in the same window were sent before the refusal arrived, so they can overtake the
        refused message.

        Connection errors of py-amqp are raised unchanged; feedbus.broker.outage() converts them.

        Raises:
            BrokerOutage: messages were not confirmed in time, or their exchange does not exist.
                The broker may have stored messages without confirming them. The caller must open
                another connection.
        """
        refusals: list[Refusal] = []
        for start in range(0, len(messages), WINDOW):
            window, held = hold_back(messages[start : start + WINDOW], refusals)
            refusals += held
            if window:
                refusals += self._send_window(window)
        return refusals

    def _send_window(self, messages: Sequence[Outgoing]) -> list[Refusal]:
        started = self._clock.monotonic()
        refusals: list[Refusal] = []
        while True:
            new_refusals = self._publish(messages)
            nacked = {id(each.message) for each in new_refusals if each.reason == NACKED}
            # The messages are published again in their original order. Negative confirms can arrive
            # in another order.
            messages = [each for each in messages if id(each) in nacked]
            if not messages:
                return refusals + new_refusals
            # After a publish to a queue without a leader, RabbitMQ 3.10 nacks every later message
            # on that channel. So the next attempt uses another channel.
            self.close()
            seconds = self._clock.monotonic() - started
            if seconds >= self._nacked_seconds:
                return refusals + new_refusals
            refusals += [each for each in new_refusals if each.reason != NACKED]
            with self._alarm.waiting():
                self._clock.sleep(NACKED_PAUSE_SECONDS)

    def take_arrived(self) -> None:
        """Process data that has arrived since the last send; raise if the connection is lost.

        A write to a connection that the broker has closed does not fail immediately. So a sender
        calls this method before it sends messages over an open connection.
        """
        self._connection.take_arrived()

    def close(self) -> None:
        """Close the channel; the connection stays, and the next send() opens another channel."""
        channel, self._channel = self._channel, None
        if channel is not None and channel.is_open:
            channel.close()

    def _open_channel(self) -> Channel:
        if self._channel is None:
            channel = self._connection.channel()
            self._unconfirmed = UnconfirmedMessages(channel)
            self._channel = channel
        return self._channel

    def _publish(self, messages: Sequence[Outgoing]) -> list[Refusal]:
        """Publish messages, without a second attempt after a nack; return those not accepted.

        If the broker closes the channel, the cause is one of the messages without a confirm. To
        find this message, the method publishes these messages again, one at a time. The message at
        which the broker closes the channel again is the cause. The method returns it as refused,
        and publishes the messages after it together.
        """
        refusals: list[Refusal] = []
        remaining, one_at_a_time = messages, False
        while remaining:
            window = remaining[:1] if one_at_a_time else remaining
            unanswered, error = self._publish_until_closed(window)
            refusals += self._unconfirmed.refusals
            if len(unanswered) > 1:
                remaining, one_at_a_time = unanswered, True
                continue
            if unanswered:
                reason = f"the broker refused the message: {error}"
                refusals.append(Refusal(unanswered[0], "nacked", reason, is_permanent=True))
                one_at_a_time = False
            remaining = remaining[len(window) :]
        return refusals

    def _publish_until_closed(self, messages: Sequence[Outgoing]) -> tuple[Sequence[Outgoing], str]:
        """Publish until the broker closes the channel, or has answered every message.

        Returns:
            The messages without an answer, and why the broker closed the channel; () and "" if the
            broker has answered every message.

        """
        channel = self._open_channel()
        unconfirmed = self._unconfirmed
        unconfirmed.refusals = []
        self._has_waited_long = False
        now = self._clock.monotonic()
        self._confirm_deadline = now + self._timeout_seconds
        self._unblock_deadline = now + self._blocked_seconds
        count = 0  # how many of the messages were published
        try:
            for count, message in enumerate(messages, start=1):  # noqa: B007 -- read below
                self._publish_message(channel, message)
                # A broker that blocks publishers does not read, so more data would only fill
                # buffers.
                while self._alarm.is_active:
                    self._await_confirms()
            while unconfirmed.messages_by_tag:
                self._await_confirms()
        except ChannelError as error:
            if error.method_sig != spec.Basic.Publish:  # another method is the cause
                raise
            unanswered = [*unconfirmed.messages_by_tag.values(), *messages[count:]]
            self.close()
            if isinstance(error, AccessRefused):  # the caller reports it as an outage
                raise
            if isinstance(error, NotFound):
                msg = f"broker: {error.reply_text}; `feedbus up` declares it"
                raise BrokerOutage(msg) from error
            return unanswered, str(error.reply_text)
        self._alarm.log_end()
        return (), ""

    def _publish_message(self, channel: Channel, message: Outgoing) -> None:
        unconfirmed = self._unconfirmed
        try:
            prepared = fit_properties(message, self._frame_bytes).as_amqp_message(channel)
        except UsageError as error:
            unconfirmed.refusals.append(Refusal(message, "nacked", str(error), is_permanent=True))
            return
        unconfirmed.last_tag += 1
        unconfirmed.messages_by_tag[unconfirmed.last_tag] = message
        channel.basic_publish(prepared, message.exchange, message.routing_key, mandatory=True)

    def _await_confirms(self) -> None:
        blocked = self._alarm.is_active
        now = self._clock.monotonic()
        remaining_seconds = (self._unblock_deadline if blocked else self._confirm_deadline) - now
        if remaining_seconds <= 0:
            why = (
                ", because the broker is short of memory or disk space and blocks publishers; see"
                " `rabbitmq-diagnostics alarms`"
                if blocked
                else "; check the broker's load and its log"
            )
            count = counted(len(self._unconfirmed.messages_by_tag), "message")
            msg = f"broker: no confirm in time for {count}{why}"
            raise BrokerOutage(msg)
        wait_seconds = min(remaining_seconds, SILENT_SECONDS)
        try:
            with self._alarm.during_wait(long=self._has_waited_long):
                self._connection.drain_events(timeout=wait_seconds)
        except TimeoutError:
            if self._clock.monotonic() - now > wait_seconds / 2:
                self._has_waited_long = True
            else:
                # The wait ended early, without data. The sleep prevents a busy loop. Example: on a
                # runner's connection, the end of a handler's call in a thread ends each wait, by a
                # descriptor (see RawConnection.wake_on()). The runner reads the descriptor only
                # after this send(), so until then each wait ends at once.
                self._clock.sleep(WOKEN_SECONDS)
        if blocked:
            self._confirm_deadline = self._clock.monotonic() + self._timeout_seconds


def publish_all(
    connection: Connection,
    messages: Sequence[Outgoing],
    *,
    nacked_seconds: float = math.inf,
) -> list[Refusal]:
    """Publish messages on a connection that has other uses, and wait for every confirm.

    Args:
        connection: an open connection.
        messages: the messages in their order.
        nacked_seconds: how long to try again with a message if its queue is full; by default there
            is no limit.

    Returns:
        The messages that the broker did not accept.

    Raises:
        BrokerOutage: messages were not confirmed in time, or their exchange does not exist. The
            broker may have stored messages without confirming them. The caller must open another
            connection.

    """
    with Publisher(connection, nacked_seconds=nacked_seconds) as publisher:
        return publisher.send(messages)
