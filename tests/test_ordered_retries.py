"""Retries in the order of their keys, on every broker: what waits, how long, and who reads it."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from feedbus import broker
from feedbus.broker import entities
from feedbus.broker.names import Names
from feedbus.cli import dead
from feedbus.dispatch.ordered_retries import OrderedRetries
from feedbus.errors import Reject, Retry
from feedbus.records import Records
from feedbus.ring import Ring
from feedbus.runner import waiting_queues
from feedbus.runner.concurrent import Concurrent
from feedbus.runner.reading import Reading
from feedbus.runner.waiting_queue import WaitingQueue
from feedbus.topology import RetryPolicy, Topology
from feedbus.wire import Delivery
from servers import versions
from tests.projects import wait_until
from tests.systems import BATCH, System, on_broker, queue, sharded

DELAYS = RetryPolicy((0.1, 0.1, 0.1), "dead-letter")
LONG_SECONDS = 600.0
LATER = RetryPolicy((LONG_SECONDS,) * 3, "dead-letter")
ORDERED = {"order_by": True, "single_active_consumer": True, "retry": DELAYS}
EIGHT = list(range(1, 9))


@pytest.fixture(params=["embedded", versions.chosen()[-1]])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., System]]:
    yield from on_broker(request.param, tmp_path, request)


@dataclass
class Loaded:
    """What the commands get."""

    topology: Topology

    def load(self) -> Topology:
        return self.topology


class Failing:
    """Handlers that note what they handle, and fail on some numbers so many times."""

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
    now, skipped = OrderedRetries.now, [0.0]

    def later(retries: OrderedRetries) -> float:
        if number in seen:
            skipped[0] += LONG_SECONDS
        return now(retries) + skipped[0]

    monkeypatch.setattr(OrderedRetries, "now", later)


def published(system: System, numbers: list[int] = EIGHT, exchange: str = "work") -> None:
    """Publish numbers of the key of their parity."""
    with system.bus() as bus:
        bus.publish_many(exchange, [({"n": number}, f"{number % 2}") for number in numbers])


def waiting_in(system: System, name: str = "work") -> int | None:
    """Return how many records wait and are taken by nobody."""
    with broker.connect(system.topology) as connection:
        return broker.count(connection, Names(system.topology).waiting(name))


def work(**options: Any) -> Any:
    return queue(routing_keys=("0", "1"), **ORDERED | options)


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


def test_a_batch_that_wants_an_earlier_record_again_counts_for_nothing(make, monkeypatch):
    system = make(work(batch=BATCH, retry=LATER))
    published(system)
    handler = Failing({3: 1})
    due_after(monkeypatch, handler.seen, 8)
    calls = []

    def mark(records: Records, _bus: Any) -> None:
        numbers = records.column("n")
        calls.append(numbers)
        if handler.left[3] > 0 and 3 in numbers:
            handler.left[3] -= len(numbers) == 1
            records.where("n", {3}).retry("not yet")
        else:
            handler.seen.extend(numbers)

    system.run(mark, batch=True)
    assert handler.seen == [1, 2, 4, 6, 8, 3, 5, 7]
    assert calls[0] == EIGHT


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
    real = {name: getattr(Reading, name) for name in ("settle", "settle_done")}

    def settle(name: str, reading: Reading, argument: Any) -> None:
        if len(lost) < 2:
            lost.append(name)
            msg = "the connection is lost"
            raise ConnectionResetError(msg)
        real[name](reading, argument)

    for name in real:
        replaced = lambda reading, argument, name=name: settle(name, reading, argument)  # noqa: E731
        monkeypatch.setattr(Reading, name, replaced)
    system.run(handler.one, idle_seconds=1.0)
    assert len(lost) == 2
    first = list(dict.fromkeys(handler.seen))
    assert [number for number in first if number % 2] == [1, 3, 5, 7]
    assert [number for number in first if number % 2 == 0] == [2, 4, 6, 8]


def test_a_consumer_holds_while_too_many_wait(make):
    system = make(work(waiting_limit=3, retry=RetryPolicy((0.5,), "dead-letter")))
    published(system, list(range(1, 20)))
    handler, reasons = Failing({1: 1}), []
    system.run(handler.one, on_hold=reasons.append, idle_seconds=1.0)
    assert handler.seen[:2] == [2, 4]
    assert [number for number in handler.seen if number % 2] == list(range(1, 20, 2))
    assert "records wait so that their keys stay in order" in reasons[0]
    assert reasons[-1] == ""


def test_a_standby_reads_nothing_that_waits_until_the_other_is_gone(make):
    system = make(work(processes=2, retry=RetryPolicy((1.0,), "dead-letter")))
    published(system, [1, 2])
    first, second = Failing({1: 1}), Failing({})
    name = Names(system.topology).queue(system.topology.consumer("work"))
    with system.running(first.one):
        wait_until(lambda: first.seen == [2])
        with system.running(second.one) as standby:
            published(system, [3, 4])
            wait_until(lambda: first.seen == [2, 4])
            wait_until(lambda: waiting_in(system, name) == 0)  # the first has taken them
            assert second.seen == []
            assert standby.is_alive()
            with system.bus() as bus:
                bus.publish("work", {"n": 5}, "1")
            wait_until(lambda: first.seen == [2, 4, 1, 3, 5])


def test_whoever_comes_next_goes_on_with_what_waits(make):
    system = make(work(retry=RetryPolicy((1.0,), "dead-letter")))
    published(system, [1, 2, 3])
    first, second = Failing({1: 1}), Failing({})
    assert system.run(first.one, max_messages=3) == "handled 3 messages"
    published(system, [4, 5])
    system.run(second.one, idle_seconds=2.0)
    assert (first.seen, [number for number in second.seen if number % 2]) == ([2], [1, 3, 5])
    assert sorted(second.seen) == [1, 3, 4, 5]


def test_what_waits_is_taken_anew_before_the_broker_takes_it_back(make, monkeypatch):
    monkeypatch.setattr(waiting_queues, "RENEWED_SECONDS", 0.1)
    system = make(work(retry=RetryPolicy((1.0,), "dead-letter")))
    published(system)
    handler = Failing({1: 1})
    given_back = []
    real = WaitingQueue.renew

    def renew(self: WaitingQueue, older_than: float) -> None:
        given_back.append(len(self.retries.records))
        real(self, older_than)

    monkeypatch.setattr(WaitingQueue, "renew", renew)
    system.run(handler.one, idle_seconds=2.0)
    assert any(given_back)
    assert handler.seen == [2, 4, 6, 8, 1, 3, 5, 7]


def test_a_reshard_takes_what_waits_along(make):
    system = make(sharded(2, **ORDERED | {"retry": RetryPolicy((3.0,), "dead-letter")}), pack=100)
    keys = [f"key-{number}" for number in range(10)]

    def publish(topology: System, numbers: range) -> None:
        with topology.bus() as bus:
            bus.publish_many(
                "ring", [({"n": n, "text": key}, key) for n in numbers for key in keys]
            )

    publish(system, range(3))
    seen: dict[str, list[int]] = {key: [] for key in keys}
    failing = [True]

    def note(message: dict[str, Any], _bus: Any) -> None:
        if failing[0]:
            raise ValueError
        seen[message["text"]].append(message["n"])

    for name in ("shard_0", "shard_1"):
        system.run(note, name)
    failing[0] = False
    names, old = Names(system.topology), system.topology.generation("ring")
    waiting = [waiting_in(system, names.member(old, member)) for member, _ in old.members]
    assert sum(waiting) == 30
    after = system.reshaped(sharded(3, **ORDERED))
    publish(after, range(3, 5))
    threads = [
        threading.Thread(target=after.run, args=(note, name), kwargs={"idle_seconds": 4})
        for name in after.topology.consumers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {key: list(range(5)) for key in keys}
    with broker.connect(after.topology) as connection:
        gone = [names.waiting(names.member(old, member)) for member, _ in old.members]
        assert not any(broker.queue_exists(connection, queue) for queue in gone)


@pytest.mark.parametrize(("concurrency", "most_moved"), [(1, 1000), (1, 0), (4, 0)])
def test_a_queue_ends_though_its_last_records_fail_and_its_end_fills_the_buffer(
    make, concurrency, most_moved, monkeypatch
):
    monkeypatch.setattr(waiting_queues, "MOST_MOVED", most_moved)
    options = ORDERED | {"concurrency": concurrency, "prefetch": 20}
    system = make(sharded(1, **options))
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": n}, "a key") for n in range(1, 4)])
    after = system.reshaped(sharded(2, **options))
    handler = Failing({1: 2})
    runs = [
        threading.Thread(target=after.run, args=(handler.one, name), kwargs=limits)
        for name in after.topology.consumers
        for limits in [{"idle_seconds": 1.0, "max_runtime_seconds": 20.0}]
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert handler.seen == [1, 2, 3]
    old = Names(system.topology).member(system.topology.generation("ring"), "shard_0")
    with broker.connect(after.topology) as connection:
        assert not broker.queue_exists(connection, old)


def test_whoever_is_lost_while_what_waits_moves_leaves_its_later_records_to_nobody(
    make, monkeypatch
):
    options = ORDERED | {"retry": RetryPolicy((60.0,), "dead-letter")}
    system = make(sharded(1, **options))
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": n}, "a key") for n in (1, 2, 3)])
    handler, lost = Failing({1: 1}), []
    system.run(handler.one, "shard_0", max_messages=3)
    real = WaitingQueue.acknowledge

    def acknowledge(self: WaitingQueue, deliveries: Sequence[Delivery]) -> None:
        if len(deliveries) == 3 and not lost:
            real(self, deliveries[:1])
            lost.append(deliveries)
            msg = "the connection is lost"
            raise ConnectionResetError(msg)
        real(self, deliveries)

    monkeypatch.setattr(WaitingQueue, "acknowledge", acknowledge)
    now = OrderedRetries.now  # nothing is due before it has moved
    monkeypatch.setattr(OrderedRetries, "now", lambda self: now(self) + 60.0 * len(lost))
    after = system.reshaped(sharded(2, **options))
    runs = [
        threading.Thread(
            target=after.run,
            args=(handler.one, name),
            kwargs={"idle_seconds": 3.0, "max_runtime_seconds": 120.0},
        )
        for name in after.topology.consumers
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(lost) == 1
    assert list(dict.fromkeys(handler.seen)) == [1, 2, 3]  # what was moved twice may repeat


def test_a_record_that_fails_while_its_waiting_queue_is_cancelled_waits_again(make, monkeypatch):
    system = make(work(concurrency=4, prefetch=20))
    published(system, [1])
    handler, cancelled = Failing({1: 2}), threading.Event()
    names, consumer = Names(system.topology), system.topology.consumer("work")
    real = Concurrent.blame_slowest

    def blame(concurrent: Concurrent, timeout: Any) -> None:
        cancelled.set()
        real(concurrent, timeout)

    monkeypatch.setattr(Concurrent, "blame_slowest", blame)

    def fail(message: dict[str, Any], _bus: Any) -> None:
        if handler.left[1] == 1:
            waiting = names.waiting(names.queue(consumer))
            with broker.connect(system.topology) as connection:
                channel = connection.channel()
                channel.queue_delete(waiting)
                entities.declare_waiting(channel, consumer.queue, waiting)
            wait_until(cancelled.is_set)
        handler.one(message)

    system.run(fail, idle_seconds=1.0)
    assert handler.seen == [1]


def test_whoever_comes_when_a_queue_has_just_ended_leaves_no_waiting_queue(make, monkeypatch):
    system = make(work())
    queue_name = Names(system.topology).queue(system.topology.consumer("work"))
    real = WaitingQueue.open

    def end_first(connection: Any, *arguments: Any) -> Any:
        with broker.connect(system.topology) as other:
            other.channel().queue_delete(queue_name)
        return real(connection, *arguments)

    monkeypatch.setattr(WaitingQueue, "open", end_first)
    system.run(Failing({}).one, max_runtime_seconds=1.0)
    assert waiting_in(system, queue_name) is None


def test_records_that_waited_beside_several_queues_are_not_taken_for_each_other(make):
    options = ORDERED | {"batch": BATCH}
    system = make(sharded(2, **options))
    ring = Ring.of(system.topology.generation("ring").members)
    keys = {ring.route(key): key for key in "abcdefgh"}
    with system.bus() as bus:  # even numbers for one shard, odd ones for the other
        bus.publish_many("ring", [({"n": n}, keys[f"shard_{n % 2}"]) for n in range(8)])
    first = Failing({0: 1, 1: 1})
    for name in sorted(keys):
        assert system.run(first.batch, name, batch=True, max_messages=4) == "handled 4 messages"
    assert first.seen == []  # each waits, at the same places of two queues
    time.sleep(DELAYS.delays_seconds[0])  # then both queues' records are due in one batch
    after = system.reshaped(sharded(1, **options))
    second = Failing({1: 1})  # due after the other one
    after.run(second.batch, "shard_0", batch=True, idle_seconds=3.0, max_runtime_seconds=20.0)
    assert [n for n in second.seen if n % 2 == 0] == [0, 2, 4, 6]
    assert [n for n in second.seen if n % 2] == [1, 3, 5, 7]


def test_one_dead_letter_is_dropped_and_only_its_key_goes_on(make):
    system = make(work(block_on_dead=True))
    published(system)
    seen: list[int] = []

    def refuse(message: dict[str, Any], _bus: Any) -> None:
        if message["n"] in {3, 6}:
            reason = "not now"
            raise Reject(reason)
        seen.append(message["n"])

    system.run(refuse)
    ids = {json.loads(letter.body)["n"]: letter.message_id for letter in system.dead()}
    command = partial(CliRunner().invoke, dead.command, obj=Loaded(system.topology))
    assert command(["drop", "work", ids[3]]).output == "1 dead letter dropped\n"
    system.run(refuse)
    assert sorted(seen) == [1, 2, 4, 5, 7]
    assert [letter.message_id for letter in system.dead()] == [ids[6]]
    again = command(["drop", "work", ids[3]])
    assert again.output == "0 dead letters dropped\n"
    assert "no dead letters with 1 of these ids" in str(again.exception)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_dead_letter_blocks_its_key_until_it_is_sent_back_or_dropped(make, concurrency):
    options = {"concurrency": concurrency, "prefetch": 20, "block_on_dead": True}
    system = make(work(**options))
    published(system)
    refused, seen = {3, 6}, []

    def refuse(message: dict[str, Any], _bus: Any) -> None:
        if message["n"] in refused:
            reason = "not now"
            raise Reject(reason)
        seen.append(message["n"])

    system.run(refuse)
    assert sorted(seen) == [1, 2, 4]
    assert sorted(json.loads(letter.body)["n"] for letter in system.dead()) == [3, 6]
    refused.remove(3)
    command = partial(CliRunner().invoke, dead.command, obj=Loaded(system.topology))
    assert command(["requeue", "work", "--all"]).output == "2 dead letters sent back to work\n"
    system.run(refuse)
    assert [number for number in seen if number % 2] == [1, 3, 5, 7]
    assert sorted(seen) == [1, 2, 3, 4, 5, 7]
    assert command(["purge", "work", "--yes"]).output == "1 dead letter dropped\n"
    system.run(refuse)
    assert [number for number in seen if number % 2 == 0] == [2, 4, 8]
    assert system.dead() == []
