"""Send messages to the broker; a pack for an old generation is sent again as plain messages.

A generation is a ring with its queues. A switch to a new generation unbinds the queues of the old
generation. From then on, the broker returns packs for the old generation, and the sender sends
their records as plain messages.

Until the switch is complete, buses make packs for the old generation. If they made packs for the
new one, the broker would return a pack before the new queues are bound, and accept later packs.
These could overtake the records of the returned pack. See RingState.pack_generation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from typing import cast

from amqp.exceptions import NotFound
from kombu.connection import Connection

from feedbus import broker
from feedbus.broker.blocked_publishing import Alarm
from feedbus.broker.publisher import (
    CONFIRM_TIMEOUT_SECONDS,
    NACKED_SECONDS,
    WINDOW,
    Publisher,
)
from feedbus.broker.refused_messages import Refusal, hold_back
from feedbus.broker.timer_objects import Timer
from feedbus.broker_names import Role, has_role
from feedbus.bus.record_encoding import Encoder
from feedbus.clock import Waiting
from feedbus.errors import BrokerOutage
from feedbus.generations import state_queues
from feedbus.metrics import Metrics, Outcome
from feedbus.topology import Topology
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Channel
from feedbus.wire.constants import PACK, TIMER_TARGET


class Sender:
    """A connection that only publishes, opened on the first send.

    A consumer has one Sender object for the messages of its handlers, its retries and its dead
    letters. A LiveBus has one Sender object. A sender connects again after an outage. Only one
    thread at a time may use a sender.
    """

    def __init__(  # noqa: PLR0913 -- a sender's limits, each given by name
        self,
        topology: Topology,
        metrics: Metrics | None = None,
        *,
        timeout_seconds: float = CONFIRM_TIMEOUT_SECONDS,
        blocked_seconds: float = CONFIRM_TIMEOUT_SECONDS,
        nacked_seconds: float = NACKED_SECONDS,
        waiting: Waiting = nullcontext,
    ) -> None:
        """Create a sender; it connects at the first send.

        Args:
            topology: the topology with the URL of the broker.
            metrics: counts the records.
            timeout_seconds: how long to wait for the confirms of a window: up to 1,000 messages
                that are sent together.
            blocked_seconds: how long an alarm of the broker may block the sender. If the alarm
                lasts longer, send() raises BrokerOutage.
            nacked_seconds: for how long a message is sent again and again if its queue is full, or
                if the node of the queue has just died.
            waiting: makes a context manager around each long wait for the broker, so that the wait
                does not count for the time limit of a handler.

        """
        self._timeout_seconds = timeout_seconds
        self._blocked_seconds = blocked_seconds
        self._nacked_seconds = nacked_seconds
        self.encoder = Encoder(topology)
        self._topology = topology
        self._metrics = metrics
        waited = [metrics.publisher_blocked] if metrics is not None else []
        self._alarm = Alarm(broker.clock(topology), *waited, waiting=waiting)
        self._timer = Timer(topology, waiting=waiting)
        self._connection: Connection | None = None
        self._publisher: Publisher | None = None

    def queue_of_ids(self, queue: str) -> str:
        """Return the text that stands for a queue in the ids of its handlers' messages.

        It contains the name of the project, because two projects on one broker can have queues of
        the same name.

        Args:
            queue: the name of the queue in the topology.

        """
        return f"{self._topology.name}.{queue}"

    def send(self, messages: Iterable[Outgoing]) -> list[Refusal]:
        """Send messages in order, and return the messages that the broker did not accept.

        The messages are sent in windows of up to 1,000. If a queue is full, the sender tries again
        for the constructor's nacked_seconds. If the queue is still full then, the message is
        refused. Messages with the same exchange and routing key in later windows are not sent,
        because they would overtake the refused message. The result contains these later messages,
        too. Later messages in the same window were sent before the refusal arrived, so they can
        overtake the refused message.

        Args:
            messages: any iterable of messages. It is read window by window.

        Raises:
            BrokerOutage: the broker is unavailable; messages without a confirm may have arrived.

        """
        refusals: list[Refusal] = []
        remaining = iter(messages)
        while window := list(islice(remaining, WINDOW)):
            sent, held = hold_back(window, refusals)
            refusals += held
            self._count([refusal.message for refusal in held], "nacked", [])
            if sent:
                refusals += self._send_window(sent)
        return refusals

    def _send_window(self, messages: Sequence[Outgoing]) -> list[Refusal]:
        try:
            self._drop_if_lost()
            publisher = self._open()
            with broker.outage(self._connect(), self._topology.broker_url):
                self._declare_timer(messages)
                refusals = publisher.send(messages)
                outdated = {
                    id(refusal.message) for refusal in refusals if _is_outdated_pack(refusal)
                }
                if outdated:
                    refusals = [refusal for refusal in refusals if not _is_outdated_pack(refusal)]
                    # The packs are sent again in their original order. The broker may have
                    # returned them in another order.
                    packs = [message for message in messages if id(message) in outdated]
                    refusals += self._send_unpacked(publisher, packs)
        except BrokerOutage:
            self._count(messages, "unconfirmed", [])
            self.drop()
            raise
        self._count(messages, "confirmed", refusals)
        return refusals

    def channel(self) -> Channel:
        """Return a channel for declarations that must precede a send.

        Example: the code that requeues dead letters first declares an exchange on this channel. The
        channel is closed together with the connection of the sender.

        Raises:
            BrokerOutage: the broker is unavailable.

        """
        self._open()
        return cast("Channel", self._connect().default_channel)

    def close(self) -> None:
        """Close the connection when the consumer or the bus ends; a later send connects again."""
        if self._alarm.is_active:
            self.drop()  # during an alarm, the broker does not answer AMQP's close handshake
        connection, self._connection, self._publisher = self._connection, None, None
        if connection is not None:
            broker.close(connection)

    def drop(self) -> None:
        """Close a connection that may be lost, without AMQP's close handshake.

        The next send connects again. Example: when a consumer has lost its connection for reading,
        the connection of its sender is probably lost, too.
        """
        connection, self._connection, self._publisher = self._connection, None, None
        if connection is not None:
            broker.drop_connection(connection)

    def _drop_if_lost(self) -> None:
        """Drop the connection if the broker has closed it since the last send."""
        connection = self._connection
        if self._publisher is None or connection is None:
            return
        lost = (*broker.connection_errors(connection), *connection.channel_errors)
        try:
            self._publisher.take_arrived()
        except lost:
            self.drop()

    def _open(self) -> Publisher:
        if self._publisher is None:
            connection = self._connect()
            with broker.outage(connection, self._topology.broker_url):
                self._publisher = Publisher(
                    connection,
                    timeout_seconds=self._timeout_seconds,
                    blocked_seconds=self._blocked_seconds,
                    nacked_seconds=self._nacked_seconds,
                    alarm=self._alarm,
                )
        return self._publisher

    def _connect(self) -> Connection:
        if self._connection is None:
            self._timer.forget()
            self._connection = broker.connect(self._topology, broker.HeartbeatSource.NONE)
        return self._connection

    def _declare_timer(self, messages: Sequence[Outgoing]) -> None:
        """Declare the exchanges and queues in which the delayed messages wait."""
        delayed = [message for message in messages if TIMER_TARGET in message.headers]
        if not delayed:
            return
        try:
            self._timer.declare(cast("Channel", self._connect().default_channel), delayed)
        except NotFound as error:
            msg = f"broker: {error.reply_text}; `feedbus up` declares it"
            raise BrokerOutage(msg) from error

    def _send_unpacked(self, publisher: Publisher, packs: Sequence[Outgoing]) -> list[Refusal]:
        """Read the states of the rings, and send the records of packs as plain messages."""
        # The states are read on another connection, because the connection for publishing has no
        # heartbeats. A state is a message, which its reader takes out of a queue for a moment. If
        # the connection is lost meanwhile, missing heartbeats show this to the broker, which then
        # puts the message back.
        with broker.connect(self._topology) as connection:
            for state in state_queues.states(connection, self._topology).values():
                self.encoder.use_generation(state.pack_generation)
        pairs = [(message, pack) for pack in packs for message in self.encoder.split_pack(pack)]
        refusals = publisher.send([message for message, _ in pairs])
        pack_of = {id(message): pack for message, pack in pairs} if refusals else {}
        return [replace(refusal, pack=pack_of[id(refusal.message)]) for refusal in refusals]

    def _count(
        self, messages: Sequence[Outgoing], outcome: Outcome, refusals: Sequence[Refusal]
    ) -> None:
        """Count records in the metrics: refused ones by their refusal, the others by `outcome`."""
        if self._metrics is None:
            return
        counts: Counter[tuple[str, Outcome]] = Counter()
        for message in messages:
            counts[message.counted_as, outcome] += message.records
        for refusal in refusals:
            counts[refusal.message.counted_as, outcome] -= refusal.message.records
            counts[refusal.message.counted_as, refusal.outcome] += refusal.message.records
        for (exchange, counted_outcome), count in counts.items():
            self._metrics.published(exchange, counted_outcome, count)


def _is_outdated_pack(refusal: Refusal) -> bool:
    """Whether the broker returned a pack, because the queue of its shard is not bound now.

    The broker can also return a pack of an exchange without shards. Such a pack is not outdated.
    """
    is_pack = refusal.message.content_type == PACK
    was_returned = refusal.outcome == "returned"
    return is_pack and was_returned and has_role(refusal.message.exchange, {Role.PACKS})
