"""The part of a channel that delivers messages and settles deliveries."""

# ruff: noqa: ARG002, FBT001, FBT002 -- the signatures are py-amqp's

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from amqp.exceptions import (
    AccessRefused,
    AMQPNotImplementedError,
    NotAllowed,
    PreconditionFailed,
)

from feedbus.transports.sqlite import delivery_owners, queued_messages, queues
from feedbus.transports.sqlite.base_channel import BaseChannel, Unsettled
from feedbus.transports.sqlite.consumers import Arrival, Consumer
from feedbus.transports.sqlite.message_conversion import unpack
from feedbus.transports.sqlite.routing import Queue
from feedbus.transports.sqlite.transactions import Transaction


class ConsumingChannel(BaseChannel):
    """The part of a channel with the AMQP methods that consume messages and settle deliveries.

    A message is *claimed* when the connection has taken it from its queue for a consumer. The
    message is delivered later, when events are drained.
    """

    def basic_qos(
        self,
        prefetch_size: int = 0,
        prefetch_count: int = 0,
        a_global: bool = False,
    ) -> None:
        """Limit the unsettled deliveries of each later consumer, or of the whole channel.

        Args:
            prefetch_size: must be 0, as on RabbitMQ.
            prefetch_count: the largest number of unsettled deliveries; 0 for no limit.
            a_global: True for one limit of the whole channel; False for a limit of each consumer
                that is started later.

        Raises:
            AMQPNotImplementedError: prefetch_size is not 0.
        """
        if prefetch_size:
            msg = "NOT_IMPLEMENTED - prefetch_size!=0"
            raise AMQPNotImplementedError(msg, (60, 10))
        if a_global:
            self._group.shared_prefetch = prefetch_count
            self._link.wake_event_loop()  # there may be room for more deliveries
        else:
            self._prefetch = prefetch_count

    def basic_consume(
        self,
        queue: str = "",
        consumer_tag: str = "",
        no_local: bool = False,
        no_ack: bool = False,
        exclusive: bool = False,
        nowait: bool = False,
        callback: Callable[[Any], None] | None = None,
        arguments: Mapping[str, Any] | None = None,
        on_cancel: Callable[[str], None] | None = None,
    ) -> str:
        """Start a consumer, and return its tag; its callback is called when events are drained.

        Args:
            queue: the name of the queue.
            consumer_tag: the tag; "" for a random one.
            no_local: ignored, as by RabbitMQ.
            no_ack: whether messages are settled when they are claimed, without an acknowledgement.
            exclusive: whether the queue may have no other consumer.
            nowait: ignored.
            callback: called with each amqp Message; None to ignore messages.
            arguments: ignored.
            on_cancel: called with the tag if the queue is deleted; None to raise ConsumerCancelled.

        Raises:
            NotFound: there is no such queue.
            AccessRefused: an exclusive consumer has the queue, or `exclusive` is set and the queue
                has a consumer.
            ResourceLocked: the queue is exclusive to another connection.
            NotAllowed: a consumer of this channel has the same tag.
        """
        link = self._link
        tag = consumer_tag or f"amq.ctag-{link.unique()}"
        owner = link.register()
        with self._method() as tx:
            if tag in self._group.consumers:
                msg = f"NOT_ALLOWED - attempt to reuse consumer tag '{tag}'"
                raise NotAllowed(msg, (60, 20))
            # An exclusive consumer of a dead connection must not prevent another consumer.
            delivery_owners.remove_dead(tx, link.liveness, owner)
            found_queue = queues.find_queue(tx, queue, owner, (60, 20))
            self._check_exclusive(tx, found_queue, exclusive=exclusive)
            (consumer_id,) = tx.execute(
                "INSERT INTO consumers (queue, owner, tag, exclusive) VALUES (?,?,?,?)"
                " RETURNING id",
                (found_queue.id, owner, tag, exclusive),
            ).fetchone()
            tx.owners_changed = True
        consumer = Consumer(
            consumer_id,
            self._group,
            self.deliver,
            found_queue.id,
            tag,
            no_ack,
            self._prefetch,
            found_queue.single_active,
            callback,
            on_cancel,
        )
        self._group.consumers[tag] = self._claimed.consumers[consumer_id] = consumer
        if no_ack:
            self.no_ack_consumers.add(tag)
        return tag

    def _check_exclusive(self, tx: Transaction, queue: Queue, *, exclusive: bool) -> None:
        rows = tx.execute("SELECT exclusive FROM consumers WHERE queue = ?", (queue.id,)).fetchall()
        if any(is_exclusive for (is_exclusive,) in rows) or (exclusive and rows):
            msg = f"ACCESS_REFUSED - queue '{queue.name}' in vhost '/' in exclusive use"
            raise AccessRefused(msg, (60, 20))

    def basic_cancel(self, consumer_tag: str, nowait: bool = False) -> None:
        """End a consumer, after its callback has received the messages that were claimed for it.

        On RabbitMQ, too, deliveries that are on their way arrive before the answer to the cancel.
        The program must still settle the deliveries that the callback has received. An unknown tag
        is ignored.

        Args:
            consumer_tag: the tag of the consumer.
            nowait: ignored.
        """
        link = self._link
        consumer = self._group.consumers.get(consumer_tag)
        if consumer is None or consumer.cancelling or link.owner is None:
            return
        consumer.cancelling = True  # the callback may cancel the consumer again
        try:
            self._claimed.deliver_all(consumer)
        finally:
            self._end(consumer)

    def _end(self, consumer: Consumer) -> None:
        link = self.connection
        if link is None or link.owner is None or consumer.id not in self._claimed.consumers:
            return  # a callback has closed the channel
        unseen = self._claimed.forget(consumer)
        with self._method() as tx:
            queued_messages.put_back(tx, link.owner, unseen, delivered=False)
            delivery_owners.end_consumer(tx, consumer.id)

    def deliver(self, arrival: Arrival, consumer: Consumer) -> None:
        """Call the consumer's callback with a claimed message.

        Connection.drain_events() calls this method.
        """
        message = self._open(arrival, consumer)
        message.delivery_info["consumer_tag"] = consumer.tag
        if consumer.callback is not None:
            consumer.callback(message)

    def _open(self, arrival: Arrival, consumer: Consumer | None) -> Any:
        if arrival.content is None:
            msg = "a message without content was to be delivered"
            raise RuntimeError(msg)
        message = unpack(*arrival.content, channel=self)
        self._last_tag += 1
        message.delivery_info |= {
            "delivery_tag": self._last_tag,
            "redelivered": arrival.returns > 0,
        }
        if arrival.returns and arrival.counted:
            headers = message.properties.setdefault("application_headers", {})
            headers["x-delivery-count"] = arrival.returns
        if not arrival.no_ack:
            self._unsettled[self._last_tag] = Unsettled(arrival.message, consumer)
        return message

    def basic_get(self, queue: str = "", no_ack: bool = False) -> Any:
        """Return one message of a queue as an amqp Message, or None if the queue is empty.

        Args:
            queue: the name of the queue.
            no_ack: whether the message is settled immediately, without an acknowledgement.

        Raises:
            NotFound: there is no such queue.
            ResourceLocked: the queue is exclusive to another connection.
        """
        owner = self._link.register()
        with self._method() as tx:
            found_queue = queues.find_queue(tx, queue, owner, (60, 70))
            queues.touch(tx, found_queue)
            claimed = queued_messages.claim(tx, found_queue, owner, 1, 1)
            if not claimed:
                return None
            ((message, returns),) = claimed
            content = queued_messages.content_of(tx, message)
            if no_ack:
                queued_messages.settle(tx, owner, [message])
            ready_count = tx.depth(found_queue.id)
        arrival = Arrival(None, message, returns, found_queue.quorum, no_ack, content)
        got = self._open(arrival, None)
        got.delivery_info["message_count"] = ready_count
        return got

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """Acknowledge a delivery; with `multiple`, also all earlier deliveries of this channel.

        Args:
            delivery_tag: the tag of the delivery. If `multiple` is set, 0 means all deliveries of
                the channel.
            multiple: whether earlier deliveries are acknowledged, too.

        Raises:
            PreconditionFailed: the channel has no unsettled delivery with this tag.
            RecoverableConnectionError: this connection was treated as dead, and the delivery was
                given to another one.
        """
        self._acknowledge(lambda: self._tags(delivery_tag, multiple=multiple))

    def ack_together(self, delivery_tags: Sequence[int]) -> None:
        """Acknowledge only the deliveries with these tags, in one transaction.

        Only one process can write at a time, so each transaction may have to wait. So one
        transaction is faster than one basic_ack() for each delivery.

        Raises:
            PreconditionFailed: the channel has no unsettled delivery with one of these tags.
            RecoverableConnectionError: this connection was treated as dead, and the deliveries were
                given to another one.
        """
        self._acknowledge(
            lambda: [tag for each in delivery_tags for tag in self._tags(each, multiple=False)]
        )

    def _acknowledge(self, find_tags: Callable[[], list[int]]) -> None:
        with self._method() as tx:
            tags = find_tags()  # an unknown tag is an AMQP error, which _method() handles
            messages = [self._unsettled[tag].message for tag in tags]
            owner = self._link.owner or 0
            settled_count = queued_messages.settle(tx, owner, messages)
            removed = settled_count < len(messages) and not delivery_owners.is_registered(tx, owner)
        self._count_settled(tags)
        if removed:  # other connections have treated this connection as dead
            self._link.lose_registration()

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        """Return a delivery to its position in the queue (requeue), or dead-letter it.

        Raises:
            PreconditionFailed: the channel has no unsettled delivery with this tag.
            RecoverableConnectionError: this connection was treated as dead, and the delivery was
                given to another one.
        """
        with self._method() as tx:
            tags = self._tags(delivery_tag, multiple=False)
            message = self._unsettled[delivery_tag].message
            owner = self._link.owner or 0
            if requeue:
                was_unsettled = bool(queued_messages.put_back(tx, owner, [message]))
            else:
                was_unsettled = queued_messages.reject(tx, owner, message)
            removed = not was_unsettled and not delivery_owners.is_registered(tx, owner)
        self._count_settled(tags)
        if removed:  # other connections have treated this connection as dead
            self._link.lose_registration()

    def flow(self, active: bool) -> None:
        """Accept active=True, the normal state; RabbitMQ cannot stop the flow of a channel either.

        Raises:
            AMQPNotImplementedError: active is False.
        """
        if not active:
            msg = "NOT_IMPLEMENTED - active=false"
            raise AMQPNotImplementedError(msg, (20, 20))

    def basic_recover(self, requeue: bool = False) -> None:
        """Return all unsettled deliveries of this channel to their positions in their queues.

        Raises:
            AMQPNotImplementedError: requeue is False, which RabbitMQ does not implement either.
        """
        with self._method() as tx:
            if not requeue:
                msg = "NOT_IMPLEMENTED - requeue=false"
                raise AMQPNotImplementedError(msg, (60, 110))
            tags = list(self._unsettled)
            messages = [self._unsettled[tag].message for tag in tags]
            queued_messages.put_back(tx, self._link.owner or 0, messages)
        self._count_settled(tags)

    def _tags(self, delivery_tag: int, *, multiple: bool) -> list[int]:
        if multiple and not delivery_tag:
            return list(self._unsettled)
        if delivery_tag not in self._unsettled:
            msg = f"PRECONDITION_FAILED - unknown delivery tag {delivery_tag}"
            raise PreconditionFailed(msg, (60, 80))
        if not multiple:
            return [delivery_tag]
        return [tag for tag in self._unsettled if tag <= delivery_tag]

    def _count_settled(self, tags: list[int]) -> None:
        for tag in tags:
            consumer = self._unsettled.pop(tag).consumer
            if consumer is not None:
                consumer.unsettled_count -= 1
