"""A topology that runs in one thread; handle_ready() handles the published messages."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection
from typing import Any, Self

from feedbus import broker
from feedbus.broker import timer
from feedbus.broker_names import Names
from feedbus.bus import LiveBus
from feedbus.bus.sender import Sender
from feedbus.clock import VirtualClock
from feedbus.dead_letters import letters
from feedbus.dead_letters.letters import DeadLetter
from feedbus.errors import FeedbusError, UsageError
from feedbus.handling.handlers import Handler
from feedbus.handling.resources import Resources
from feedbus.inline import external_systems
from feedbus.inline.consumer import InlineConsumer
from feedbus.inline.loaded_projects import Project, on_broker, unused_name
from feedbus.store import Store
from feedbus.store.no_store import NoStore
from feedbus.topology import Consumer, Topology
from feedbus.transports import memory
from feedbus.units import counted
from feedbus.wire.amqp_protocols import RawConnection
from feedbus.wire.constants import ATTEMPT, TIMER_TARGET

MOST_DELIVERIES = 100_000  # the default limit of handle_ready()


class NeverDone(FeedbusError):  # noqa: N818 -- clear without "Error"
    """Raised by handle_ready(), run() and advance() after many deliveries, which may never end.

    For example, handlers publish to each other without end, or a record fails again and again.
    """


def _as_it_is(handler: Handler, _: Consumer) -> Handler:
    return handler


class InlineSystem:
    """The exchanges, queues and consumers of a topology, on a separate broker in memory.

    Messages are routed, validated, handled, retried and dead-lettered by the same code as in the
    consumers' processes. Time is virtual: a retry waits until the clock is advanced. The system has
    no messages at first. When it is closed, the remaining messages are lost. Each TestSystem object
    has one InlineSystem object.

    Args:
        project: the topology and its handlers.
        store: the store to which the handlers' effects commit.
        clock: the clock of the system; None for a new virtual clock.
        make_sender: called with the topology; returns the sender of all messages of the system.
        wrap: called with each handler and its consumer; returns the handler to use instead.

    Attributes:
        bus: a bus that publishes to the system.
        clock: the clock.
        resources: the values that handlers can request.
        topology: the topology, with the broker in memory.
    """

    def __init__(
        self,
        project: Project,
        store: Store,
        *,
        clock: VirtualClock | None = None,
        make_sender: Callable[[Topology], Sender] = Sender,
        wrap: Callable[[Handler, Consumer], Handler] = _as_it_is,
    ) -> None:
        """Create a system.

        Args:
            project: the project whose topology is run; the broker that the topology names is not
                used.
            store: the store in whose transactions messages are handled; it stays open.
            clock: determines when retries are due; by default, a new clock.
            make_sender: called with the topology of the system; returns the sender that publishes
                the messages of the bus and of the handlers.
            wrap: called with each handler and its consumer; returns the handler to use instead.

        Raises:
            UsageError: a handler cannot be imported.

        """
        name = unused_name()
        self.clock = clock or VirtualClock()
        self.topology = on_broker(project.topology, name)
        self._names = Names(self.topology)
        with contextlib.ExitStack() as ends:
            self._broker = memory.create(
                memory.MemoryBroker(name, clock=self.clock, seed=0, prepared=project.declared)
            )
            ends.callback(memory.remove, name)
            # The number of feedbus's own messages, which contain the states of rings. feedbus's own
            # messages always stay on the broker.
            self._own_messages = self._broker.message_count()
            sender = make_sender(self.topology)
            ends.callback(sender.close)
            self.bus = InlineBus(self.topology, sender, store)
            connection = broker.connect(self.topology)
            ends.callback(broker.close, connection)
            self._connection: RawConnection = connection.connection
            self.resources = Resources(self.topology)
            ends.callback(self.resources.close)
            self._consumers = [
                InlineConsumer(
                    self.topology,
                    consumer,
                    project.handlers[consumer.queue.name].wrapped(wrap, consumer),
                    sender=sender,
                    metrics=project.metrics,
                    store=store,
                    resources=self.resources,
                    clock=self.clock,
                    connection=self._connection,
                    queue=self._queue_of(consumer),
                )
                for consumer in self.topology.consumers.values()
            ]
            self._ends = ends.pop_all()

    def _queue_of(self, consumer: Consumer) -> str:
        """Return the name of a consumer's queue on the broker."""
        if not self.topology.on_ring(consumer.queue):
            return self._names.queue(consumer)
        generation = self.topology.generation(consumer.queue.exchange)
        return self._names.member(generation, consumer.name)

    def __enter__(self) -> Self:
        """Return the system itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the system."""
        self.close()

    def close(self) -> None:
        """Close the consumers and remove the broker; its messages are lost."""
        self._ends.close()

    def deliver(self, queue: str, payload: Any, key: str) -> None:
        """Put a message into an external queue, in the same way as another system.

        Args:
            queue: the name of the queue in topology.toml.
            payload: a mapping, which becomes JSON, or a body of text or bytes.
            key: the routing key.

        Raises:
            UsageError: there is no such queue, or it is not external.

        """
        self.check_queue(queue)
        found = self.topology.queues[queue]
        if not found.external_name:
            msg = f"queue '{queue}' is not external; publish to its exchange '{found.exchange}'"
            raise UsageError(msg)
        channel = self._connection.channel()
        external_systems.deliver(channel, found, payload, key)
        channel.close()

    def handle_ready(self, most: int = MOST_DELIVERIES) -> int:
        """Let the consumers handle one batch each, in turns, until no delivery is due now.

        The clock is not advanced.

        Args:
            most: the number of deliveries after which the method gives up.

        Returns:
            How many deliveries were handled.

        Raises:
            NeverDone: more than `most` deliveries were handled.
            Outage: a handler raised it, or the store is unavailable; the messages stay queued.

        """
        done = 0
        while self._arrived():
            for consumer in self._consumers:
                if consumer.has_work:
                    done += consumer.handle()
            if done > most:
                count = self.retries()
                waiting = f" ({counted(count, 'retry waits', 'retries wait')})" if count else ""
                msg = (
                    f"stopped after {done} deliveries{waiting}: handlers publish to each other"
                    " without end, or a record of a queue with repeat = true fails each time"
                )
                raise NeverDone(msg)
        return done

    def _arrived(self) -> bool:
        """Receive all messages that the broker delivers; return whether a consumer has work now."""
        with contextlib.suppress(TimeoutError):
            while True:
                self._connection.drain_events(timeout=0)
        return any(consumer.has_work for consumer in self._consumers)

    def is_empty(self) -> bool:
        """Whether no message is left, including retries and dead letters."""
        return self._broker.message_count() == self._own_messages

    def next_retry_seconds(self) -> float | None:
        """Return in how many seconds the next retry or delayed message is due.

        A delayed message was published with the option `delay`. The result is None if none waits.
        """
        now_ms = self._broker.tables.now_ms()
        prefixes = (*self._delay_prefixes(None), self._names.timer_prefix)
        waits_ms = [
            at_ms - now_ms for name, at_ms in self._broker.expiries() if name.startswith(prefixes)
        ]
        seconds = min(
            min(waits_ms, default=math.inf) / 1000,
            min((each.seconds_until_due() for each in self._consumers), default=math.inf),
        )
        return seconds if seconds < math.inf else None

    def retries(self, queue: str | None = None) -> int:
        """Return how many records wait for their next attempt.

        Args:
            queue: the name of the queue in topology.toml; None for all queues.

        Raises:
            UsageError: there is no such queue.
        """
        prefixes = self._delay_prefixes(queue)
        found = self._broker.survey().queues
        in_retry_queues = sum(ready for name, _, ready, _, _ in found if name.startswith(prefixes))
        in_waiting_queues = sum(
            each.retrying for each in self._consumers if queue in {None, each.queue.name}
        )
        return in_retry_queues + self._timed(queue) + in_waiting_queues

    def delayed(self, exchange: str | None = None) -> int:
        """Return how many messages wait because of the option `delay` of publish().

        Args:
            exchange: the name of the exchange in topology.toml to which the messages will be sent;
                None for all exchanges.

        Raises:
            UsageError: there is no such exchange.
        """
        if exchange is not None:
            self.topology.exchange(exchange)
        return self._in_timer(
            {
                timer.exchange_target(self._names, each.name)
                for each in self.topology.exchanges.values()
                if exchange in {None, each.name} and not each.external_name
            },
            attempted=False,
        )

    def _timed(self, queue: str | None) -> int:
        """Return how many records of a queue, or of all queues, wait in the timer for a retry.

        The timer is a group of queues in which messages with any delay wait; see
        feedbus.broker.timer.
        """
        return self._in_timer(
            {
                timer.retry_target(self._names, each)
                for each in self.topology.queues.values()
                if queue in {None, each.name}
            },
            attempted=True,
        )

    def _in_timer(self, targets: Collection[str], *, attempted: bool) -> int:
        """Count the messages in the timer that will be sent to these targets.

        Args:
            targets: queues and exchanges, in the form of the timer's header TIMER_TARGET.
            attempted: True to count retries, False to count messages with the option `delay`.

        """
        return sum(
            each.get(TIMER_TARGET) in targets and (ATTEMPT in each) is attempted
            for each in self._broker.headers(self._names.is_of_timer)
        )

    def dead_letters(self, queue: str | None = None) -> list[DeadLetter]:
        """Return the dead letters of a queue, or of all queues; the oldest of a queue comes first.

        Args:
            queue: the name of the queue in topology.toml; None for all queues.

        Raises:
            UsageError: there is no such queue.
        """
        self.check_queue(queue)
        channel = self._connection.channel()
        channel.auto_decode = False
        try:
            return [
                letter
                for each in self.topology.queues.values()
                if queue in {None, each.name}
                for _, letter in letters.letters(channel, self.topology, each)
            ]
        finally:
            channel.close()  # the dead letters return to their positions in the queues

    def check_queue(self, queue: str | None) -> None:
        """Raise UsageError if the topology has no queue of this name.

        None, for all queues, is accepted.
        """
        if queue is not None:
            self.topology.queue(queue)

    def _delay_prefixes(self, queue: str | None) -> tuple[str, ...]:
        """Return the beginnings of the names of the retry queues of a queue, or of all queues."""
        self.check_queue(queue)
        return tuple(
            self._names.retry_queue_prefix(each)
            for each in self.topology.queues.values()
            if queue in {None, each.name}
        )


class InlineBus(LiveBus):
    """The bus of an InlineSystem, by which programs and tests publish to the system.

    Args:
        topology: the topology, with the broker in memory.
        sender: sends the messages.
        store: the store of the system; its outbox is used in transaction().
    """

    def __init__(self, topology: Topology, sender: Sender, store: Store) -> None:
        """Create a bus that publishes through a sender.

        Args:
            topology: the topology of the system.
            sender: publishes the messages.
            store: the store of transaction().

        """
        self._system_sender = sender
        super().__init__(topology, store=None if isinstance(store, NoStore) else store)

    def _new_sender(self) -> Sender:
        return self._system_sender
