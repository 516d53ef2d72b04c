"""What the embedded broker does by time goes by no clock that anybody sets."""

from __future__ import annotations

import sqlite3
import time

import pytest

from feedbus.transports.sqlite import broker_time
from tests.conformance.drive import consume, contents, depth, drain_until, put, queue, texts

HOUR_MS = 3_600_000
A_LITTLE_MS = 60_000  # how long a test may take


@pytest.fixture
def wall(monkeypatch):
    """Set the wall clock of this process forward (or back) by so many milliseconds."""
    real = time.time_ns
    seconds = time.time

    def shift(milliseconds):
        monkeypatch.setattr(time, "time_ns", lambda: real() + milliseconds * 1_000_000)
        monkeypatch.setattr(time, "time", lambda: seconds() + milliseconds / 1000)

    return shift


@pytest.fixture
def boot(monkeypatch):
    """Begin another boot, as the file sees it: its name, and the milliseconds since."""

    def begin(name, milliseconds):
        started = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - milliseconds * 1_000_000

        def now(clock):
            assert clock == time.CLOCK_BOOTTIME
            return clock_gettime_ns(clock) - started

        clock_gettime_ns = time.clock_gettime_ns
        monkeypatch.setattr(broker_time.time, "clock_gettime_ns", now)
        monkeypatch.setattr(
            broker_time, "since_boot", lambda: (name, now(time.CLOCK_BOOTTIME) // 1_000_000)
        )

    return begin


def now_ms(path):
    with sqlite3.connect(path, isolation_level=None) as database:
        moment = broker_time.BrokerTime(database).now_ms()
    database.close()
    return moment


def delayed(channel):
    """Declare a queue whose messages go on to another after a moment, as a retry's delay does."""
    queue(channel, "work")
    return queue(
        channel,
        "delay",
        message_ttl=400,
        dead_letter_exchange="",
        dead_letter_routing_key="work",
    )


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_delay_ends_in_time_though_the_clock_jumps(connect, wall, hours):
    channel = connect().channel()
    got = consume(channel, queue(channel, "work"))
    put(channel, delayed(channel), "m")
    wall(hours * HOUR_MS)
    drain_until(channel, lambda: got)
    assert texts(got) == ["m"]


def test_a_delay_that_begins_after_the_jump_ends_in_time_for_another_connection(connect, wall):
    channel, before = connect().channel(), connect().channel()
    got = consume(before, queue(before, "work"))
    put(before, delayed(before), "1")
    wall(-HOUR_MS)
    put(channel, "delay", "2")
    drain_until(before, lambda: len(got) == 2)
    assert texts(got) == ["1", "2"]


def test_nothing_expires_early_when_the_clock_jumps_forward(connect, wall):
    channel = connect().channel()
    queue(channel, "kept", message_ttl=HOUR_MS)
    queue(channel, "used", expires=HOUR_MS)
    put(channel, "kept", "m")
    put(channel, "used", "m")
    wall(2 * HOUR_MS)
    later = connect().channel()
    assert depth(later, "kept") == 1
    assert depth(later, "used") == 1
    assert contents(later, "kept") == ["m"]


def test_a_reboot_with_a_clock_of_the_past_continues_where_the_file_was(connect, path, boot, wall):
    channel = connect().channel()
    put(channel, queue(channel, "q"), "m")
    before = now_ms(path)
    boot("another", 5_000)
    wall(-HOUR_MS)
    assert before - broker_time.NOTED_EVERY_MS <= now_ms(path) < before + A_LITTLE_MS


def test_a_reboot_continues_from_the_wall_clock(connect, path, boot, wall):
    channel = connect().channel()
    put(channel, queue(channel, "q"), "m")
    before = now_ms(path)
    boot("another", 5_000)
    wall(HOUR_MS)
    assert abs(now_ms(path) - before - HOUR_MS) < A_LITTLE_MS
    wall(0)
    assert abs(now_ms(path) - before - HOUR_MS) < A_LITTLE_MS


def test_a_message_expires_by_the_time_that_passed_while_the_machine_was_off(connect, boot, wall):
    channel = connect().channel()
    put(channel, queue(channel, "q", message_ttl=HOUR_MS), "m")
    boot("another", 5_000)
    wall(2 * HOUR_MS)
    assert depth(connect().channel(), "q") == 0


def test_a_file_of_an_earlier_feedbus_gets_a_clock(connect, path):
    put(connect().channel(), queue(connect().channel(), "q"), "m")
    with sqlite3.connect(path) as file:
        file.execute("DROP TABLE clock")
    file.close()
    assert contents(connect().channel(), "q") == ["m"]
    assert abs(now_ms(path) - broker_time.wall_ms()) < A_LITTLE_MS
