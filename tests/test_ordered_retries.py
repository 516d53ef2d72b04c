"""Retries in the order of their keys, on every broker: which records wait, how long, and where."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker import declarations
from feedbus.broker_names import Names
from feedbus.dispatch import batch_calls
from feedbus.dispatch.waiting_record import WaitingRecord
from feedbus.dispatch.waiting_records import WaitingRecords
from feedbus.errors import Reject, Retry
from feedbus.records import Records
from feedbus.runner.concurrent_deliveries import ConcurrentDeliveries
from feedbus.runner.queue_reader import QueueReader
from feedbus.topology import RetryPolicy
from servers import versions
from tests.ordered_queues import (
    EIGHT,
    LATER,
    ORDERED,
    Failing,
    due_after,
    due_when,
    published,
    waiting_in,
    work,
)
from tests.projects import wait_until
from tests.small_topologies import BATCH, sharded
from tests.system_fixtures import systems_on

make = systems_on("embedded", versions.chosen()[-1])


@pytest.mark.parametrize(
    ("how", "kind"),
    [("single", "classic"), ("batch", "quorum"), ("concurrent", "classic")],
)
def test_a_failed_records_key_waits_and_other_keys_go_on(make, how, kind, monkeypatch):
    options = {"batch": {"batch": BATCH}, "concurrent": {"concurrency": 4, "prefetch": 20}}
    system = make(work(type=kind, retry=LATER, **options.get(how, {})))
    published(system)
    handler = Failing({3: 2, 7: 1})
    due_after(monkeypatch, handler.seen, 8)
    system.run(handler.batch if how == "batch" else handler.one, batch=how == "batch")
    odd = [number for number in handler.seen if number % 2]
    even = [number for number in handler.seen if number % 2 == 0]
    assert (odd, even) == ([1, 3, 5, 7], [2, 4, 6, 8])
    assert handler.seen.index(3) > handler.seen.index(8)
    assert (system.ready(), system.dead()) == ({"work": 0}, [])
    assert waiting_in(system, Names(system.topology).queue(system.topology.consumer("work"))) == 0


def test_a_batch_that_retries_an_earlier_record_of_a_key_is_handled_without_the_later_ones(
    make, monkeypatch
):
    system = make(work(batch=BATCH, retry=LATER))
    published(system)
    handler = Failing({3: 1})
    due_after(monkeypatch, handler.seen, 8)
    calls = []

    def mark(records: Records, _bus: Any) -> None:
        numbers = records.column("n")
        calls.append(numbers)
        if handler.left[3] > 0 and 3 in numbers:
            records.where("n", {3}).retry("not yet")
            if 5 in numbers:
                return  # this call has no effect
            handler.left[3] = 0
            numbers = [number for number in numbers if number != 3]
        handler.seen.extend(numbers)

    system.run(mark, batch=True)
    assert handler.seen == [1, 2, 4, 6, 8, 3, 5, 7]
    assert calls == [EIGHT, [1, 2, 3, 4, 6, 8], [3, 5, 7]]


def test_a_batch_that_goes_on_to_overtake_its_keys_is_handled_one_record_at_a_time(
    make, monkeypatch
):
    system = make(work(batch=BATCH, retry=LATER))
    published(system)
    handler = Failing({3: 1})
    due_after(monkeypatch, handler.seen, 8)
    calls = []

    def mark(records: Records, _bus: Any) -> None:
        numbers = records.column("n")
        calls.append(len(numbers))
        if len(calls) <= batch_calls.MAX_CALLS:  # the first record of the next key, each time
            records.where("n", numbers[: len(calls)][-1:]).retry("not yet")
        elif handler.left[3] > 0 and 3 in numbers:
            handler.left[3] -= 1
            records.where("n", {3}).retry("not yet")
        else:
            handler.seen.extend(numbers)

    monkeypatch.setattr(batch_calls, "MAX_CALLS", 2)
    system.run(mark, batch=True)
    assert handler.seen == [1, 2, 4, 6, 8, 3, 5, 7]
    assert calls == [8, 5, 1, 1, 1, 1, 1, 1, 3]


@pytest.mark.parametrize("how", ["single", "once", "batch"])
def test_waiting_records_become_fewer_although_as_many_records_arrive(make, how, monkeypatch):
    options = {"single": {}, "once": {"once": True}, "batch": {"batch": BATCH}}
    system = make(work(retry=LATER, **options[how]))
    published(system, [1] * 40)
    seen, begun = [], []
    add = WaitingRecords.add

    def count(records: WaitingRecords, record: WaitingRecord) -> None:
        begun.append(record)
        add(records, record)

    def handle(message: dict[str, Any], bus: Any) -> None:
        if not begun:
            raise ValueError
        seen.append(message["n"])
        if len(seen) <= 400:
            bus.publish_many("work", [({"n": 1}, "1")])

    def handle_batch(records: Records, _bus: Any) -> None:
        for single in records.singles():
            handle({"n": 1}, single)

    monkeypatch.setattr(WaitingRecords, "add", count)
    due_when(monkeypatch, lambda: len(begun) >= 40)
    system.run(handle_batch if how == "batch" else handle, batch=how == "batch")
    assert (len(seen), system.ready(), system.dead()) == (440, {"work": 0}, [])
    assert len(begun) < 200


@pytest.mark.parametrize("error", [Reject("no"), Retry("no", after_seconds=0.05)])
def test_a_dead_letter_releases_its_key(make, error):
    system = make(work())
    published(system)
    handler = Failing({})

    def fail(message: dict[str, Any], bus: Any) -> None:
        if message["n"] == 3:
            raise error
        handler.one(message, bus)

    system.run(fail)
    assert [letter.attempts for letter in system.dead()] == [1 if type(error) is Reject else 4]
    assert [number for number in handler.seen if number % 2] == [1, 5, 7]


def test_records_of_a_pack_wait_alone(make):
    system = make(sharded(1, **ORDERED), pack=100)
    published(system, exchange="ring")
    handler = Failing({3: 1, 2: 1})
    system.run(handler.one, "shard_0")
    assert handler.seen[0] == 1
    assert [number for number in handler.seen if number % 2] == [1, 3, 5, 7]
    assert [number for number in handler.seen if number % 2 == 0] == [2, 4, 6, 8]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_whoever_is_lost_before_it_acknowledges_repeats_nothing_that_waits(
    make, concurrency, monkeypatch
):
    system = make(work(concurrency=concurrency, prefetch=20))
    published(system)
    handler = Failing({1: 1, 2: 1})
    lost = []
    real = {name: getattr(QueueReader, name) for name in ("settle_up_to", "settle_done")}

    def settle(name: str, reading: QueueReader, argument: Any) -> None:
        if len(lost) < 2:
            lost.append(name)
            msg = "the connection is lost"
            raise ConnectionResetError(msg)
        real[name](reading, argument)

    for name in real:
        replaced = lambda reading, argument, name=name: settle(name, reading, argument)  # noqa: E731
        monkeypatch.setattr(QueueReader, name, replaced)
    system.run(handler.one, idle_seconds=1.0)
    assert len(lost) == 2
    first = list(dict.fromkeys(handler.seen))
    assert [number for number in first if number % 2] == [1, 3, 5, 7]
    assert [number for number in first if number % 2 == 0] == [2, 4, 6, 8]


def test_whoever_comes_next_goes_on_with_what_waits(make):
    system = make(work(retry=RetryPolicy((1.0,), "dead-letter")))
    published(system, [1, 2, 3])
    first, second = Failing({1: 1}), Failing({})
    assert system.run(first.one, max_messages=3) == "handled 3 messages"
    published(system, [4, 5])
    system.run(second.one, idle_seconds=2.0)
    assert (first.seen, [number for number in second.seen if number % 2]) == ([2], [1, 3, 5])
    assert sorted(second.seen) == [1, 3, 4, 5]


def test_a_record_that_fails_while_its_waiting_queue_is_cancelled_waits_again(make, monkeypatch):
    system = make(work(concurrency=4, prefetch=20))
    published(system, [1])
    handler, cancelled = Failing({1: 2}), threading.Event()
    names, consumer = Names(system.topology), system.topology.consumer("work")
    real = ConcurrentDeliveries.blame_slowest

    def blame(concurrent: ConcurrentDeliveries, timeout: Any) -> None:
        cancelled.set()
        real(concurrent, timeout)

    monkeypatch.setattr(ConcurrentDeliveries, "blame_slowest", blame)

    def fail(message: dict[str, Any], _bus: Any) -> None:
        if handler.left[1] == 1:
            waiting = names.waiting(names.queue(consumer))
            with broker.connect(system.topology) as connection:
                channel = connection.channel()
                channel.queue_delete(waiting)
                declarations.declare_waiting_queue(channel, consumer.queue, waiting)
            wait_until(cancelled.is_set)
        handler.one(message)

    system.run(fail, idle_seconds=1.0)
    assert handler.seen == [1]
