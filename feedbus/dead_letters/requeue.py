"""Send dead letters back to their own queue, and to no other queue."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

from amqp.exceptions import AccessRefused, ChannelError, NotFound

from feedbus import broker
from feedbus.broker.channels import short_channel
from feedbus.broker.refused_messages import raise_refused
from feedbus.broker_names import Names
from feedbus.bus.sender import Sender
from feedbus.dead_letters.letters import DeadLetter
from feedbus.errors import BrokerOutage, InvalidBody, Outage, UsageError
from feedbus.generations import state_queues
from feedbus.logs import EventLog
from feedbus.records.packs import decode
from feedbus.records.payloads import encode_payload
from feedbus.ring import Ring
from feedbus.topology import Queue, Topology
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Channel, Connection
from feedbus.wire.constants import JSON, KEY, PACK, REQUEUED, UNIDENTIFIED
from feedbus.wire.derived_ids import is_id
from feedbus.wire.failed_messages import of_record, sent_back

events = EventLog(__name__)

LOCK_SECONDS = 0.5  # how long the topology's lock is held, to requeue several dead letters

WaitingQueueOfKey = Callable[[str], str]


class Requeue:
    """Publishes a queue's dead letters again, with no attempt counted, for `feedbus dead requeue`.

    The exchange depends on the queue:

    - For a queue with shards, it is the exchange of the queue. A dead letter reaches the shard that
      owns its key now.
    - For an external queue, it is the default exchange, because feedbus does not bind external
      queues.
    - For any other queue, it is a temporary exchange to which only this queue is bound. So a dead
      letter keeps its routing key, and no other queue gets it.

    With `block_on_dead`, records wait for a dead letter of their key. When their number reaches
    `waiting_limit`, the consumer handles no new messages of its queue. So it would never reach a
    dead letter that was published to the end of its queue. For this reason, dead letters of such a
    queue are published to the waiting queues instead. During and after a change of shards, the
    waiting queues of the keys are not known until the old queues are deleted. During this time,
    dead letters are published to the exchange.
    """

    def __init__(self, topology: Topology, queue: Queue) -> None:
        """Create the object for the dead letters of a queue; it connects at the first send()."""
        self._topology = topology
        self._sender = Sender(topology)
        self._names = Names(topology)
        self._queue = queue
        self._has_shards = topology.on_ring(queue)
        # If the queue has shards, this is the prefix of the names of their queues.
        self._queue_name = self._names.unsharded(queue)
        # The name of the exchange; "" until a temporary exchange is declared.
        self._exchange = self._names.exchange(queue.exchange) if self._has_shards else ""
        self._lock = contextlib.ExitStack()  # holds the topology's lock until it is closed
        self._locked_until = -math.inf
        self._waiting_queue: WaitingQueueOfKey | None = None  # valid while the lock is held

    def __enter__(self) -> Self:
        """Return this object; the end of the `with` block closes its connections."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock, delete the temporary exchange, and close the connections."""
        self._release()
        if self._exchange and not self._has_shards:
            with contextlib.suppress(Outage, ChannelError, OSError):
                self._sender.channel().exchange_delete(self._exchange)
        self._sender.close()

    def send(self, letter: DeadLetter) -> None:
        """Publish one dead letter again; return when the broker has confirmed it.

        The caller acknowledges the dead letter afterwards.

        Args:
            letter: a dead letter of the queue.

        Raises:
            BrokerOutage: the broker is unavailable.
            PublishError: the broker did not accept the dead letter.
            UsageError: the queue does not exist, or another process holds the topology's lock.

        """
        try:
            self._publish(letter)
        except BrokerOutage:
            if not self._has_lost_exchange():
                raise
            self._publish(letter)  # it declares another temporary exchange

    def _has_lost_exchange(self) -> bool:
        """Whether the temporary exchange was deleted; if so, forget it.

        `feedbus apply` deletes exchanges that the topology does not have.
        """
        if not self._exchange or self._has_shards:
            return False
        connection = self._sender.channel().connection
        if broker.exchange_exists(connection, self._exchange):
            return False
        self._exchange = ""
        return True

    def _publish(self, letter: DeadLetter) -> None:
        messages = self._messages(letter)
        if self._queue.block_on_dead:
            messages = [_with_id(each, letter.message_id) for each in messages]
            messages = self._send_to_waiting_queues(messages, letter)
        refusals = self._sender.send(messages)
        repeated = [_reduced(each.message) for each in refusals if each.is_permanent]
        if repeated:
            refusals = [each for each in refusals if not each.is_permanent] + self._sender.send(
                repeated
            )
        raise_refused(refusals)

    def _send_to_waiting_queues(
        self, messages: Sequence[Outgoing], letter: DeadLetter
    ) -> Sequence[Outgoing]:
        """Publish messages to the waiting queues of their keys.

        Returns:
            The messages that were not published, because their waiting queue is not known, does
            not exist, or refuses them.

        """
        if not self._has_shards:
            # The routing key of these messages can be the name of the queue (see _target()). So the
            # key of the dead letter is used.
            own = self._names.waiting(self._queue_name)
            return self._publish_to_waiting_queues(
                messages, [letter.key] * len(messages), lambda _: own
            )
        self._lock_ring()
        if self._waiting_queue is None:
            return messages
        keys = [each.routing_key for each in messages]
        return self._publish_to_waiting_queues(messages, keys, self._waiting_queue)

    def _lock_ring(self) -> None:
        """Take the topology's lock, and find out how keys are assigned to waiting queues.

        The result, `_waiting_queue`, returns the waiting queue of a key while the lock is held. It
        is None if the waiting queues of keys are not known.

        While this process has the lock, no switch begins. A later switch finds the dead letters
        in the waiting queues already. So consumers move them together with the records that wait
        behind them, and the order is kept.

        Taking the lock takes longer than sending a dead letter. So the lock is held for several
        dead letters, but not for long, because consumers and other commands need the lock.
        """
        topology = self._topology
        clock = broker.clock(topology)
        if clock.monotonic() < self._locked_until:
            return
        self._release()
        with contextlib.ExitStack() as lock:
            connection = lock.enter_context(broker.connect(topology))
            with broker.outage(connection, topology.broker_url):
                lock.enter_context(broker.locked(connection, topology))
                self._waiting_queue = self._waiting_queue_of_key(connection)
            self._lock = lock.pop_all()
        self._locked_until = clock.monotonic() + LOCK_SECONDS

    def _release(self) -> None:
        """Release the topology's lock, if it is held."""
        self._locked_until, self._waiting_queue = -math.inf, None
        with contextlib.suppress(Outage, ChannelError, OSError):
            self._lock.close()

    def _publish_to_waiting_queues(
        self,
        messages: Sequence[Outgoing],
        keys: Sequence[str],
        waiting_queue: WaitingQueueOfKey,
    ) -> list[Outgoing]:
        """Publish messages to the waiting queues of these keys; return the refused messages.

        Args:
            messages: the messages as they would be published to the exchange.
            keys: the keys of the messages, in the same order.
            waiting_queue: returns the name of the waiting queue of a key.

        """
        sent = [
            replace(
                each,
                exchange="",
                routing_key=waiting_queue(key),
                headers={**each.headers, KEY: key, REQUEUED: True},
            )
            for each, key in zip(messages, keys, strict=True)
        ]
        refused = {id(each.message) for each in self._sender.send(sent)}
        pairs = zip(messages, sent, strict=True)
        return [message for message, one in pairs if id(one) in refused]

    def _waiting_queue_of_key(self, connection: Connection) -> WaitingQueueOfKey | None:
        """Return a function that returns the waiting queue of a key; the caller holds the lock.

        Return None if the waiting queues of keys are not known. There are three cases:

        - A switch is not complete, or the old queues are not deleted yet.
        - The ring does not hash routing keys, or has no shards.
        - Keys reach shards that do not own them (RingState.disordered).
        """
        exchange = self._topology.exchanges[self._queue.exchange]
        with short_channel(connection) as channel:
            state = state_queues.read_locked(channel, self._topology, exchange.name)
        if state is None or state.draining or not state.switch_complete or state.disordered:
            return None
        if not state.current.members or not exchange.hashes_routing_keys:
            return None
        ring, current = Ring.of(state.current.members), state.current
        return lambda key: self._names.waiting(self._names.member(current, ring.route(key)))

    def _messages(self, letter: DeadLetter) -> Sequence[Outgoing]:
        """Return the messages that requeue a dead letter: one, or one for each record of a pack."""
        delivery = letter.delivery
        exchange, key = self._target(letter.key)
        whole = sent_back(delivery, exchange, key, died_in=self._is_own)
        if self._queue.external_name:
            whole = replace(whole, headers={**whole.headers, KEY: letter.key})
        if delivery.content_type != PACK or not self._has_shards:
            return [whole]
        try:
            pack = decode(delivery.body, PACK, letter.message_id, letter.key)
        except InvalidBody:
            return [whole]
        # The records of the pack may now belong to different shards.
        return [
            replace(
                of_record(whole),
                routing_key=pack.key(index),
                body=encode_payload(pack.payload(index)),
                content_type=JSON,
                content_encoding="utf-8",
                message_id=pack.ids[index],
            )
            for index in range(len(pack))
        ]

    def _target(self, key: str) -> tuple[str, str]:
        """Return the exchange and the routing key with which a dead letter reaches only its queue.

        Args:
            key: the routing key with which the message was published.

        """
        if self._queue.external_name:
            return "", self._queue_name
        if not self._exchange:
            try:
                self._exchange = self._declare_exchange(self._sender.channel())
            except AccessRefused as error:
                events.warning(
                    "requeue_exchange_refused",
                    f"the broker refuses to declare an exchange for requeued messages:"
                    f" {error.reply_text}; dead letters of {self._queue.name} are requeued anyway,"
                    " but with the queue's name as their routing key; if the handler needs the"
                    " original key, allow the broker's user to configure exchanges with the prefix"
                    " of the project",
                    queue=self._queue.name,
                )
                return "", self._queue_name
        return self._exchange, key

    def _declare_exchange(self, channel: Channel) -> str:
        """Declare the temporary exchange, bind the queue to it, and return its name."""
        name = f"{self._queue_name}.requeue.{channel.connection.clock.unique()[:8]}"
        channel.exchange_declare(name, "fanout", durable=False, auto_delete=True)
        try:
            channel.queue_bind(self._queue_name, name, "")
        except NotFound as error:
            msg = (
                f"{self._queue.name}: the broker has no queue {self._queue_name}; `feedbus up`"
                " declares it"
            )
            raise UsageError(msg) from error
        return name

    def _is_own(self, queue: str) -> bool:
        """Whether a queue on the broker is the queue of the dead letters, or one of its shards.

        The broker notes in a message's headers which queues have dead-lettered it. A requeued
        message loses the notes about this queue and its shards.

        Args:
            queue: the name of a queue on the broker.

        """
        return queue == self._queue_name or (
            self._has_shards and queue.startswith(f"{self._queue_name}_")
        )


def _with_id(message: Outgoing, message_id: str) -> Outgoing:
    """Return a message with an id; a message without an id gets the id of the dead letter.

    By this id, the consumer finds the message that keeps the key blocked, in its waiting queue.
    """
    if is_id(message.message_id):
        return message
    return replace(message, message_id=message_id, headers={**message.headers, UNIDENTIFIED: True})


def _reduced(message: Outgoing) -> Outgoing:
    """Return a refused message without its user id and without the time of the requeue.

    send() publishes the result, because each of the two can be the cause: the broker refuses the
    user id of another user, and the header with the time may not fit into the frame.
    """
    kept = {name: value for name, value in message.properties.items() if name != "user_id"}
    return replace(message, properties=kept, stamp=None)
