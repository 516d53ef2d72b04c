"""A whole system in memory on a virtual clock: publish, run, and look at what came of it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Self, Unpack

from feedbus.bus import LiveBus
from feedbus.clock import VirtualClock
from feedbus.cron import Cron
from feedbus.dead_letters.letters import DeadLetter
from feedbus.errors import UsageError
from feedbus.handling.handlers import Handler
from feedbus.inline.projects import Project, on_store, project
from feedbus.inline.system import MOST_DELIVERIES, InlineSystem
from feedbus.records.payloads import Payload
from feedbus.schedules.firing import fire
from feedbus.store import Store, open_prepared, open_store
from feedbus.store.relay import publish_pending
from feedbus.testing.observations import Handled, Published, RecordingSender, watched
from feedbus.topology import Consumer, Topology
from feedbus.wire.envelope import PublishOptions


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
        self.clock = VirtualClock(now)
        self._published: list[Published] = []
        self._handled: list[Handled] = []
        with contextlib.ExitStack() as ends:
            found = project(topology)
            self.topology = found.topology
            self._store = self._opened(found, ends) if store is None else store
            self._system = InlineSystem(
                found,
                self._store,
                clock=self.clock,
                make_sender=self._sender,
                wrap=self._watched,
            )
            ends.callback(self._system.close)
            self._ends = ends.pop_all()

    def _opened(self, found: Project, ends: contextlib.ExitStack) -> Store:
        """Open the topology's store, or an empty one in place of a file."""
        url = self.topology.store_url
        if url is None or url.file is None:
            store = open_prepared(self.topology)
        else:
            folder = ends.enter_context(tempfile.TemporaryDirectory(prefix="feedbus-"))
            file = Path(folder) / "store.db"
            file.touch(mode=0o600)
            file.write_bytes(found.empty_store)
            self.topology = on_store(self.topology, file)
            store = open_store(self.topology)
        ends.callback(store.close)
        return store

    def _sender(self, topology: Topology) -> RecordingSender:
        return RecordingSender(topology, self._published)

    def _watched(self, handler: Handler, consumer: Consumer) -> Handler:
        return watched(handler, consumer, self._handled)

    def __enter__(self) -> Self:
        """Return the system itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End the consumers, and remove the broker and the temporary store."""
        self._ends.close()

    @property
    def bus(self) -> LiveBus:
        """What `feedbus.connect` gives to a program, for code that publishes on a bus."""
        return self._system.bus

    def override(self, resource: Callable[..., object], replacement: object) -> None:
        """Give handlers a replacement for what a resource gives, from now on.

        The resource is not opened then. Where it is open already, it is closed with the system.

            system.override(http, FakeClient())

        Args:
            resource: the function under `@resource`.
            replacement: what handlers get instead.

        Raises:
            UsageError: no handler of the topology asks for that resource.

        """
        self._system.resources.override(resource, replacement)

    def publish(
        self,
        exchange: str,
        payload: Payload,
        key: str = "",
        *,
        message_id: str | None = None,
        **options: Unpack[PublishOptions],
    ) -> None:
        """Publish one record, as a program outside the system does.

        Args:
            exchange: as topology.toml names it.
            payload: of the record.
            key: the routing key.
            message_id: by which a repeat is known.
            options: headers, priority, expires and delay.

        Raises:
            Unroutable: no queue gets it.
            UsageError: there is no such exchange, or the record cannot be published.

        """
        self._system.bus.publish(exchange, payload, key, message_id=message_id, **options)

    def deliver(self, queue: str, payload: Payload | str | bytes, key: str = "") -> None:
        """Put a message into an external queue, as the system that fills it does.

        Args:
            queue: as topology.toml names it.
            payload: a mapping, which becomes JSON, or a body of text or bytes.
            key: the routing key.

        Raises:
            UsageError: there is no such queue, or it is not external.

        """
        self._system.deliver(queue, payload, key)

    def run(self, *, most: int = MOST_DELIVERIES) -> int:
        """Handle everything until nothing waits, retries included; return how many deliveries.

        The clock goes on to whenever the next retry is due. What is in the store's outbox is
        published first.

        Args:
            most: deliveries, after which it gives up.

        Raises:
            NeverDone: there were so many, and more wait.
            Outage: a handler raised it, or the store is unavailable; its messages stay.

        """
        done = self._handle_ready(most)
        while (seconds := self._system.next_retry_seconds()) is not None:
            self.clock.sleep(seconds)
            done += self._handle_ready(most - done)
        return done

    def advance(self, seconds: float, *, most: int = MOST_DELIVERIES) -> int:
        """Let so much time pass, and handle what is due meanwhile; return how many deliveries.

        `advance(0)` handles what waits now, and no retry. Raises: as run().
        """
        end = self.clock.monotonic() + seconds
        done = self._handle_ready(most)
        while (next_seconds := self._system.next_retry_seconds()) is not None:
            if self.clock.monotonic() + next_seconds > end:
                break
            self.clock.sleep(next_seconds)
            done += self._handle_ready(most - done)
        self.clock.sleep(end - self.clock.monotonic())
        return done + self._handle_ready(most - done)

    def _handle_ready(self, most: int) -> int:
        """Handle what waits, and what the handlers have left in the outbox."""
        if self._system.bus.in_transaction:
            msg = "a system cannot run within bus.transaction(): end the transaction first"
            raise UsageError(msg)
        done = 0
        while True:
            relayed = publish_pending(
                self._store, self._system.bus, self.topology.name, older_than_seconds=0
            )
            handled = self._system.handle_ready(most - done)
            done += handled
            if not (relayed or handled):
                return done

    def fire(self, schedule: str) -> None:
        """Let time pass until the next moment of a schedule, and publish its message.

        `run()` and `advance()` fire no schedules. What is due until that moment is handled before;
        call `run()` to handle the message.

        Raises:
            UsageError: there is no such schedule.
            Unroutable: no queue gets the message.

        """
        chosen = self.topology.schedule(schedule)
        now = self.clock.now()
        moment = Cron.of(chosen).next_after(now)
        self.advance((moment - now).total_seconds())
        fire(self._system.bus, self.topology, chosen, moment)

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
        self._system.check_queue(queue)
        return [each for each in self._handled if queue in {None, each.queue}]

    def dead_letters(self, queue: str | None = None) -> list[DeadLetter]:
        """Return the dead letters of a queue, or of all, oldest first within a queue.

        Raises:
            UsageError: there is no such queue.

        """
        return self._system.dead_letters(queue)

    def delayed(self, exchange: str | None = None) -> int:
        """Return how many messages wait because they were published with a delay.

        Args:
            exchange: that they are for; None for all.

        Raises:
            UsageError: there is no such exchange.

        """
        return self._system.delayed(exchange)

    def retries(self, queue: str | None = None) -> int:
        """Return how many records of a queue, or of all, wait for their next attempt.

        Raises:
            UsageError: there is no such queue.

        """
        return self._system.retries(queue)
