"""The subscriptions of a consumer: which queues it reads now, and for which it must still wait.

A consumer reads its own queue. After a change of the ring, it also reads its share of the *old
queues*, the queues of the ring before the change, until they are empty.

A shard has one reader at a time, and so has a queue with `order_by`: otherwise the records of a key
could be handled out of order. If another consumer reads such a queue, this consumer subscribes
later, or the broker delivers nothing to it until the other consumer has ended. If the queue has
`order_by`, its *waiting queue* is read, too: the queue with the failed records, and the later
records of their keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amqp.exceptions import NotFound

from feedbus import broker
from feedbus.errors import BrokerOutage
from feedbus.generations.consumer_queues import ReadableQueue
from feedbus.runner.misplacement_check import MisplacementCheck
from feedbus.runner.queue_reader import QueueReader
from feedbus.runner.run_state import Run
from feedbus.wire import Delivery
from feedbus.wire.amqp_protocols import Connection

LARGEST_PREFETCH_FOR_BATCH = 1000  # a larger batch size does not raise the prefetch further


class Subscriptions:
    """The queues that the consumer of this process reads now.

    A run has one Subscriptions object, for all its connections.

    Attributes:
        readers: maps the consumer tag of each subscription to the reader of its queue.
        unsubscribed: the queues that are to be read, and have no subscription yet.
        cancelled: the tags of the subscriptions that the broker has cancelled. If it has cancelled
            the subscription to a waiting queue, the list has the tag of the subscription to the
            queue that is read with this waiting queue.

    """

    def __init__(self, run: Run, misplacement_check: MisplacementCheck) -> None:
        """Start without queues.

        Args:
            run: the run of the consumer. Its buffer receives the deliveries.
            misplacement_check: knows which shard owns which key.

        """
        self._run = run
        self._misplacement_check = misplacement_check
        self.readers: dict[str, QueueReader] = {}
        self.unsubscribed: list[ReadableQueue] = []
        self.cancelled: list[str] = []
        self._separates_generations = False

    def begin(self, queues: Sequence[ReadableQueue], *, separate_generations: bool) -> None:
        """Forget all queues of an earlier connection, and take over the queues to read from now on.

        QueuesToRead calls this for each new connection.

        Args:
            queues: the queues to read.
            separate_generations: whether the buffer keeps the deliveries of each generation in a
                separate lane. The lanes take turns, so a long old queue does not delay new records.

        """
        self.readers = {}
        self.unsubscribed = list(queues)
        self.cancelled = []
        self._separates_generations = separate_generations
        self._run.buffer.clear()

    # -- subscribe -------------------------------------------------------------------------------

    def subscribe(self, connection: Connection) -> None:
        """Subscribe to the queues without a subscription, except those that other consumers read.

        This method is called often, until each queue has a subscription.

        Args:
            connection: the connection of the consumer.

        Raises:
            BrokerOutage: a queue belongs to another system, and another program reads it
                exclusively.
            NotFound: the queue of this consumer does not exist.

        """
        self.unsubscribed = [
            each for each in self.unsubscribed if not self._subscribe(connection, each)
        ]

    def _subscribe(self, connection: Connection, source: ReadableQueue) -> bool:
        """Subscribe to a queue and to its waiting queue.

        Returns:
            False if this must be tried again later, usually because another consumer reads one of
            the queues. True also for an old queue that was deleted, because nothing is left to
            read.

        """
        if source.only_without_reader:
            readers = broker.count_consumers(connection, source.queue)
            if readers is None:
                return True
            if readers:
                return False
        tag = f"{self._run.consumer.name}.{source.queue}"
        try:
            if not self._open_waiting_queue(connection, source, tag):
                return False
            reader = self._begin_reader(connection, source, tag)
        except NotFound:
            if not source.only_without_reader:
                raise
            return True  # the old queue was deleted meanwhile
        if reader is None:
            self._refuse_unless_shared(source)
            return False
        self.readers[tag] = reader
        # Another process may have read the queue until now. That process may have left messages in
        # the outbox.
        self._run.dispatch.calls.query_outbox_again()
        self._run.limits.restart_idle_time(self._run.clock.monotonic())
        return True

    def _open_waiting_queue(self, connection: Connection, source: ReadableQueue, tag: str) -> bool:
        """Read the waiting queue of a queue; return False if this must be tried again later.

        Without `order_by`, there is no waiting queue, and the result is True.
        """
        waiting = self._run.waiting
        return waiting is None or waiting.open(
            connection, source.queue, tag, self.cancelled.append, source.generation_number
        )

    def _begin_reader(
        self, connection: Connection, source: ReadableQueue, tag: str
    ) -> QueueReader | None:
        """Subscribe to a queue; return None if the broker refuses it because of another consumer.

        Raises:
            NotFound: the queue was deleted. Its waiting queue is then deleted, too, if it is empty.

        """
        queue = self._run.consumer.queue
        if self._separates_generations:
            self._run.buffer.assign_lane(tag, source.generation_number)
        try:
            return QueueReader.begin(
                connection,
                source,
                tag=tag,
                prefetch=max(queue.prefetch, min(queue.batch.size, LARGEST_PREFETCH_FOR_BATCH)),
                pause_seconds=broker.in_flight_seconds(self._run.topology),
                on_message=self._on_message,
                on_cancel=self.cancelled.append,
            )
        except NotFound:
            if self._run.waiting is not None:
                self._run.waiting.delete(tag)
            raise

    def _refuse_unless_shared(self, source: ReadableQueue) -> None:
        """Raise BrokerOutage if a queue belongs to another system.

        This method is called when the broker has refused the subscription: another program reads
        the queue exclusively.
        """
        if self._run.consumer.queue.external_name:
            msg = (
                f"broker: another program consumes the external queue '{source.queue}' exclusively;"
                " end it, or let it share the queue"
            )
            raise BrokerOutage(msg)

    # -- deliveries ------------------------------------------------------------------------------

    def _on_message(self, message: Any) -> None:
        now, delivery = self._run.clock.monotonic(), Delivery.of(message)
        reader = self.readers.get(delivery.consumer_tag)
        if reader is not None and not reader.has_delivered:
            # With a single active consumer, another process may have continued to read the queue
            # after this process subscribed. That process may have left messages in the outbox.
            reader.has_delivered = True
            self._run.dispatch.calls.query_outbox_again()
        self._run.buffer.add(delivery, now)
        self._run.limits.restart_idle_time(now)

    def settle(
        self, consumer_tag: str, delivery_tags: Sequence[int], *, one_by_one: bool = False
    ) -> None:
        """Acknowledge deliveries of a subscription, unless the subscription has ended.

        The batch mode calls this after each batch.

        Args:
            consumer_tag: the tag of the subscription.
            delivery_tags: the tags of the deliveries, in the order of arrival.
            one_by_one: True if an earlier delivery is not handled yet, so that it must not be
                acknowledged together with these deliveries.

        """
        reader = self.readers.get(consumer_tag)
        if reader is None:
            return
        if one_by_one:
            reader.settle_each(delivery_tags)
        else:
            reader.settle_up_to(delivery_tags[-1])

    def check_placement(self, delivery: Delivery) -> None:
        """Count a delivery as misplaced if it came to a shard that does not own its key.

        This method is called with the first delivery of each batch.

        Args:
            delivery: the delivery to check.

        """
        reader = self.readers.get(delivery.consumer_tag)
        if reader is not None:
            self._misplacement_check.check(reader.queue, delivery)

    # -- stop reading ----------------------------------------------------------------------------

    def stop_reading(self, tag: str) -> None:
        """Stop reading a queue and its waiting queue.

        The broker returns the unsettled deliveries to the queues, unless a queue was deleted. This
        method is called when an old queue was deleted, or when all deliveries are returned.

        Args:
            tag: the consumer tag of the subscription to the queue.

        """
        self._close_reader(tag)
        self.close_waiting_queue(tag)

    def leave_to_others(self, tag: str) -> None:
        """Stop reading a queue; the caller then calls close_waiting_queue() for its waiting queue.

        Before that call, the caller can finish the records that are being handled. If the queue is
        an old queue, this consumer subscribes again when no other consumer reads the queue.

        This method is called when another consumer reads an old queue, too, or the broker has
        cancelled the subscription.

        Args:
            tag: the consumer tag of the subscription to the queue.

        """
        reader = self._close_reader(tag)
        if reader is not None and reader.source.only_without_reader:
            self.unsubscribed.append(reader.source)

    def _close_reader(self, tag: str) -> QueueReader | None:
        """End a subscription, and remove its deliveries from the buffer; return its reader."""
        reader = self.readers.pop(tag, None)
        if reader is not None:
            reader.close()
        self._run.buffer.remove(tag)
        return reader

    def close_waiting_queue(self, tag: str) -> None:
        """Stop reading the waiting queue of a queue.

        This method is called when the consumer has stopped reading the queue itself.

        Args:
            tag: the consumer tag of the subscription to the queue that has this waiting queue.

        """
        if self._run.waiting is not None:
            self._run.waiting.close(tag)

    def return_deliveries(self) -> None:
        """Return all unsettled deliveries to the broker; all queues are to be read again.

        The runner calls this when the broker's consumer timeout would expire.

        Each channel is closed without cancelling its subscription first. After a cancel, the broker
        would deliver later messages to the next consumer. The unsettled messages return to the
        queue only when the channel is closed, so the next consumer would get them too late.
        """
        sources = [reader.source for reader in self.readers.values()]
        for tag in list(self.readers):
            self.stop_reading(tag)
        self.unsubscribed = [*sources, *self.unsubscribed]

    def close(self) -> None:
        """Stop reading all queues, at the end of a connection or of the run."""
        for reader in self.readers.values():
            reader.close()
        if self._run.waiting is not None:
            self._run.waiting.close()
        # The deliveries in the buffer are in their queues again, because their channels are closed.
        self._run.buffer.clear()
