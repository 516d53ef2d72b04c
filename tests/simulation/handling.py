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
        system = self.system

        def effect(message: dict[str, Any], publish: Callable[[Record], object]) -> None:
            record = Record(message["key"], message["n"])
            system.clock.sleep(system.scheduler.random.choice((0.0, 0.001, 0.05, 1.0)))
            self._refuse(queue.name, record)
            if isinstance(store, SimulatedStore) and queue.once:
                store.effect(record.key, record.n)
            else:
                self._note(queue.name, record, consumer)
            if queue.name == "work":
                publish(record)

        def one(message: dict[str, Any], bus: Any) -> None:
            effect(message, lambda record: bus.publish("ring", payload(record), record.key))

        def many(records: Any, _bus: Any) -> None:
            refused = set()
            for single in records.singles():
                if system.scenario.ordered and single[0]["key"] in refused:
                    continue  # the effects of records behind it could not be rolled back
                try:
                    effect(
                        single[0],
                        lambda record, single=single: single.publish_many(
                            "ring", [(payload(record), record.key)]
                        ),
                    )
                except Retry as error:
                    refused.add(single[0]["key"])
                    single.retry(str(error))

        batch = system.scenario.batch
        return HandlerRoutes([Handler(many if batch else one, Numbered, batch)])

    def _note(self, queue: str, record: Record, consumer: str) -> None:
        """Note an effect that no store keeps."""
        history = self.system.history
        history.handled_by[queue, record.key].add(consumer)
        self.system.scheduler.note(f"effect {record} of {queue}")
        history.effects[queue].append(record)

    def _refuse(self, queue: str, record: Record) -> None:
        """Raise Retry for a record that is to fail at first."""
        failing = self.system.scenario.failing
        if not failing or (record.n * 7 + ord(record.key)) % failing:
            return
        self.system.history.failed[queue].add(record)
        if self.refused[queue, record] < 1 + record.n % 2:
            self.refused[queue, record] += 1
            self.system.scheduler.note(f"refuses {record} of {queue}")
            msg = "not yet"
            raise Retry(msg)
