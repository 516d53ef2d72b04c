"""The messages that a bus sends, and its errors for messages that are not accepted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.bus.sender import Sender
from feedbus.bus.spool import Spool
from feedbus.errors import Outage, Unroutable, UsageError
from feedbus.metrics import Metrics
from feedbus.store.peewee import close_bound
from feedbus.testing import RecordingBus
from feedbus.wire import Outgoing
from tests.projects import PATIENCE_SECONDS
from tests.small_topologies import queue
from tests.systems import System


@pytest.fixture(autouse=True)
def _store() -> Iterator[None]:
    yield
    close_bound()


def test_a_returned_message_is_reported_and_those_beside_it_arrive(tmp_path: Path) -> None:
    system = System.at(tmp_path, queue(routing_keys=("known",)))
    metrics = Metrics.none()
    with (
        type(system.bus())(system.topology, metrics) as bus,
        pytest.raises(Unroutable, match="1 message was not published: no queue of exchange"),
    ):
        bus.publish_many("work", [({"n": 1}, "known"), ({"n": 2}, "unknown"), ({"n": 3}, "known")])
    assert system.ready() == {"work": 2}


def test_threads_publish_together_and_each_learns_of_its_own(tmp_path: Path) -> None:
    system = System.at(tmp_path, queue(routing_keys=("known",)))
    reported: list[str] = []

    def publish(number: int) -> None:
        for turn in range(20):
            key = "unknown" if number == 3 else "known"
            payload = {"n": object()} if number == 5 else {"n": turn}
            try:
                bus.publish("work", payload, key, message_id=f"m-{number}-{turn}")
            except (Unroutable, UsageError) as error:
                reported.append(f"{number}: {type(error).__name__}")

    with system.bus() as bus:
        threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(reported) == ["3: Unroutable"] * 20 + ["5: UsageError"] * 20
    assert system.ready() == {"work": 120}


def test_who_waits_for_a_sender_that_fails_sends_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System.at(tmp_path, queue(routing_keys=("known",)))
    begun, go_on = threading.Event(), threading.Event()
    send = Sender.send

    def fail_once(sender: Sender, messages: list[Outgoing]) -> Any:
        monkeypatch.setattr(Sender, "send", send)
        begun.set()
        go_on.wait(PATIENCE_SECONDS)
        msg = "a bug"
        raise ZeroDivisionError(msg)

    def publish(number: int) -> None:
        with suppress(ZeroDivisionError):
            bus.publish("work", {"n": number}, "known")

    with system.bus() as bus:
        bus.publish("work", {"n": 0}, "known")
        hold = threading.Lock()
        monkeypatch.setattr(bus._shared_sender, "_lock", hold)
        threads = [threading.Thread(target=publish, args=(number,)) for number in (1, 2, 3)]
        with hold:  # so that all of them wait, and one will send for all
            monkeypatch.setattr(Sender, "send", fail_once)
            for thread in threads:
                thread.start()
            while len(bus._shared_sender._unsent_requests) < 3:
                time.sleep(0.01)
        assert begun.wait(PATIENCE_SECONDS)
        go_on.set()
        for thread in threads:
            thread.join()
    assert system.ready() == {"work": 3}


def test_a_broker_that_is_away_for_too_long_is_an_outage(tmp_path: Path) -> None:
    system = System.at(tmp_path, queue())
    away = str(system.topology.broker_url.file)
    Path(away).unlink()
    Path(away).mkdir()
    bus = type(system.bus())(system.topology, timeout_seconds=0.3)
    with bus, pytest.raises(Outage):
        bus.publish("work", {"n": 1})


def test_a_mismatch_with_what_the_broker_has_is_reported_and_not_a_traceback(
    tmp_path: Path,
) -> None:
    system = System.at(tmp_path, queue())
    with pytest.raises(
        UsageError,
        match=r"\.work: x-max-length is not set on the broker, but 5 in the topology",
    ):
        system.reshaped(queue(max_length=5))
    names = Names(system.topology)
    with broker.connect(system.topology) as connection:
        assert broker.queue_exists(connection, names.dead(system.topology.queues["work"]))
        assert not broker.queue_exists(connection, "nothing")


def test_a_recording_bus_keeps_what_a_handler_published() -> None:
    bus = RecordingBus()
    bus.publish("work", {"n": 1}, "a")
    bus.publish_columns("work", {"n": [2, 3]}, ["b", "c"], shared={"text": "x"})
    assert [(each.exchange, each.key, each.payload) for each in bus.published] == [
        ("work", "a", {"n": 1}),
        ("work", "b", {"n": 2, "text": "x"}),
        ("work", "c", {"n": 3, "text": "x"}),
    ]


def test_a_spool_gives_back_what_it_was_given_from_memory_and_from_its_file() -> None:
    messages = [
        Outgoing("work", str(number), b"x" * 100, "application/json", f"m-{number}")
        for number in range(100)
    ]
    with Spool(memory_bytes=1_000) as spool:
        assert not spool
        for start in range(0, 100, 7):
            spool.add(messages[start : start + 7])
        assert spool
        assert list(spool) == messages
        assert list(spool) == messages
