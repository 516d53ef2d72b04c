"""Batches of a runner: their records, and the verdicts on single records."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from feedbus import Retry
from feedbus.bus import Bus
from feedbus.records import Records
from feedbus.topology import Batch, RetryPolicy
from tests.projects import wait_until
from tests.small_topologies import BATCH, queue
from tests.system_fixtures import systems_on_either_broker
from tests.systems import System

make = systems_on_either_broker()

GENEROUS_SECONDS = 20.0  # for something that takes some milliseconds


def test_one_bad_record_in_a_batch_does_not_fail_its_neighbours(
    make: Callable[..., System],
) -> None:
    system = make(queue(batch=BATCH), pack=100)

    def choke(records: Records, _bus: Bus) -> None:
        if 13 in records.column("n"):
            msg = "13"
            raise ValueError(msg)
        system.seen.extend(records.column("n"))

    system.publish(range(20))
    system.run(choke, batch=True, idle_seconds=1.5)
    (letter,) = system.dead()
    assert system.seen == [n for n in range(20) if n != 13]
    assert json.loads(letter.body) == {"n": 13}


def test_a_batch_takes_what_has_arrived_however_short_its_wait(
    make: Callable[..., System],
) -> None:
    system = make(queue(batch=Batch(50, 0.0)))
    sizes: list[int] = []

    def work(records: Records, _bus: Bus) -> None:
        sizes.append(len(records))
        time.sleep(0.5)  # the other messages arrive in the meantime

    system.publish(range(50))
    system.run(work, batch=True)
    assert sum(sizes) == 50
    assert len(sizes) <= 2


def test_a_lone_record_waits_for_nobody_and_those_after_it_gather(
    make: Callable[..., System],
) -> None:
    system = make(queue(batch=Batch(4, 60.0)))  # the second batch is full before its wait is over
    batches: list[list[int]] = []

    def work(records: Records, _bus: Bus) -> None:
        batches.append(records.column("n"))

    with system.running(work, batch=True):
        system.publish([1])
        wait_until(lambda: batches == [[1]])
        for number in range(2, 6):
            system.publish([number])
        wait_until(lambda: len(batches) > 1)
    assert batches == [[1], [2, 3, 4, 5]]


def test_the_longest_time_of_a_run_ends_the_wait_of_a_batch(make: Callable[..., System]) -> None:
    system = make(queue(batch=Batch(4, 2 * GENEROUS_SECONDS)))
    batches: list[list[int]] = []

    def work(records: Records, _bus: Bus) -> None:
        batches.append(records.column("n"))
        if len(batches) == 1:
            system.publish([2])

    system.publish([1])
    started = time.monotonic()
    assert system.run(work, batch=True, max_runtime_seconds=1.0) == "ran for 1 s"
    assert time.monotonic() - started < GENEROUS_SECONDS
    assert batches == [[1], [2]]


def test_a_retry_that_becomes_due_ends_the_wait_of_a_batch(make: Callable[..., System]) -> None:
    options: dict[str, Any] = {"order_by": "n", "retry": RetryPolicy((0.1,))}
    system = make(queue(batch=Batch(4, 2 * GENEROUS_SECONDS), **options))
    calls, is_retried = Counter[int](), threading.Event()

    def work(records: Records, _bus: Bus) -> None:
        calls.update(records.column("n"))
        if calls[1] == 1:
            system.publish([2])  # it arrives before the consumer waits for the next batch
            raise Retry
        is_retried.set()

    with system.running(work, batch=True):
        system.publish([1])
        in_time = is_retried.wait(GENEROUS_SECONDS)
    assert in_time
    assert calls[1] == 2


def test_a_batch_handler_rejects_single_records_of_a_pack(make: Callable[..., System]) -> None:
    system = make(queue(batch=BATCH), pack=100)

    def pick(records: Records, _bus: Bus) -> None:
        records.where("n", range(0, 20, 7)).reject("divisible")

    system.publish(range(20))
    system.run(pick, batch=True)
    assert [json.loads(letter.body)["n"] for letter in system.dead()] == [0, 7, 14]


@pytest.mark.parametrize("options", [{}, {"once": True}, {"stream": True}])
def test_what_records_of_a_batch_publish_arrives_under_ids_of_theirs(
    make: Callable[..., System], options: dict[str, bool]
) -> None:
    next_ = queue("next", exchange="other", routing_keys=("n",), batch=BATCH)
    system = make(queue(batch=BATCH, **options), next_, pack=100)
    ids: list[str] = []

    def send_on(records: Records, _bus: Bus) -> None:
        records.where("n", {3}).reject("not this one")
        records.remaining().publish("other", key="n", columns={"n": "n"})
        if len(records) > 1:
            msg = "each is taken alone"
            raise ValueError(msg)

    def note(records: Records, _bus: Bus) -> None:
        ids.extend(records.ids)
        system.seen.extend(records.column("n"))

    system.publish(range(5))
    system.run(send_on, batch=True)
    system.run(note, "next", batch=True)
    assert system.seen == [0, 1, 2, 4]
    assert len(set(ids)) == 4
    assert [letter.reason for letter in system.dead()] == ["not this one"]


def test_a_batch_handler_that_publishes_by_the_bus_has_failed_with_what_to_do(
    make: Callable[..., System],
) -> None:
    system = make(queue(batch=BATCH), queue("next", exchange="other"))
    system.publish(range(2))
    system.run(lambda records, bus: bus.publish("other", records[0]), batch=True)
    reasons = {letter.reason for letter in system.dead()}
    assert len(reasons) == 1
    assert "records.publish(…)" in reasons.pop()


def test_invalid_records_of_a_pack_are_dead_and_the_others_handled(
    make: Callable[..., System],
) -> None:
    system = make(queue(batch=BATCH), pack=100)
    with system.bus() as bus:
        bus.publish_columns("work", {"n": [1, "two", 3]}, ["", "", ""])
    system.run(lambda records, _: system.seen.extend(records.column("n")), batch=True)
    assert system.seen == [1, 3]
    assert [letter.errors for letter in system.dead()] == [{"n": ["Not a valid integer."]}]
