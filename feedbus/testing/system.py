"""A whole system in memory on a virtual clock: publish, run, and look at what came of it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from feedbus import broker
from feedbus.broker.names import Names
from feedbus.bus import LiveBus
from feedbus.clock import VirtualClock
from feedbus.dead_letters import letters
from feedbus.dead_letters.letters import DeadLetter
from feedbus.errors import FeedbusError, UsageError
from feedbus.handling import resolve_object
from feedbus.store import Store, open_store
from feedbus.testing.consuming import TestConsumer
from feedbus.testing.observations import Handled, Published, RecordingSender, watched
from feedbus.testing.projects import Project, on_broker, project, unused_name
from feedbus.topology import Topology
from feedbus.transports import memory
from feedbus.urls import parse_store_url

MOST_DELIVERIES = 100_000


class NeverDone(FeedbusError):  # noqa: N818 -- names what it is
    """A run was stopped: its handlers give each other, or themselves, work without end."""


class TestSystem:
    """Everything that `feedbus up` runs, within a test: the broker, the consumers, the store.

    Messages are routed, validated, handled, retried and dead-lettered by the code that does so in
    production. The broker is in memory and time is virtual, so that a retry in ten minutes comes
    at once; of the topology's store, a file is replaced by an empty one in a temporary folder.

    Example:
        >>> with TestSystem("topology.toml") as system:
        ...     system.publish("orders", {"id": 1, "product": "chair"}, key="chair")
        ...     system.run()
        ...     assert system.dead_letters() == []

    """

    __test__ = False  # no class of tests, for pytest

    def __init__(
        self,
        topology: str | Path | Topology = "topology.toml",
        *,
        now: datetime | None = None,
        store: Store | None = None,
    ) -> None:
        """Make a system.

        Args:
            topology: the file, relative to the working directory, or what it says.
            now: what the virtual clock shows first; the real time by default.
            store: one that is open already, and stays open; by default the topology's.

        Raises:
            TopologyError: with every problem of the file.
            UsageError: a handler cannot be imported, or the store cannot be opened.

        """
        found = project(topology)
        self.clock = VirtualClock(now)
        self._published: list[Published] = []
        self._handled: list[Handled] = []
        self._ends = contextlib.ExitStack()
        with self._ends:
            name = unused_name()
            self.topology = self._with_store(on_broker(found.topology, name), store)
            self._broker = memory.create(
                memory.MemoryBroker(name, clock=self.clock, seed=0, prepared=found.declared)
            )
            self._ends.callback(memory.remove, name)
            self._names = Names(self.topology)
            self._sender = RecordingSender(self.topology, self._published)
            self._ends.callback(self._sender.close)
            self._bus = _TestBus(self.topology, self._sender)
            connection = broker.connect(self.topology)
            self._ends.callback(broker.close, connection)
            self._connection: Any = connection.connection
            self._consumers = self._subscribed(found, self._opened(store))
            self._ends = self._ends.pop_all()

    def _with_store(self, topology: Topology, store: Store | None) -> Topology:
        """Return the topology with an empty store in place of a file."""
        url = topology.store_url
        if store is not None or topology.store is None or url is None or url.file is None:
            return topology
        folder = self._ends.enter_context(tempfile.TemporaryDirectory(prefix="feedbus-"))
        temporary = parse_store_url(f"sqlite:///{folder}/store.db")
        return replace(topology, store=replace(topology.store, url=temporary))

    def _opened(self, store: Store | None) -> Store:
        if store is not None:
            return store
        options = self.topology.store
        if options is not None and options.prepare is not None:
            resolve_object(options.prepare, self.topology.root)(self.topology)
        opened = open_store(self.topology)
        self._ends.callback(opened.close)
        opened.set_up()
        return opened

    def _subscribed(self, found: Project, store: Store) -> list[TestConsumer]:
        made = []
        for consumer in self.topology.consumers.values():
            exchange = self.topology.exchanges[consumer.queue.exchange]
            queue = (
                self._names.member(self.topology.generation(exchange.name), consumer.name)
                if exchange.hashed
                else self._names.queue(consumer)
            )
            made.append(
                TestConsumer(
                    self.topology,
                    consumer,
                    watched(found.handlers[consumer.queue.name], consumer, self._handled),
                    sender=self._sender,
                    metrics=found.metrics,
                    store=store,
                    clock=self.clock,
                    connection=self._connection,
                    queue=queue,
                )
            )
        return made

    def __enter__(self) -> Self:
        """Return the system itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End the consumers, and remove the broker and the temporary store."""
        self._ends.close()

    def publish(
        self,
        exchange: str,
        payload: Mapping[str, Any],
        key: str = "",
        *,
        message_id: str | None = None,
    ) -> None:
        """Publish one record, as a program outside the system does.

        Args:
            exchange: as topology.toml names it.
            payload: of the record.
            key: the routing key.
            message_id: by which a repeat is known.

        Raises:
            Unroutable: no queue gets it.
            UsageError: there is no such exchange, or the record cannot be published.

        """
        self._bus.publish(exchange, payload, key, message_id=message_id)

    def run(self, *, most: int = MOST_DELIVERIES) -> int:
        """Handle everything until nothing waits, retries included; return how many deliveries.

        The clock goes on to whenever the next retry is due.

        Args:
            most: deliveries, after which it gives up.

        Raises:
            NeverDone: there were so many, and more wait.
            Outage: a handler raised it, or the store is away; its messages stay where they are.

        """
        done = self._handle_ready(most)
        while (due_ms := self._next_retry_ms()) is not None:
            self._wait_until(due_ms)
            done += self._handle_ready(most - done)
        return done

    def advance(self, seconds: float, *, most: int = MOST_DELIVERIES) -> int:
        """Let so much time pass, and handle what is due meanwhile; return how many deliveries.

        `advance(0)` handles what waits now, and no retry. Raises: as run().
        """
        end = self.clock.monotonic() + seconds
        end_ms = self._broker.tables.now_ms() + round(seconds * 1000)
        done = self._handle_ready(most)
        while (due_ms := self._next_retry_ms()) is not None and due_ms <= end_ms:
            self._wait_until(due_ms)
            done += self._handle_ready(most - done)
        self.clock.sleep(end - self.clock.monotonic())
        return done + self._handle_ready(most - done)

    def _handle_ready(self, most: int) -> int:
        """Let the consumers take turns, a batch each, until none has a delivery."""
        done = 0
        while self._arrived():
            for consumer in self._consumers:
                if consumer:
                    done += consumer.handle()
            if done > most:
                waiting = f", {self.retries()} retries wait" if self.retries() else ""
                msg = (
                    f"stopped after {done} deliveries{waiting}: handlers publish to each other"
                    " without end, or a queue with repeat = true fails each time;"
                    " advance(seconds) runs a part of it, run(most=…) more"
                )
                raise NeverDone(msg)
        return done

    def _arrived(self) -> bool:
        with contextlib.suppress(TimeoutError):
            while True:
                self._connection.drain_events(timeout=0)
        return any(self._consumers)

    def _wait_until(self, due_ms: int) -> None:
        self.clock.sleep((due_ms - self._broker.tables.now_ms()) / 1000)

    def _next_retry_ms(self) -> int | None:
        """Return when the next retry is due, by the broker's time."""
        return min(
            (at for name, at in self._broker.expiries() if self._is_delay(name)), default=None
        )

    def _is_delay(self, queue: str) -> bool:
        return any(
            queue.startswith(self._names.delay_prefix(each))
            for each in self.topology.queues.values()
        )

    def published(self, exchange: str | None = None) -> list[Published]:
        """Return what was published to an exchange, or to all, by the test and by handlers.

        Raises:
            UsageError: there is no such exchange.

        """
        if exchange is not None:
            self.topology.exchange(exchange)
        return [each for each in self._published if exchange in {None, each.exchange}]

    def handled(self, queue: str | None = None) -> list[Handled]:
        """Return what the handler of a queue, or of all, was given, each time it was given it.

        Raises:
            UsageError: there is no such queue.

        """
        self._check_queue(queue)
        return [each for each in self._handled if queue in {None, each.queue}]

    def dead_letters(self, queue: str | None = None) -> list[DeadLetter]:
        """Return the dead letters of a queue, or of all, oldest first within a queue.

        Raises:
            UsageError: there is no such queue.

        """
        self._check_queue(queue)
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
            channel.close()  # they go back to their places

    def retries(self, queue: str | None = None) -> int:
        """Return how many records of a queue, or of all, wait for their next attempt.

        Raises:
            UsageError: there is no such queue.

        """
        self._check_queue(queue)
        prefixes = tuple(
            self._names.delay_prefix(each)
            for each in self.topology.queues.values()
            if queue in {None, each.name}
        )
        found = self._broker.survey().queues
        return sum(ready for name, _, ready, _, _ in found if name.startswith(prefixes))

    def _check_queue(self, queue: str | None) -> None:
        if queue is not None and queue not in self.topology.queues:
            known = ", ".join(self.topology.queues)
            msg = f"no queue named '{queue}'; expected one of {known}"
            raise UsageError(msg)


class _TestBus(LiveBus):
    """A program's bus that publishes by the system's sender."""

    def __init__(self, topology: Topology, sender: RecordingSender) -> None:
        super().__init__(topology)
        self._sender = sender
