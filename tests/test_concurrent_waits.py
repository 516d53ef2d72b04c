"""A consumer with `concurrency` waits without polling, idle or while its records run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from feedbus import Retry
from feedbus.dispatch import running_calls
from feedbus.dispatch.wake_up_socket import Waker
from feedbus.runner.concurrent_mode import ConcurrentMode
from feedbus.topology import RetryPolicy
from tests.small_topologies import queue
from tests.system_fixtures import systems_on
from tests.systems import System

FEW = 60  # waits of a second, where a consumer that polls has hundreds
SECONDS = 1.0


make = systems_on("embedded", "rabbitmq")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times of a consumer's waits."""
    counted: list[float] = []
    original = ConcurrentMode.receive

    def receive(self: ConcurrentMode, raw: Any) -> bool:
        counted.append(time.monotonic())
        return original(self, raw)

    monkeypatch.setattr(ConcurrentMode, "receive", receive)
    return counted


def publish(system: System, *keys: str) -> None:
    with system.bus() as bus:
        for n, key in enumerate(keys):
            bus.publish("work", {"n": n, "text": key}, "")


def test_a_wake_up_that_comes_after_its_record_was_finished_does_not_end_every_wait(
    make: Callable[..., System], waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    class LateWaker(Waker):
        """A waker whose threads wake the consumer again after it has finished their records."""

        late = False

        def wake(self) -> None:
            super().wake()
            self.late = True

        def sleep(self) -> None:
            super().sleep()
            if self.late:
                super().wake()
                self.late = False

    monkeypatch.setattr(running_calls, "Waker", LateWaker)
    system = make(queue(concurrency=2))
    publish(system, "ann")
    system.run(lambda _record, _bus: None, idle_seconds=SECONDS)
    assert len(waits) < FEW


def test_a_waiting_record_that_is_due_causes_no_polling_while_no_other_record_may_start(
    make: Callable[..., System], waits: list[float]
) -> None:
    system = make(queue(concurrency=2, order_by="text", retry=RetryPolicy((0.1,))))
    calls: list[tuple[str, float]] = []
    failed = threading.Event()

    def handle(record: Any, _bus: Any) -> None:
        calls.append((record["text"], time.monotonic()))
        if record["text"] == "ann" and not failed.is_set():
            failed.set()
            raise Retry
        if record["text"] != "ann":
            failed.wait(10)
            time.sleep(SECONDS)  # two of these use the consumer up while ann's retry becomes due

    publish(system, "ben", "ann", "eve")
    system.run(handle, idle_seconds=SECONDS)
    assert [key for key, _ in calls].count("ann") == 2
    assert len(waits) < FEW


def test_a_record_that_runs_longer_than_the_idle_timeout_causes_no_polling(
    make: Callable[..., System], waits: list[float]
) -> None:
    system = make(queue(concurrency=2))
    publish(system, "ann")
    system.run(lambda _record, _bus: time.sleep(SECONDS), idle_seconds=SECONDS / 10)
    assert len(waits) < FEW


def test_a_call_that_ends_after_its_run_wakes_nobody() -> None:
    waker = Waker()
    waker.close()
    waker.wake()
