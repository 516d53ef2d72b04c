"""A consumer with `concurrency` waits without polling, idle or while its records run."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from feedbus import Outage, Retry
from feedbus.clock import VirtualClock
from feedbus.dispatch import running_calls
from feedbus.dispatch.wake_up_socket import Waker
from feedbus.runner import concurrent_mode, run_state
from feedbus.runner.buffer import Buffer
from feedbus.runner.concurrent_deliveries import ConcurrentDeliveries
from feedbus.runner.concurrent_mode import ConcurrentMode
from feedbus.runner.limits import Limits, RemainingLimits
from feedbus.runner.run_state import MIN_WAIT_SECONDS, POLL_SECONDS, Run
from feedbus.topology import RetryPolicy
from feedbus.wire import Delivery
from tests.projects import wait_until
from tests.small_topologies import queue
from tests.system_fixtures import systems_on
from tests.systems import System
from tests.test_buffer_lanes import delivery, divided

FEW = 60  # waits of a second, where a consumer that polls has hundreds
SECONDS = 1.0
GENEROUS_SECONDS = 20.0  # for something that takes some milliseconds
NO_ANSWER = "the service does not answer"


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


@pytest.fixture
def long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each wait of a consumer last until an event ends it."""
    for module, name in (
        (run_state, "POLL_SECONDS"),
        (run_state, "LONG_POLL_SECONDS"),
        (concurrent_mode, "POLL_SECONDS"),
    ):
        monkeypatch.setattr(module, name, 10 * GENEROUS_SECONDS)


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

        def reset(self) -> None:
            super().reset()
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


@pytest.mark.usefixtures("long_waits")
def test_a_record_that_arrives_before_the_wait_starts_at_once(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ConcurrentMode.receive
    system = make(queue(concurrency=2))
    has_published, eve_starts, at_once = threading.Event(), threading.Event(), []

    def receive(self: ConcurrentMode, raw: Any) -> bool:
        if self.has_unsettled and not has_published.is_set():
            has_published.set()
            publish(system, "eve")
            while not self._run.buffer:
                with contextlib.suppress(TimeoutError):
                    raw.drain_events(timeout=SECONDS)
        return original(self, raw)

    def handle(record: Any, _bus: Any) -> None:
        if record["text"] == "eve":
            eve_starts.set()
        else:
            at_once.append(eve_starts.wait(GENEROUS_SECONDS))

    monkeypatch.setattr(ConcurrentMode, "receive", receive)
    publish(system, "ann")
    system.run(handle)
    assert at_once == [True]


@pytest.mark.usefixtures("long_waits")
def test_a_record_starts_again_at_once_after_the_hold_for_its_outage(
    make: Callable[..., System],
) -> None:
    system = make(queue(concurrency=2))
    ben_starts, ann_starts_again, at_once = threading.Event(), threading.Event(), []
    calls: list[str] = []

    def handle(record: Any, _bus: Any) -> None:
        calls.append(record["text"])
        if record["text"] == "ben":
            ben_starts.set()
            at_once.append(ann_starts_again.wait(GENEROUS_SECONDS))
        elif calls.count("ann") == 1:
            ben_starts.wait(GENEROUS_SECONDS)
            raise Outage(NO_ANSWER)
        else:
            ann_starts_again.set()

    publish(system, "ann", "ben")
    system.run(handle)
    assert at_once == [True]


class RunningForever:
    """Stands for ConcurrentDeliveries whose calls never end."""

    has_capacity = has_running_calls = True
    has_ended_calls = False
    oldest_at = math.inf

    def __init__(self) -> None:
        self.decoded: list[Delivery] = []

    def __getattr__(self, _name: str) -> Any:
        """Return a method that does nothing."""
        return lambda *_: None

    def __len__(self) -> int:
        return len(self.decoded)

    def has_deliveries_of(self, consumer_tag: str) -> bool:
        return any(each.consumer_tag == consumer_tag for each in self.decoded)

    def decode(self, one: Delivery, _arrived_at: float) -> None:
        self.decoded.append(one)


class SilentConnection:
    """Stands for a connection on which nothing arrives; records the waits."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def take_arrived(self) -> None:
        pass

    def drain_events(self, *, timeout: float) -> None:
        self.waits.append(timeout)
        raise TimeoutError


def mode_with(buffer: Buffer, concurrent: Any) -> ConcurrentMode:
    clock = VirtualClock()
    parts: dict[str, Any] = dict.fromkeys(
        ("topology", "dispatch", "outage_pause", "waiting", "is_assigned")
    )
    parts |= {
        "consumer": SimpleNamespace(queue=queue(concurrency=8)),
        "resources": SimpleNamespace(open=lambda: None),
        "crash_guard": SimpleNamespace(is_suspected=lambda _: False),
        "heartbeats": SimpleNamespace(beat=lambda: None, while_working=contextlib.nullcontext),
        "timeout": SimpleNamespace(would_expire=lambda _: False),
        "limits": RemainingLimits(Limits(), clock),
        "handler_seconds": SECONDS,
        "clock": clock,
        "buffer": buffer,
    }
    readers = {"old": SimpleNamespace(fence_due_at=-math.inf)}
    subscriptions: Any = SimpleNamespace(readers=readers)
    return ConcurrentMode(Run(**parts), subscriptions, concurrent)


def test_deliveries_behind_a_fence_that_must_wait_cause_no_polling() -> None:
    concurrent, raw = RunningForever(), SilentConnection()
    buffer = divided(delivery(1, "old"), delivery(2, "old", fence=True), delivery(3, "old"))
    mode = mode_with(buffer, concurrent)
    for _ in range(10):
        assert mode.receive(raw)
        assert mode.handle_next(raw)
    assert [each.tag for each in concurrent.decoded] == [1]
    assert raw.waits == [MIN_WAIT_SECONDS] * 2 + [POLL_SECONDS] * 8


def test_a_fence_that_must_wait_does_not_delay_the_deliveries_of_another_generation() -> None:
    concurrent, raw = RunningForever(), SilentConnection()
    buffer = divided(delivery(1, "old"), delivery(2, "old", fence=True), delivery(3, "new"))
    while buffer.next_delivery.tag != 3:
        buffer.next_lane()
    mode = mode_with(buffer, concurrent)  # it begins with the other lane
    while mode.receive(raw) and max(raw.waits) == MIN_WAIT_SECONDS:
        mode.handle_next(raw)
    assert [each.tag for each in concurrent.decoded] == [1, 3]


def test_a_call_that_ends_during_the_outage_of_another_is_settled_at_the_end_of_the_run(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ConcurrentDeliveries.take_outage
    system = make(queue(concurrency=2))
    running: list[str] = []
    run_ends, ben_may_end = threading.Event(), threading.Event()

    def take_outage(self: ConcurrentDeliveries) -> Outage | None:
        outage = original(self)
        if outage is not None:
            ben_may_end.set()
            wait_until(lambda: self.has_ended_calls)
        return outage

    def handle(record: Any, _bus: Any) -> None:
        running.append(record["text"])
        if record["text"] == "ben":
            ben_may_end.wait(GENEROUS_SECONDS)
        else:
            run_ends.wait(GENEROUS_SECONDS)
            raise Outage(NO_ANSWER)

    monkeypatch.setattr(ConcurrentDeliveries, "take_outage", take_outage)
    finish_running = ConcurrentMode.finish_running

    def finish(self: ConcurrentMode) -> None:
        run_ends.set()
        finish_running(self)

    monkeypatch.setattr(ConcurrentMode, "finish_running", finish)
    publish(system, "ann", "ben")
    with system.running(handle):
        wait_until(lambda: len(running) == 2)
    assert system.ready() == {"work": 1}  # only the record with the outage
