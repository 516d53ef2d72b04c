"""Queues that keep the order of their keys, and handlers that fail on some of their records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.dispatch.waiting_deliveries import WaitingDeliveries
from feedbus.records import Records
from feedbus.topology import RetryPolicy
from tests.small_topologies import queue
from tests.systems import System

DELAYS = RetryPolicy((0.1, 0.1, 0.1), "dead-letter")
LONG_SECONDS = 600.0
LATER = RetryPolicy((LONG_SECONDS,) * 3, "dead-letter")
ORDERED = {"order_by": True, "single_active_consumer": True, "retry": DELAYS}
EIGHT = list(range(1, 9))


class Failing:
    """Handlers that record the handled numbers, and fail for some of them several times."""

    def __init__(self, failures: dict[int, int], error: type[Exception] = ValueError) -> None:
        self.left = Counter(failures)
        self.error = error
        self.seen: list[int] = []

    def fail(self, number: int) -> bool:
        self.left[number] -= 1
        return self.left[number] >= 0

    def one(self, message: dict[str, Any], _bus: Any = None) -> None:
        if self.fail(message["n"]):
            raise self.error
        self.seen.append(message["n"])

    def batch(self, records: Records, _bus: Any = None) -> None:
        numbers = records.column("n")
        if any(self.left[number] > 0 for number in numbers) and len(numbers) > 1:
            raise self.error
        for number in numbers:
            if self.fail(number):
                raise self.error
        self.seen.extend(numbers)


def due_after(monkeypatch: pytest.MonkeyPatch, seen: list[int], number: int) -> None:
    """Let no waiting record be due before a number was handled, and all after: at any load."""
    due_when(monkeypatch, lambda: number in seen)


def due_when(monkeypatch: pytest.MonkeyPatch, happened: Callable[[], bool]) -> None:
    """Let no waiting record of LATER be due before something has happened, and all after."""
    now, skipped = WaitingDeliveries.now, [0.0]

    def later(deliveries: WaitingDeliveries) -> float:
        if happened():
            skipped[0] += LONG_SECONDS
        return now(deliveries) + skipped[0]

    monkeypatch.setattr(WaitingDeliveries, "now", later)


def published(system: System, numbers: list[int] = EIGHT, exchange: str = "work") -> None:
    """Publish numbers of the key of their parity."""
    with system.bus() as bus:
        bus.publish_many(exchange, [({"n": number}, f"{number % 2}") for number in numbers])


def waiting_in(system: System, name: str = "work") -> int | None:
    """Return how many records wait that no consumer has received."""
    with broker.connect(system.topology) as connection:
        return broker.count_messages(connection, Names(system.topology).waiting(name))


def work(**options: Any) -> Any:
    return queue(routing_keys=("0", "1"), **ORDERED | options)
