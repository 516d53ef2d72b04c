"""When the relay tries again, publishes leftover rows and prunes, on a virtual clock; its log."""

from __future__ import annotations

import itertools
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from feedbus.clock import VirtualClock
from feedbus.errors import BrokerOutage, PublishError
from feedbus.store.peewee import PeeweeStore
from feedbus.store.protocol import OutboxRow
from feedbus.store.relay import (
    CHECK_SECONDS,
    GATHER_SECONDS,
    PRUNE_SECONDS,
    RETRY_SECONDS,
    Relay,
)
from feedbus.topology import StoreOptions, Topology
from feedbus.urls import parse_broker_url, parse_store_url

BUSY_SECONDS = 0.5  # the time between two calls of publish() in a busy program


class Bus:
    """A bus that notes the time of each attempt, and returns an error for rows of some keys."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.errors: dict[str, Exception] = {}  # by key
        self.attempts: list[tuple[float, str]] = []  # (time, key)

    def selects_shards(self, _exchange: str) -> bool:
        return True

    def publish_rows(self, rows: Sequence[OutboxRow]) -> Sequence[Exception | None]:
        self.attempts += [(self.clock.monotonic(), row.key) for row in rows]
        return [self.errors.get(row.key) for row in rows]

    def close(self) -> None: ...


class BusyClock(VirtualClock):
    """A clock on which something happens every BUSY_SECONDS of a wait for an event."""

    def __init__(self) -> None:
        super().__init__()
        self.act: Callable[[], None] = lambda: None

    def wait(self, event: threading.Event, seconds: float | None = None) -> bool:
        assert seconds is not None
        until = self.monotonic() + seconds
        while not event.is_set() and self.monotonic() < until:
            self.sleep(min(BUSY_SECONDS, until - self.monotonic()))
            self.act()
        return event.is_set()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PeeweeStore]:
    opened = PeeweeStore(f"sqlite:///{tmp_path}/store.db", "shop")
    opened.set_up()
    yield opened
    opened.close()


@pytest.fixture
def clock() -> BusyClock:
    return BusyClock()


@pytest.fixture
def bus(clock: BusyClock) -> Bus:
    return Bus(clock)


@pytest.fixture
def relay(
    store: PeeweeStore, bus: Bus, clock: BusyClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Relay:
    monkeypatch.setattr("feedbus.store.relay.IN_FLIGHT_SECONDS", 0.0)
    url = parse_store_url(f"sqlite:///{tmp_path}/store.db")
    broker = parse_broker_url(f"sqlite:///{tmp_path}/broker.db")
    options = StoreOptions(url=url, keep_handled_seconds=-1.0)
    topology = Topology("shop", tmp_path / "t.toml", broker, {}, {}, store=options)
    return Relay(topology, store, bus, clock)


def run(relay: Relay, clock: BusyClock, seconds: float, act: Callable[[], None]) -> None:
    """Run the relay's thread here for some virtual time; call `act` every BUSY_SECONDS."""
    until = clock.monotonic() + seconds

    def step() -> None:
        act()
        if clock.monotonic() >= until:
            relay.stop()

    clock.act = step
    relay.run()


def waits_between(bus: Bus, key: str) -> list[float]:
    times = [time for time, tried in bus.attempts if tried == key]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_after_an_error_the_next_attempt_comes_after_the_logged_time(
    store, bus, relay, clock, caplog
):
    store.outbox.put("orders", {}, "a")
    bus.errors["a"] = BrokerOutage("the broker is unavailable")
    with caplog.at_level(logging.INFO):
        run(relay, clock, 20.0, lambda: None)
    waits = waits_between(bus, "a")
    assert len(waits) > 10
    assert all(wait <= RETRY_SECONDS + 2 * GATHER_SECONDS for wait in waits)
    assert f"tries again every {RETRY_SECONDS:g} s" in caplog.text
    assert caplog.text.count("relay_waits") == 1  # the reason stays the same


def test_a_program_that_publishes_all_the_time_does_not_shorten_the_wait_after_an_error(
    store, bus, relay, clock
):
    bus.errors["a"] = BrokerOutage("the broker is unavailable")
    row = store.outbox.put("orders", {}, "a")
    run(relay, clock, 20.0, lambda: relay.publish([row]))
    waits = waits_between(bus, "a")[1:]  # the first attempts were publish() and the first round
    assert len(waits) > 10
    assert all(wait >= RETRY_SECONDS for wait in waits)


def test_a_program_that_publishes_all_the_time_does_not_delay_leftover_rows(
    store, bus, relay, clock
):
    store.outbox.put("orders", {}, "full")
    bus.errors["full"] = PublishError([("full", "the queue is full")])
    run(relay, clock, 60.0, lambda: relay.publish([store.outbox.put("orders", {}, "b")]))
    waits = waits_between(bus, "full")
    assert len(waits) >= 60 / (CHECK_SECONDS + 1) - 1
    assert all(CHECK_SECONDS <= wait <= CHECK_SECONDS + 1 for wait in waits)


def test_the_inbox_is_pruned_at_intervals_of_time_however_often_publish_is_called(
    store, relay, clock
):
    pruned_at: list[float] = []

    def act() -> None:
        relay.publish([store.outbox.put("orders", {}, "b")])
        if store.inbox.add_new("work", ["x"]):  # the relay has deleted the previous row
            pruned_at.append(clock.monotonic())

    run(relay, clock, 3 * PRUNE_SECONDS, act)
    waits = [later - earlier for earlier, later in itertools.pairwise(pruned_at)]
    assert len(waits) > 1
    assert all(PRUNE_SECONDS - 1 <= wait <= PRUNE_SECONDS + 1 for wait in waits[1:]), waits


def test_the_log_does_not_blame_the_broker_for_an_outage_of_the_store(
    store, bus, relay, caplog, tmp_path
):
    row = store.outbox.put("orders", {}, "a")
    with sqlite3.connect(tmp_path / "store.db") as other:
        other.execute("DROP TABLE feedbus_outbox")
    with caplog.at_level(logging.INFO):
        relay.publish([row])
    other.close()
    assert bus.attempts == []
    (line,) = caplog.messages
    assert "event=relay_waits" in caplog.text
    assert "feedbus_outbox" in caplog.text
    assert "broker" not in line
