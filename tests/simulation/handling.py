"""The handlers of the simulated project: they note their effects, and refuse some records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from feedbus.errors import Retry
from feedbus.handling.handlers import Handler
from feedbus.handling.routes import HandlerRoutes
from feedbus.store import Store
from feedbus.topology import Queue
from tests.simulation.history import Record
from tests.simulation.scenario import Numbered, payload
from tests.simulation.store import SimulatedStore
from tests.simulation.system import System

Publish = Callable[[list[tuple[dict[str, Any], str]]], object]


@dataclass(frozen=True, slots=True)
class Handlers:
    """Makes the handlers of consumers.

    Attributes:
        refused: how often each record of a queue was refused.

    """

    system: System
    refused: Counter[tuple[str, Record]] = field(default_factory=Counter)

    def routes(self, queue: Queue, consumer: str, store: Store) -> HandlerRoutes:
        """Return what handles the records of a consumer."""
        calls = Calls(self.system, queue, consumer, store, self.refused)
        batch = self.system.scenario.batch
        return HandlerRoutes([Handler(calls.many if batch else calls.one, Numbered, batch)])


@dataclass(frozen=True, slots=True)
class Calls:
    """The handlers of one process of a consumer."""

    system: System
    queue: Queue
    consumer: str
    store: Store
    refused: Counter[tuple[str, Record]]

    def one(self, message: dict[str, Any], bus: Any) -> None:
        """Handle a single record."""

        def publish(pairs: list[tuple[dict[str, Any], str]]) -> None:
            if len(pairs) == 1:
                bus.publish("ring", *pairs[0])
            else:
                bus.publish_many("ring", pairs)

        self._handle(message, publish)

    def many(self, records: Any, _bus: Any) -> None:
        """Handle a batch; the effects of a refused record's later ones could not be rolled back."""
        refused = set()
        for single in records.singles():
            if self.system.scenario.ordered and single[0]["key"] in refused:
                continue
            try:
                self._handle(single[0], lambda pairs, one=single: one.publish_many("ring", pairs))
            except Retry as error:
                refused.add(single[0]["key"])
                single.retry(str(error))

    def _handle(self, message: dict[str, Any], publish: Publish) -> None:
        """Note an effect after a while, and publish what the record causes."""
        record, system = Record(message["key"], message["n"]), self.system
        system.clock.sleep(system.scheduler.random.choice((0.0, 0.001, 0.05, 1.0)))
        self._refuse(record)
        if isinstance(self.store, SimulatedStore) and self.queue.once:
            self.store.effect(record.key, record.n)
        else:
            self._note(record)
        if self.queue.name == "work":
            publish([(payload(each), each.key) for each in system.scenario.caused(record)])

    def _note(self, record: Record) -> None:
        """Note an effect that no store keeps."""
        history, name = self.system.history, self.queue.name
        history.handled_by[name, record.key].add(self.consumer)
        self.system.scheduler.note(f"effect {record} of {name}")
        history.effects[name].append(record)

    def _refuse(self, record: Record) -> None:
        """Raise Retry for a record that is to fail at first."""
        name, system = self.queue.name, self.system
        failing = system.scenario.failing
        if not failing or (record.n * 7 + ord(record.key)) % failing:
            return
        system.history.failed[name].add(record)
        if self.refused[name, record] < 1 + record.n % 2:
            self.refused[name, record] += 1
            system.scheduler.note(f"refuses {record} of {name}")
            msg = "not yet"
            raise Retry(msg)
