"""The handlers of the simulated project: they note their effects, and refuse some records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from feedbus import Message
from feedbus.errors import Outage, Reject, Retry
from feedbus.handling.handlers import Handler
from feedbus.handling.routes import HandlerRoutes
from feedbus.schedules.fired_moment import read_moment
from feedbus.store import Store
from feedbus.topology import Queue
from tests.simulation.history import Record
from tests.simulation.scenario import Numbered, payload
from tests.simulation.store import SimulatedStore
from tests.simulation.system import System

REJECTED = "it is rejected"
ROUNDING_SECONDS = 0.001  # a delay has whole milliseconds

Publish = Callable[[str, list[tuple[dict[str, Any], str]]], object]


@dataclass(frozen=True, slots=True)
class Handlers:
    """Makes the handlers of consumers."""

    system: System

    def routes(self, queue: Queue, consumer: str, store: Store) -> HandlerRoutes:
        """Return what handles the records of a consumer."""
        calls = Calls(self.system, queue, consumer, store)
        if queue.name == "ticks":
            return HandlerRoutes([Handler(calls.tick, Numbered, batch=False)])
        batch, asynchronous = self.system.scenario.batch, self.system.scenario.asynchronous
        one = calls.one_async if asynchronous else calls.one
        many = calls.many_async if asynchronous else calls.many
        return HandlerRoutes([Handler(many if batch else one, Numbered, batch)])


@dataclass(frozen=True, slots=True)
class Calls:
    """The handlers of one process of a consumer."""

    system: System
    queue: Queue
    consumer: str
    store: Store

    def one(self, message: dict[str, Any], bus: Any, about: Message) -> None:
        """Handle a single record."""
        with self._running(message):
            self._check(message, about)
            self.system.clock.sleep(self._seconds())
            self._handle(message, publisher(bus), about.attempt)

    async def one_async(self, message: dict[str, Any], bus: Any, about: Message) -> None:
        """Handle a single record in the event loop."""
        with self._running(message):
            self._check(message, about)
            await asyncio.sleep(self._seconds())
            self._handle(message, publisher(bus), about.attempt)

    def tick(self, _message: dict[str, Any], about: Message) -> None:
        """Handle the message of a schedule, whose id contains its moment."""
        moment = read_moment(about.message_id.rpartition("@")[2])
        assert moment is not None
        self._note_effect(Record("tick", round(moment.timestamp())))

    def many(self, records: Any, _bus: Any) -> None:
        """Handle a batch."""
        refused: set[str] = set()
        for single in self._not_behind(records, refused):
            with self._running(single[0]):
                self.system.clock.sleep(self._seconds())
                self._handle_of_batch(single, refused)

    async def many_async(self, records: Any, _bus: Any) -> None:
        """Handle a batch in the event loop."""
        refused: set[str] = set()
        for single in self._not_behind(records, refused):
            with self._running(single[0]):
                await asyncio.sleep(self._seconds())
                self._handle_of_batch(single, refused)

    def _not_behind(self, records: Any, refused: set[str]) -> Iterator[Any]:
        """Yield the records of a batch, without those behind a refused one of their key.

        Their effects could not be rolled back.
        """
        for single in records.singles():
            if not self.system.scenario.ordered or single[0]["key"] not in refused:
                yield single

    def _seconds(self) -> float:
        """Return how long a record takes."""
        return self.system.scheduler.random.choice(self.system.scenario.seconds)

    @contextmanager
    def _running(self, message: dict[str, Any]) -> Iterator[None]:
        """Note a fault where another record of the key runs in this process."""
        process, history = self.system.process(), self.system.history
        run = process, self.queue.name, message["key"]
        history.together += any(one[0] is process for one in history.running)
        if self.system.scenario.ordered and run in history.running:
            history.at_once.append(f"{self.queue.name}: key {message['key']} runs twice at once")
        history.running.append(run)
        try:
            yield
        finally:
            history.running.remove(run)

    def _handle_of_batch(self, single: Any, refused: set[str]) -> None:
        """Handle a record of a batch; add its key to the refused ones if it is refused."""
        attempt = single.messages[0].attempt
        self._check(single[0], single.messages[0])
        try:
            self._handle(single[0], single.publish_many, attempt)
        except Retry as error:
            refused.add(single[0]["key"])
            single.retry(str(error))
        except Reject as error:
            if self.queue.block_on_dead:
                refused.add(single[0]["key"])
            single.reject(error.reason)

    def _check(self, message: dict[str, Any], about: Message) -> None:
        """Check the id of a record, and when it is retried."""
        record = Record(message["key"], message["n"])
        self.system.history.note_id(self.queue.name, about.message_id, record)
        self.system.check_crashes()
        self._check_delay(record, about.attempt)

    def _check_delay(self, record: Record, attempt: int) -> None:
        """Note a fault where a record is retried before the delay of its retry is over."""
        delays = self.queue.retry.delays_seconds
        history, now = self.system.history, self.system.clock.monotonic()
        before = history.refused_at.get((self.queue.name, record, attempt - 1))
        delay = delays[min(max(attempt - 1, 1), len(delays)) - 1]
        if before is not None and now < before + delay - ROUNDING_SECONDS:
            history.early.append(f"{self.queue.name}: {record} was retried too early")

    def _handle(self, message: dict[str, Any], publish: Publish, attempt: int) -> None:
        """Note an effect, and publish what the record causes."""
        record, system = Record(message["key"], message["n"]), self.system
        is_away = system.process() in system.without_service
        system.without_service.discard(system.process())
        if is_away or system.scheduler.now < system.service_away_until:
            msg = "the service is away"
            raise Outage(msg)
        self._refuse(record, attempt)
        self._note_effect(record)
        exchange = system.scenario.next_exchange(self.queue.name)
        if exchange is not None:
            pairs = [(payload(each), each.key) for each in system.scenario.caused(record)]
            # The number of the record determines how they are published, also in its next attempt.
            size = len(pairs) if record.n % 2 else 1
            for first in range(0, len(pairs), size):
                publish(exchange, pairs[first : first + size])

    def _note_effect(self, record: Record) -> None:
        """Note an effect, in the store or beside it."""
        history, name = self.system.history, self.queue.name
        history.handled_by[name, record.key].add(self.consumer)
        if isinstance(self.store, SimulatedStore) and self.queue.once:
            self.store.effect(name, record.key, record.n)
            return
        self.system.scheduler.note(f"effect {record} of {name}")
        history.effects[name].append(record)

    def _refuse(self, record: Record, attempt: int) -> None:
        """Raise Retry for a record that is to fail at first, and Reject for a rejected one."""
        name, system = self.queue.name, self.system
        rejected = system.history.rejected
        if system.scenario.rejects(record) and not (
            self.queue.block_on_dead and rejected[name, record]
        ):
            rejected[name, record] += 1
            system.scheduler.note(f"rejects {record} of {name}")
            raise Reject(REJECTED)
        failing = system.scenario.failing
        if not failing or (record.n * 7 + ord(record.key)) % failing:
            return
        system.history.failed[name].add(record)
        refused = system.history.refused
        if refused[name, record] < 1 + record.n % 2:
            refused[name, record] += 1
            system.scheduler.note(f"refuses {record} of {name}")
            now = system.clock.monotonic()
            system.history.refused_at.setdefault((name, record, attempt), now)
            msg = "not yet"
            raise Retry(msg)


def publisher(bus: Any) -> Publish:
    """Return what publishes pairs of a payload and a key by a bus."""

    def publish(exchange: str, pairs: list[tuple[dict[str, Any], str]]) -> None:
        if len(pairs) == 1:
            bus.publish(exchange, *pairs[0])
        else:
            bus.publish_many(exchange, pairs)

    return publish
