"""A whole system in memory on a virtual clock: publish, run, and check the results."""

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
from feedbus.inline.loaded_projects import Project, on_store, project
from feedbus.inline.system import MOST_DELIVERIES, InlineSystem
from feedbus.records.payloads import Payload
from feedbus.records.publish_arguments import NO_KEY, check_record
from feedbus.schedules.firing import fire
from feedbus.store import Store, check_is_store, open_prepared, open_store
from feedbus.store.outbox_publishing import publish_pending
from feedbus.store.thread_state import thread_state
from feedbus.testing.observations import Handled, Published, RecordingSender, watched
from feedbus.topology import Consumer, Topology
from feedbus.wire.message_options import PublishOptions
from feedbus.wrong_argument import check_seconds, refuse


class TestSystem:
    """The system of `feedbus up` in a test: the broker, the consumers, the store.

    Messages are routed, validated, handled, retried and dead-lettered by the same code as in
    production. The broker is in memory. Time is virtual: if a retry is due in ten minutes, run()
    advances the clock and does not wait. If the store of the topology is a SQLite file, the system
    uses a new file in a temporary folder instead.

    Args:
        topology: the file, or the parsed topology.
        now: the time at which the virtual clock starts; None for the present time.
        store: an open store; None for the store of the topology.

    Raises:
        TopologyError: the file has problems; the error lists all of them.

    Example:
        >>> with TestSystem("topology.toml") as system:
        ...     system.publish("orders", {"id": 1, "product": "chair"}, key="chair")
        ...     system.run()
        ...     assert system.dead_letters() == []
    """

    __test__ = False  # pytest must not collect this class as a class of tests

    def __init__(
        self,
        topology: str | Path | Topology = "topology.toml",
        *,
        now: datetime | None = None,
        store: Store | None = None,
    ) -> None:
        """Create a system.

        Args:
            topology: the file, relative to the working directory, or the parsed topology.
            now: the start of the virtual clock; the real time by default.
            store: an open store, which stays open; by default, the store of the topology.

        Raises:
            TopologyError: the file has problems; the error lists all of them.
            UsageError: a handler cannot be imported, or the store cannot be opened.

        """
        if now is not None and not isinstance(now, datetime):
            refuse("now", "datetime or None", now)
        if store is not None:
            check_is_store(store)
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
        """Open the store of the topology; if it is a SQLite file, open a new file instead.

        Args:
            found: the project of the topology.
            ends: gets the functions that close the store and delete the file.

        """
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
        """Close the system."""
        self.close()

    def close(self) -> None:
        """Close the consumers, and remove the broker and the temporary store."""
        self._ends.close()

    @property
    def bus(self) -> LiveBus:
        """The bus of this system, for code that publishes; use it instead of a bus of connect()."""
        return self._system.bus

    def override(self, resource: Callable[..., object], replacement: object) -> None:
        """Replace the value of a resource for all handlers, from now on.

        The resource is then not opened. If it is open already, it is closed with the system.

            system.override(http, FakeClient())

        Args:
            resource: the function under `@resource`.
            replacement: the value that handlers get instead.

        Raises:
            UsageError: no handler or middleware of the topology needs the resource.

        """
        self._system.resources.override(resource, replacement)

    def publish(
        self,
        exchange: str,
        payload: Payload,
        key: str = NO_KEY,
        *,
        message_id: str | None = None,
        **options: Unpack[PublishOptions],
    ) -> None:
        """Publish one record, in the same way as a program outside the system.

        Args:
            exchange: the name of the exchange in topology.toml.
            payload: the payload of the record: a mapping, or an instance of a message type.
            key: the routing key; "" by default. For an exchange with shards it must be given.
            message_id: the id of the record; by default, a new id. A queue with `once = true`
                handles only one of several records with the same id.
            options: `headers`, `priority` (0 to 255), `expires` and `delay`. The last two are
                seconds, or a text such as "30s".

        Raises:
            Unroutable: no queue matches.
            UsageError: there is no such exchange, or the record cannot be published.
        """
        self._system.bus.publish(exchange, payload, key, message_id=message_id, **options)

    def deliver(self, queue: str, payload: Payload | str | bytes, key: str = "") -> None:
        """Put a message into an external queue, in the same way as another system.

        Args:
            queue: the name of the queue in topology.toml.
            payload: a mapping, which becomes JSON, or a body of text or bytes.
            key: the routing key.

        Raises:
            UsageError: there is no such queue, or it is not external.

        """
        if not isinstance(payload, str | bytes):
            payload = check_record(queue, payload, key)
        elif not isinstance(key, str):
            refuse("key", "str", key)
        self._system.deliver(queue, payload, key)

    def run(self, *, most: int = MOST_DELIVERIES) -> int:
        """Handle all messages and retries until none is left; return the number of deliveries.

        First, the messages in the store's outbox are published. While retries or delayed messages
        wait, the clock jumps to the time when the next of them is due.

        Args:
            most: the number of deliveries after which run() gives up.

        Raises:
            NeverDone: more than `most` deliveries were handled.
            Outage: a handler raised it, or the store is unavailable; the messages stay queued.
            UsageError: this thread is within bus.transaction().

        """
        _check_most(most)
        done = self._handle_ready(most)
        while (seconds := self._system.next_retry_seconds()) is not None:
            self.clock.sleep(seconds)
            done += self._handle_ready(most - done)
        return done

    def advance(self, seconds: float, *, most: int = MOST_DELIVERIES) -> int:
        """Advance the clock, and handle messages that are due; return the number of deliveries.

        `advance(0)` handles the messages that are due now.

        Args:
            seconds: the time by which the clock is advanced.
            most: the number of deliveries after which advance() gives up.

        Raises:
            NeverDone: more than `most` deliveries were handled.
            Outage: a handler raised it, or the store is unavailable; the messages stay queued.
            UsageError: this thread is within bus.transaction().

        """
        check_seconds("seconds", seconds)
        _check_most(most)
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
        """Handle the messages that are due now, and messages that handlers add to the outbox.

        Args:
            most: the number of deliveries after which the method gives up.

        Raises:
            NeverDone: more than `most` deliveries were handled.
            Outage: a handler raised it, or the store is unavailable; the messages stay queued.
            UsageError: this thread is within bus.transaction().

        """
        if thread_state.in_transaction:
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
        """Advance the clock to the next time of a schedule, and publish its message.

        `run()` and `advance()` fire no schedules. Messages that are due earlier are handled first;
        call `run()` to handle the schedule's message.

        Args:
            schedule: the name of the schedule in topology.toml.

        Raises:
            UsageError: there is no such schedule, or this thread is within bus.transaction().
            Unroutable: no queue matches.
            NeverDone, Outage: for an earlier message; see advance().
        """
        chosen = self.topology.schedule(schedule)
        now = self.clock.now()
        moment = Cron.of(chosen).next_after(now)
        self.advance((moment - now).total_seconds())
        fire(self._system.bus, self.topology, chosen, moment)

    def published(self, exchange: str | None = None) -> list[Published]:
        """Return the records that tests and handlers have published, in order.

        Args:
            exchange: the name of the exchange in topology.toml; None for all exchanges.

        Raises:
            UsageError: there is no such exchange.
        """
        if exchange is not None:
            self.topology.exchange(exchange)
        return [each for each in self._published if exchange in {None, each.exchange}]

    def handled(self, queue: str | None = None) -> list[Handled]:
        """Return the records that handlers have received, in order.

        A record is in the result once for each call of its handler.

        Args:
            queue: the name of the queue in topology.toml; None for all queues.

        Raises:
            UsageError: there is no such queue.
        """
        self._system.check_queue(queue)
        return [each for each in self._handled if queue in {None, each.queue}]

    def dead_letters(self, queue: str | None = None) -> list[DeadLetter]:
        """Return the dead letters of a queue, or of all queues; the oldest of a queue comes first.

        Args:
            queue: the name of the queue in topology.toml; None for all queues.

        Raises:
            UsageError: there is no such queue.
        """
        return self._system.dead_letters(queue)

    def delayed(self, exchange: str | None = None) -> int:
        """Return how many messages wait because of the option `delay`.

        Args:
            exchange: the exchange to which the messages will be sent; None for all exchanges.

        Raises:
            UsageError: there is no such exchange.

        """
        return self._system.delayed(exchange)

    def retries(self, queue: str | None = None) -> int:
        """Return how many records wait for their next attempt.

        Args:
            queue: the name of the queue in topology.toml; None for all queues.

        Raises:
            UsageError: there is no such queue.
        """
        return self._system.retries(queue)


def _check_most(most: object) -> None:
    if not isinstance(most, int):
        refuse("most", "int", most)
