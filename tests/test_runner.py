"""The run of a consumer: readiness, limits, outages and crashes."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from feedbus.bus import Bus
from feedbus.bus.sender import Sender
from feedbus.dispatch import publications
from feedbus.errors import BrokerOutage, Outage, StoreOutage
from feedbus.process.watchdog import Note
from feedbus.runner import CrashGuard
from feedbus.store.peewee import close_bound, database
from feedbus.units import counted
from tests.small_topologies import queue
from tests.system_fixtures import closing_store, systems_on_either_broker
from tests.systems import System

make = systems_on_either_broker()


def test_a_message_is_handled_once_and_leaves_nothing_behind(make: Callable[..., System]) -> None:
    system = make(queue())
    system.publish([1, 2, 3])
    assert system.run(system.note) == "idle for 0.3 s"
    assert system.seen == [1, 2, 3]
    assert system.ready() == {"work": 0}
    assert system.dead() == []


def test_a_message_whose_error_ends_the_runner_is_given_up_after_five(
    make: Callable[..., System],
) -> None:
    system = make(queue())

    class Unforeseen(KeyboardInterrupt):
        """An exception that ends a process; any other exception is a failure of the message."""

    def end(message: dict[str, Any], _bus: Bus) -> None:
        if message["n"] == 2:
            raise Unforeseen
        system.note(message)

    system.publish([1, 2, 3])
    for _ in range(5):
        with pytest.raises(Unforeseen):
            system.run(end)
    system.run(end)
    (letter,) = system.dead()
    assert json.loads(letter.body) == {"n": 2}
    assert "ended 5 times" in letter.reason
    assert set(system.seen) == {1, 3}


def test_a_store_that_is_locked_holds_the_runner_and_counts_no_attempt(
    make: Callable[..., System], tmp_path: Path
) -> None:
    system = make(queue(), stored=True)
    database.execute_sql("CREATE TABLE effects (n integer)")
    database.execute_sql("PRAGMA busy_timeout = 50")
    blocker = sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(0.5, lambda: blocker.execute("COMMIT"))

    def write(message: dict[str, Any], _bus: Bus) -> None:
        database.execute_sql("INSERT INTO effects VALUES (?)", (message["n"],))

    system.publish([1])
    timer.start()
    system.run(write, idle_seconds=1.5)
    timer.join()
    assert blocker.execute("SELECT n FROM effects").fetchall() == [(1,)]
    blocker.close()
    assert system.dead() == []


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"max_runtime_seconds": 2}, "ran for 2 s"), ({"idle_seconds": 0.5}, "idle for 0.5 s")],
)
def test_limits_end_a_run_that_holds(
    make: Callable[..., System], limits: dict[str, float], reason: str
) -> None:
    system = make(queue())
    holds: list[str] = []

    def need_something(_message: dict[str, Any], _bus: Bus) -> None:
        msg = "the printer is unavailable"
        raise Outage(msg)

    system.publish([1])
    assert (
        system.run(need_something, on_hold=holds.append, **{"idle_seconds": 9, **limits}) == reason
    )
    assert holds == ["the printer is unavailable"]
    assert (system.ready(), system.dead()) == ({"work": 1}, [])


def test_a_consumer_that_goes_on_says_so_and_waits_longer_only_while_nothing_succeeds(
    make: Callable[..., System], caplog: pytest.LogCaptureFixture
) -> None:
    system = make(queue())
    holds: list[str] = []

    def fail_twice(message: dict[str, Any], _bus: Bus) -> None:
        system.note(message)
        if len(system.seen) % 3:
            msg = "the printer is unavailable"
            raise Outage(msg)

    system.publish([1, 2])
    with caplog.at_level(logging.INFO):
        system.run(fail_twice, on_hold=holds.append, idle_seconds=60, max_messages=2)
    assert holds == ["the printer is unavailable", "", "the printer is unavailable", ""]
    reported = [
        record.getMessage() for record in caplog.records if "printer" in record.getMessage()
    ]
    assert len(reported) == 2  # an equal line is logged once
    assert sum("continues after 2 failed attempts" in text for text in caplog.messages) == 2


def test_the_time_of_a_handler_whose_service_was_away_does_not_count_as_idle(
    make: Callable[..., System],
) -> None:
    system = make(queue())

    def fail_once(message: dict[str, Any], _bus: Bus) -> None:
        system.note(message)
        if len(system.seen) == 1:
            time.sleep(1.1)
            msg = "the printer was unavailable"
            raise Outage(msg)

    system.publish([1])
    assert system.run(fail_once, idle_seconds=1.0) == "idle for 1 s"
    assert system.seen == [1, 1]


def test_a_run_that_connects_for_longer_than_it_may_idle_still_handles_what_waits(
    tmp_path: Path,
) -> None:
    system = System.at(tmp_path, queue())
    system.publish([1])
    with closing(sqlite3.connect(tmp_path / "broker.db", check_same_thread=False)) as writer:
        writer.isolation_level = None
        writer.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.6, writer.execute, ["ROLLBACK"])
        release.start()
        system.run(system.note)
        release.join()
    close_bound()
    assert system.seen == [1]


def test_a_queue_that_says_stream_sends_so_many_at_once_while_its_handler_still_works(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publications, "STREAM_RECORDS", 2)
    system = make(queue(stream=True), queue("next", exchange="other", routing_keys=("n",)))
    ready: list[int] = []

    def publish(message: dict[str, Any], bus: Bus) -> None:
        for _ in range(3):
            bus.publish("other", message, "n")
            ready.append(system.ready()["next"])

    system.publish([1, 2])
    system.run(publish)
    assert ready == [0, 2, 2, 3, 5, 5]
    assert system.ready()["next"] == 6


def test_a_run_says_once_that_it_is_ready(make: Callable[..., System]) -> None:
    system = make(queue())
    reported: list[int] = []
    system.publish([1, 2, 3])
    system.run(system.note, on_ready=lambda: reported.append(len(system.seen)))
    assert (reported, system.seen) == ([0], [1, 2, 3])


MODES = pytest.mark.parametrize(
    "options",
    [{}, {"store": False}, {"concurrency": 2}],
    ids=["batch mode", "group mode", "concurrent mode"],
)


class Killed(KeyboardInterrupt):
    """An exception that ends a process; any other exception is a failure of the message."""


def kill(reason: str) -> None:
    if reason:
        raise Killed


@MODES
def test_a_kill_while_a_consumer_waits_because_of_an_outage_is_counted_against_no_message(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    def need_store(_message: dict[str, Any], _bus: Bus) -> None:
        msg = "the store is unavailable"
        raise StoreOutage(msg)

    with closing_store():
        system = System.at(tmp_path, queue(**options))
        system.publish([1])
        for _ in range(system.topology.queues["work"].delivery_limit + 1):
            with pytest.raises(Killed):
                system.run(need_store, on_hold=kill)
        system.run(system.note)
        assert (system.seen, system.dead()) == ([1], [])


@MODES
def test_no_message_is_in_the_handler_while_its_messages_cannot_be_sent(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_handler: list[Sequence[str]] = []

    def publish(message: dict[str, Any], bus: Bus) -> None:
        bus.publish("work", message)

    def lose_broker(*_arguments: Any) -> None:
        msg = "the broker is unavailable"
        raise BrokerOutage(msg)

    def look(reason: str) -> None:
        with (tmp_path / "var/run/work.handler").open("rb") as file:
            note = Note.read(file.fileno())
        in_handler.append(note.message_ids if note is not None else ())
        kill(reason)

    with closing_store():
        system = System.at(tmp_path, queue(**options))
        system.publish([1])
        monkeypatch.setattr(Sender, "send", lose_broker)
        with pytest.raises(Killed):
            system.run(publish, on_hold=look)
    assert in_handler == [()]


def test_what_was_in_the_handler_is_read_from_a_line_shorter_than_the_one_before(
    tmp_path: Path,
) -> None:
    path = tmp_path / "work.handler"

    def die() -> None:
        with CrashGuard(path) as crash_guard:
            crash_guard.set_messages([f"message-{number}" for number in range(50)], 60.0)
            crash_guard.release()
            crash_guard.set_messages(["one"], 60.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        die()
    with CrashGuard(path) as crash_guard:
        assert (crash_guard.is_suspected("one"), crash_guard.is_suspected("message-1")) == (
            True,
            False,
        )


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_messages_are_handled_than_asked_for(
    make: Callable[..., System], limit: int
) -> None:
    system = make(queue())
    system.publish(range(5))
    assert system.run(system.note, max_messages=limit) == f"handled {counted(limit, 'message')}"
    assert system.seen == list(range(limit))
    assert system.ready() == {"work": 5 - limit}


def test_a_run_ends_after_its_longest_time_though_messages_come(
    make: Callable[..., System],
) -> None:
    system = make(queue())

    def slow(message: dict[str, Any], _bus: Bus) -> None:
        system.note(message)
        time.sleep(0.1)

    system.publish(range(50))
    assert system.run(slow, max_runtime_seconds=0.3) == "ran for 0.3 s"
    assert system.ready() == {"work": 50 - len(system.seen)}
