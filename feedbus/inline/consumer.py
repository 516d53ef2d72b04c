"""A consumer that handles when it is asked to: its deliveries go to the runner's own dispatch."""

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
from feedbus.store import Store
from feedbus.topology import Consumer, Topology
from feedbus.wire import Delivery
from feedbus.wire.amqp import Connection


class InlineConsumer:
    """Reads one consumer's queue, and handles a batch whenever it is asked to."""

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
        """Subscribe to a queue of the broker."""
        self._consumer = consumer
        self._clock = clock
        self._buffer = Buffer()
        self._resources = resources
        self._dispatch = Dispatch(
            topology,
            consumer,
            handlers,
            sender,
            metrics=metrics,
            store=store,
            resources=resources,
        )
        self._channel = connection.channel()
        self._channel.auto_decode = False
        settings = consumer.queue
        self._channel.basic_qos(0, max(settings.prefetch, min(settings.batch.size, 1000)), False)
        self._channel.basic_consume(queue, callback=self._on_message)

    def _on_message(self, message: Any) -> None:
        self._buffer.add(Delivery.of(message), self._clock.monotonic())

    def __bool__(self) -> bool:
        """Whether deliveries wait to be handled."""
        return bool(self._buffer)

    def handle(self) -> int:
        """Handle one batch and settle it; return how many deliveries it had.

        Raises:
            Outage: the handler or the store says so, or a resource cannot be opened; everything
                that was delivered goes back.

        """
        batch = self._buffer.take(self._consumer.queue.batch.size, math.inf, lambda _: False)
        try:
            self._resources.open()
            self._dispatch.handle(batch)
        except Outage:
            self._buffer.clear()
            self._channel.basic_recover(requeue=True)
            raise
        self._channel.basic_ack(batch[-1].tag, multiple=True)
        return len(batch)
