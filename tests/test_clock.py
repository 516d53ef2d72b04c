"""Time as a port: a virtual clock advances only by waits."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from datetime import UTC, datetime

import pytest

from feedbus.bus import LiveBus
from feedbus.clock import NothingToWaitFor, SystemClock, VirtualClock
from feedbus.errors import PublishError
from feedbus.transports import memory
from feedbus.urls import BrokerUrl
from tests.small_topologies import queue
from tests.system_fixtures import closing_store
from tests.systems import System


def test_a_virtual_clock_stands_still_until_somebody_waits():
    clock = VirtualClock(datetime(2026, 1, 31, tzinfo=UTC))
    time.sleep(0.01)
    assert clock.now() == datetime(2026, 1, 31, tzinfo=UTC)
    assert clock.monotonic() == 0


def test_a_wait_on_a_virtual_clock_passes_at_once_and_shows_on_both_of_its_times():
    clock = VirtualClock(datetime(2026, 1, 31, tzinfo=UTC))
    clock.sleep(3600)
    assert clock.now() == datetime(2026, 1, 31, 1, tzinfo=UTC)
    assert clock.monotonic() == 3600


def test_the_shortest_wait_moves_a_virtual_clock():
    clock = VirtualClock()
    clock.sleep(1e-15)
    assert clock.monotonic() > 0


@pytest.fixture
def pair():
    with selectors.DefaultSelector() as selector:
        here, there = socket.socketpair()
        selector.register(here, selectors.EVENT_READ)
        yield selector, there
        here.close()
        there.close()


def test_what_is_ready_ends_a_wait_on_a_virtual_clock_before_any_time_has_passed(pair):
    selector, there = pair
    clock = VirtualClock()
    there.send(b".")
    assert len(clock.select(selector, 60)) == 1
    assert clock.monotonic() == 0


def test_where_nothing_is_ready_a_virtual_clock_goes_on_by_the_whole_wait(pair):
    selector, _ = pair
    clock = VirtualClock()
    assert clock.select(selector, 60) == []
    assert clock.monotonic() == 60


def test_a_wait_without_a_limit_on_a_virtual_clock_is_an_error_and_no_standstill(pair):
    selector, _ = pair
    with pytest.raises(NothingToWaitFor, match="would wait for ever"):
        VirtualClock().select(selector, None)


def test_the_machines_clock_waits_for_what_is_registered(pair):
    selector, there = pair
    clock = SystemClock()
    assert clock.select(selector, 0) == []
    there.send(b".")
    assert len(clock.select(selector, None)) == 1


def test_an_event_that_is_set_ends_a_wait_on_a_virtual_clock_before_any_time_has_passed():
    clock, event = VirtualClock(), threading.Event()
    assert not clock.wait(event, 60)
    assert clock.monotonic() == 60
    event.set()
    assert clock.wait(event, 60)
    assert clock.monotonic() == 60


def test_an_event_that_nobody_will_set_is_an_error_on_a_virtual_clock():
    with pytest.raises(NothingToWaitFor, match="would never end"):
        VirtualClock().wait(threading.Event())


def test_clocks_of_one_seed_give_the_same_names():
    names = [VirtualClock(seed=7).unique() for _ in range(2)]
    assert names[0] == names[1]
    assert VirtualClock(seed=8).unique() != names[0]
    assert VirtualClock().unique() != VirtualClock().unique()


def test_a_full_queue_is_waited_for_by_the_clock_of_its_broker(tmp_path):
    clock = VirtualClock(seed=1)
    memory.create(memory.MemoryBroker("full", clock=clock))
    full = {"x-max-length": 0, "x-overflow": "reject-publish"}
    try:
        with closing_store():
            url = BrokerUrl.in_memory("full")
            system = System.at(tmp_path, queue(arguments=full), broker_url=url)
            bus = LiveBus(system.topology, timeout_seconds=60)
            with bus, pytest.raises(PublishError, match="full"):
                bus.publish("work", {"n": 1})
    finally:
        memory.remove("full")
    assert clock.monotonic() >= 60
