"""Messages that a connection has claimed for its consumers and has not delivered yet.

A connection claims a message in the file first, so that no other connection delivers it. Later it
calls the callback of the consumer.
"""

from __future__ import annotations

import json
from collections import deque

from feedbus.transports.sqlite.consumers import Arrival, Consumer
from feedbus.transports.sqlite.delivery_owners import is_registered
from feedbus.transports.sqlite.queued_messages import claim, content_of, settle
from feedbus.transports.sqlite.registered_connection import RegisteredConnection
from feedbus.transports.sqlite.transactions import Transaction

LOADED_AT_ONCE = 50  # the number of messages whose bodies are loaded into memory before delivery


class ClaimedMessages:
    """Claims messages for the consumers of one connection, as many as their prefetch allows.

    It delivers the claimed messages one by one to the callbacks of their consumers.

    Args:
        link: the connection that claims the messages.
    """

    def __init__(self, link: RegisteredConnection) -> None:
        """Create the object without consumers."""
        self.consumers: dict[int, Consumer] = {}
        self._link = link
        self._arrivals: deque[Arrival] = deque()
        self._next_consumer = 0

    def undelivered_ids(self) -> list[int]:
        """Return the ids of the claimed messages that no callback has received.

        Messages of consumers that do not acknowledge are not included: they are already settled.
        """
        return [arrival.message for arrival in self._arrivals if not arrival.no_ack]

    def clear(self) -> None:
        """Forget all claimed messages and consumers, because the connection is closed or lost."""
        self.consumers.clear()
        self._arrivals.clear()

    def forget(self, consumer: Consumer) -> list[int]:
        """Remove a consumer; return the ids of its claimed messages that were not delivered.

        The caller returns these messages to their queue.
        """
        self.consumers.pop(consumer.id, None)
        consumer.group.consumers.pop(consumer.tag, None)
        undelivered = [
            arrival.message
            for arrival in self._arrivals
            if arrival.consumer is consumer and not arrival.no_ack
        ]
        self._arrivals = deque(
            arrival for arrival in self._arrivals if arrival.consumer is not consumer
        )
        return undelivered

    def fetch(self) -> bool:
        """Claim messages up to the prefetch of the consumers; return whether any was claimed.

        Raises:
            RecoverableConnectionError: other connections have treated this connection as dead.
            FileUnavailable: the broker's tables cannot be written.
        """
        free_consumers = [
            consumer
            for consumer in self.consumers.values()
            if consumer.free_count() and self._has_messages(consumer)
        ]
        if not free_consumers or self._link.owner is None:
            return False
        self._next_consumer += 1  # each time, another consumer claims first
        first = self._next_consumer % len(free_consumers)
        arrivals: list[Arrival] = []
        unsettled_counts = [consumer.unsettled_count for consumer in free_consumers]
        try:
            with self._link.write() as tx:
                entered = is_registered(tx, self._link.owner)
                for consumer in free_consumers[first:] + free_consumers[:first] if entered else ():
                    claimed = self._claim(tx, consumer)
                    consumer.unsettled_count += 0 if consumer.no_ack else len(claimed)
                    arrivals += claimed
        except BaseException:
            for consumer, before in zip(free_consumers, unsettled_counts, strict=True):
                consumer.unsettled_count = before
            raise
        if not entered:
            self._link.lose_registration()
        self._arrivals.extend(arrivals)
        return bool(arrivals)

    def _has_messages(self, consumer: Consumer) -> bool:
        if not self._link.tables.read(
            "SELECT 1 FROM ready WHERE queue = ? LIMIT 1", (consumer.queue_id,)
        ):
            return False
        if not consumer.single_active:
            return True
        ((active,),) = self._link.tables.read(
            "SELECT min(id) FROM consumers WHERE queue = ?", (consumer.queue_id,)
        )
        return bool(active == consumer.id)

    def _claim(self, tx: Transaction, consumer: Consumer) -> list[Arrival]:
        queue = tx.routes.queues_by_id.get(consumer.queue_id)
        if queue is None or self._link.owner is None:
            return []
        consumer_count, first, is_there = tx.execute(
            "SELECT count(*), min(id), max(id = ?) FROM consumers WHERE queue = ?",
            (consumer.id, queue.id),
        ).fetchone()
        if not is_there:  # the broker has ended this consumer
            return []
        if queue.single_active:
            if first != consumer.id:
                return []
            consumer_count = 1
        room = consumer.free_count()
        claimed = claim(tx, queue, self._link.owner, room, consumer_count) if room else []
        arrivals = [
            Arrival(consumer, message, returns, queue.quorum, consumer.no_ack)
            for message, returns in claimed
        ]
        if consumer.no_ack:
            for arrival in arrivals:
                arrival.content = content_of(tx, arrival.message)
            settle(tx, self._link.owner, [message for message, _ in claimed])
        return arrivals

    def deliver_next(self) -> bool:
        """Call a consumer's callback with the next claimed message; return False if there is none.

        It is called when events are drained.
        """
        while self._arrivals:
            if self._arrivals[0].content is None:
                self._load_bodies()
            arrival = self._arrivals.popleft()
            if arrival.consumer is None:
                continue
            if arrival.content is None:  # the message's queue was deleted meanwhile
                arrival.consumer.unsettled_count -= not arrival.no_ack
                continue
            arrival.consumer.deliver(arrival, arrival.consumer)
            return True
        return False

    def deliver_all(self, consumer: Consumer) -> None:
        """Call a consumer's callback with all messages that are claimed for it.

        It is called when the consumer ends.
        """
        self._arrivals = deque(
            sorted(self._arrivals, key=lambda arrival: arrival.consumer is not consumer)
        )
        while self._arrivals and self._arrivals[0].consumer is consumer:
            self.deliver_next()

    def _load_bodies(self) -> None:
        near = {
            arrival.message: arrival
            for arrival, _ in zip(self._arrivals, range(LOADED_AT_ONCE), strict=False)
            if arrival.content is None
        }
        for message, *content in self._link.tables.read(
            "SELECT id, exchange, routing_key, properties, body FROM messages"
            " WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(near)),),
        ):
            near[message].content = tuple(content)
