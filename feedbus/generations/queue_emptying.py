"""Move all messages of a queue to another target; delete queues that receive no more messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self

from amqp.exceptions import NotFound, ResourceLocked

from feedbus.broker.channels import short_channel
from feedbus.broker.publisher import publish_all
from feedbus.errors import BrokerOutage
from feedbus.generations.leaving_consumers import LEAVE_SECONDS
from feedbus.generations.probes import LOST_SECONDS, NEEDED_PROBES, Probes, delete_empty_queue
from feedbus.units import counted
from feedbus.wire.amqp_protocols import Connection
from feedbus.wire.outgoing_message import Moved

PREFETCH = 1000
MAX_AT_ONCE = 500  # how many messages are moved together
QUIET_SECONDS = 0.05  # how long to wait for another message
IN_USE = "another program consumes from it; stop that program, then run `feedbus apply` again"
NOT_EMPTY = (
    "it is not empty, because messages have arrived in it after the plan was made; `feedbus plan`"
    " shows how to keep or delete them"
)
NO_ANSWER = (
    "the queue does not answer, perhaps because it is a quorum queue without a leader; run"
    " `feedbus apply` again when `rabbitmq-queues quorum_status` shows a leader of the queue"
)

Move = Callable[[Sequence[Any]], None]


class _QueueDeletedError(Exception):
    """Another process has deleted the queue."""


class QueueEmptier:
    """A context manager that moves the messages of one queue to another target.

    delete() then also deletes the queue; move_all() keeps the queue. At the end of the block,
    messages that were not moved return to the queue.

    Only the leader of a queue knows whether the queue is empty. A message count of 0 is no proof:
    the broker also reports 0 if the leader does not answer. If basic.get returns no message, the
    queue is empty, because the leader answers basic.get. A quorum queue with a single active
    consumer refuses basic.get. For such a queue, the proof is a probe: this object publishes the
    probe to the queue, and receives the probe without another message.

    This object consumes from the queue. The leader no longer counts messages that are on their way
    to this object. Such messages arrive before the broker's answer to basic.cancel. So when the
    queue seems to be empty, the object cancels its consumer, and begins again if messages have
    arrived.
    """

    def __init__(
        self, connection: Connection, queue: str, move: Move | None, *, at_once: int = MAX_AT_ONCE
    ) -> None:
        """Create the object with a separate channel of a connection.

        Args:
            connection: a connection to the queue's broker.
            queue: the name of the queue on the broker.
            move: moves messages, and returns when the broker has confirmed them; None if the queue
                may be deleted only if it is empty.
            at_once: the number of messages that are moved together.

        """
        self._at_once = at_once
        self._connection = connection
        self._channel = connection.channel()
        self._clock = self._channel.connection.clock
        self._channel.auto_decode = False  # messages are forwarded unchanged
        self._queue = queue
        self._move = move
        self._tag = ""
        self._received: deque[Any] = deque()  # messages that have arrived and are not moved yet
        self._probing = False  # whether the queue refuses basic.get, so that probes are needed

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the channel."""
        if self._channel.is_open:
            self._channel.close()

    def delete(self, pause_seconds: float) -> str:
        """Empty and delete the queue; return why it was not deleted, or "".

        The reason is IN_USE (the queue has a consumer), NOT_EMPTY (it has messages, and `move` is
        None) or NO_ANSWER (the broker does not answer). A queue that does not exist counts as
        deleted.

        Args:
            pause_seconds: the pause between two checks of an empty queue, from
                broker.in_flight_seconds(): how long a message that the broker has routed may take
                to arrive in its queue.

        """
        try:
            ready, consumers = self._count()
            if consumers or (ready and self._move is None):
                return IN_USE if consumers else NOT_EMPTY
            while True:
                self._consume()
                if reason := self._empty(pause_seconds):
                    return reason
                if not self._end_consumer():
                    break
        except _QueueDeletedError:
            return ""
        delete_empty_queue(self._channel, self._queue)
        return ""

    def _empty(self, pause_seconds: float) -> str:
        """Move messages until the queue seems to be empty; return why this failed, or ""."""
        empty_checks = 0  # how many checks in succession have found the queue empty
        since = self._clock.monotonic()  # when the time limit for an answer began
        alone_since = since  # when the broker last counted no other consumer
        # (0, 1): the broker counts no message, and one consumer, which is this object.
        while empty_checks < NEEDED_PROBES or self._received or self._count() != (0, 1):
            self._clock.sleep(pause_seconds if empty_checks else 0.0)
            if self._drain():
                if self._move is None:
                    return NOT_EMPTY
                empty_checks, since = 0, self._clock.monotonic()
            empty_checks = empty_checks + 1 if self._check_empty() else 0
            # A queue without a leader reports 0 consumers. Then the loop ends only by its time
            # limit. After an election of a leader, the broker can also count a consumer of a lost
            # connection. Then the queue has answered, so the time limit begins again.
            now = self._clock.monotonic()
            if self._count()[1] <= 1:
                alone_since = now
            elif now > alone_since + LEAVE_SECONDS:
                return IN_USE
            else:
                since = now
            if now > since + 2 * LOST_SECONDS:
                return NO_ANSWER
        return ""

    def move_all(self) -> None:
        """Move all messages; the queue itself is kept.

        If the queue gets no more messages, it is empty afterwards.

        Raises:
            BrokerOutage: the target does not accept a message.

        """
        while True:
            self._consume()
            while self._drain() or not self._check_empty():
                pass
            if not self._end_consumer():
                return

    def _consume(self) -> None:
        self._channel.basic_qos(0, PREFETCH, False)
        self._tag = self._channel.basic_consume(
            self._queue, callback=self._received.append, on_cancel=lambda _: None
        )

    def _end_consumer(self) -> bool:
        """End the consumer; return whether messages have arrived that are not moved yet."""
        self._channel.basic_cancel(self._tag)
        return bool(self._received)

    def _drain(self) -> bool:
        """Move messages until none has arrived for a short time; return whether any arrived."""
        has_received = False
        while self._receive():
            has_received = True
            if self._move is None:
                break  # the caller only needs to know that the queue is not empty
            batch = [
                self._received.popleft() for _ in range(min(self._at_once, len(self._received)))
            ]
            self._move(batch)
            self._channel.basic_ack(batch[-1].delivery_tag, multiple=True)
        return has_received

    def _receive(self) -> bool:
        """Receive messages; return whether there are received messages that are not moved yet.

        The method waits until no message has arrived for QUIET_SECONDS (0.05 s), or until
        MAX_AT_ONCE messages are received and not moved.
        """
        while len(self._received) < MAX_AT_ONCE:
            try:
                self._channel.connection.drain_events(timeout=QUIET_SECONDS)
            except TimeoutError:
                break
        return bool(self._received)

    def _check_empty(self) -> bool:
        """Return whether the queue is empty, according to its leader.

        If the method receives messages, it adds them to `_received`, so that they are moved later.
        """
        if not self._probing:
            try:
                with short_channel(self._connection) as channel:  # at its end, the message returns
                    return channel.basic_get(self._queue) is None
            except ResourceLocked:
                self._probing = True
        probes = Probes(self._channel, self._queue, pause_seconds=0.0)
        probes.put_probe()
        others: list[Any] = []
        while probes.is_pending and not probes.is_lost:
            self._receive()
            for message in list(self._received):
                self._received.popleft()
                if probes.count_if_probe(message.properties.get("message_id")):
                    self._channel.basic_ack(message.delivery_tag)
                else:
                    others.append(message)
        self._received.extend(others)
        # With fence_needed, the queue was full and has refused the probe, so nothing is proved.
        return not others and not probes.is_pending and not probes.fence_needed

    def _count(self) -> tuple[int, int]:
        try:
            counts = self._channel.queue_declare(self._queue, passive=True)
        except NotFound as error:
            raise _QueueDeletedError from error
        return int(counts.message_count), int(counts.consumer_count)


class MessageMover:
    """Moves messages to an exchange, in order; a call returns after the broker's confirms.

    QueueEmptier calls the object with lists of messages. Each message keeps its body and
    properties.
    """

    def __init__(self, connection: Connection, exchange: str, key: str | None = None) -> None:
        """Create the object.

        Args:
            connection: a connection to the broker of the messages.
            exchange: the name on the broker of the exchange; "" for the default exchange.
            key: the new routing key of all messages; by default they keep their routing keys.

        """
        self._connection = connection
        self._exchange = exchange
        self._key = key

    def __call__(self, messages: Sequence[Any]) -> None:
        """Publish messages to their new exchange or queue.

        The caller then acknowledges the original messages. If the process is killed before, the
        same messages are published again later.

        Raises:
            BrokerOutage: the broker does not accept a message.

        """
        moved = [Moved.of(each, self._exchange, self._key_of(each)) for each in messages]
        refusals = publish_all(self._connection, moved)
        if refusals:
            msg = (
                f"broker: {counted(len(refusals), 'message')} cannot be moved to"
                f" '{self._exchange or self._key}': {refusals[0].reason}"
            )
            raise BrokerOutage(msg)

    def _key_of(self, message: Any) -> str:
        return self._key or str(message.delivery_info["routing_key"])
