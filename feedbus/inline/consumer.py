"""A consumer without a process: each call handles one batch with the runner's dispatch."""

from __future__ import annotations

import math
from typing import Any

from feedbus.bus.sender import Sender
from feedbus.clock import Clock
from feedbus.dispatch import Dispatch
from feedbus.errors import Outage
from feedbus.handling.resources import Resources
from feedbus.handling.routes import HandlerRoutes
from feedbus.metrics import ConsumerMetrics
from feedbus.runner.buffer import Buffer
from feedbus.runner.waiting_queues import WaitingQueues
from feedbus.store import Store, refusing_autocommit
from feedbus.topology import Consumer, Queue, Topology
from feedbus.wire import Delivery
from feedbus.wire.amqp_protocols import Connection


class InlineConsumer:
    """Reads the queue of one consumer of an InlineSystem; each call of handle() handles one batch.

    Args:
        topology: the topology.
        consumer: the consumer.
        handlers: the handlers of its queue.
        sender: sends the messages of the handlers, retries and dead letters.
        metrics: the metrics of the consumer.
        store: the store to which the handlers' effects commit.
        resources: the values that handlers can request.
        clock: the clock of the system.
        connection: the connection from which the messages arrive.
        queue: the name of the queue on the broker.
    """

    def __init__(  # noqa: PLR0913 -- a consumer's parts, each given by name
        self,
        topology: Topology,
        consumer: Consumer,
        handlers: HandlerRoutes,
        *,
        sender: Sender,
        metrics: ConsumerMetrics,
        store: Store,
        resources: Resources,
        clock: Clock,
        connection: Connection,
        queue: str,
    ) -> None:
        """Create the object, and subscribe to the consumer's queue.

        Args:
            topology: the topology of the system.
            consumer: the consumer.
            handlers: the handlers of the consumer's queue.
            sender: publishes the messages of the handlers.
            metrics: counts the deliveries.
            store: the store in whose transactions handlers run.
            resources: the objects that handlers share.
            clock: determines when retries are due.
            connection: the connection of all consumers to the broker of the system.
            queue: the name of the consumer's queue on the broker.

        """
        self._consumer = consumer
        self._clock = clock
        self._buffer = Buffer()
        self._resources = resources
        self._store = store
        self._dispatch = Dispatch(
            topology,
            consumer,
            handlers,
            sender,
            metrics=metrics,
            store=store,
            resources=resources,
        )
        deliveries = self._dispatch.waiting_deliveries
        self._waiting: WaitingQueues | None = None
        if deliveries is not None:
            self._waiting = WaitingQueues(
                topology, consumer, deliveries, report=lambda _: None, on_count=lambda _: None
            )
        self._connection, self._queue = connection, queue
        self._subscribe_waiting()
        self._channel = connection.channel()
        self._channel.auto_decode = False
        settings = consumer.queue
        self._channel.basic_qos(0, max(settings.prefetch, min(settings.batch.size, 1000)), False)
        self._channel.basic_consume(queue, consumer_tag=consumer.name, callback=self._on_message)

    def _subscribe_waiting(self) -> None:
        """Subscribe to the waiting queue, if the consumer has one."""
        if self._waiting is not None:
            self._waiting.open(self._connection, self._queue, self._consumer.name, lambda _: None)

    def _on_message(self, message: Any) -> None:
        self._buffer.add(Delivery.of(message), self._clock.monotonic())

    @property
    def has_work(self) -> bool:
        """Whether handle() can handle a batch now."""
        return (bool(self._buffer) and not self._full()) or self.seconds_until_due() <= 0

    def seconds_until_due(self) -> float:
        """Return the seconds until a record of the waiting queue is due; infinity if none waits.

        The waiting queue has the failed records, and the later records of their keys.
        """
        return self._waiting.seconds_until_due() if self._waiting is not None else math.inf

    @property
    def retrying(self) -> int:
        """The number of failed records that wait for their next attempt."""
        deliveries = self._dispatch.waiting_deliveries
        return deliveries.records.counts().retrying if deliveries is not None else 0

    @property
    def queue(self) -> Queue:
        """The queue of topology.toml that the consumer reads.

        For a shard, it is the table [queues.NAME] that all shards share.
        """
        return self._consumer.queue

    def _full(self) -> bool:
        """Whether `waiting_limit` is reached: then only waiting records are handled."""
        return self._waiting is not None and self._waiting.has_reached_limit()

    def handle(self) -> int:
        """Handle one batch and settle it; return the number of its deliveries.

        Records of the waiting queue that are due come first. Call this method only if has_work is
        true: then there is a batch.

        Raises:
            Outage: the handler or the store raised it, or a resource cannot be opened. All
                deliveries of this consumer return to their queues, and arrive again.

        """
        size = self._consumer.queue.batch.size
        # The functions return False: no message is suspected of having ended an earlier process,
        # because the messages are lost when this process ends.
        batch = self._waiting.take(size, lambda _: False) if self._waiting is not None else []
        from_waiting_queue = bool(batch)
        batch = batch or self._buffer.take(size, math.inf, lambda _: False)
        try:
            with refusing_autocommit(self._store, self._consumer.queue):
                self._resources.open()
                self._dispatch.handle(batch)
        except Outage as error:
            self._resources.close_at_next_open(error)
            self._buffer.clear()
            if self._waiting is not None:
                self._waiting.close()
                self._subscribe_waiting()
            self._channel.basic_recover(requeue=True)
            raise
        if not from_waiting_queue:
            self._channel.basic_ack(batch[-1].tag, multiple=True)
        if self._waiting is not None:
            self._waiting.settle(batch)
        return len(batch)
