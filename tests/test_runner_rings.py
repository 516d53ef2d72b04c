"""Runners of shards: the keys of each, and their order while the ring changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from feedbus.broker.publisher import Publisher
from feedbus.broker.refused_messages import Refusal
from feedbus.bus import Bus
from feedbus.records import Records
from feedbus.ring import Ring
from feedbus.wire import Outgoing
from tests.ordered_queues import ORDERED
from tests.projects import wait_until
from tests.small_topologies import BATCH, sharded
from tests.system_fixtures import closing_store, systems_on_either_broker
from tests.systems import System

IN_ORDER: dict[str, Any] = ORDERED | {"batch": BATCH}
KEYS = [f"key-{number}" for number in range(200)]


class Seen:
    """The numbers of each key that were handled, in order; some records fail once."""

    def __init__(self, fails: Collection[tuple[str, int]] = ()) -> None:
        self.numbers: dict[str, list[int]] = {}
        self._fails = set(fails)
        self._lock = threading.Lock()

    def collect(self, records: Records, _bus: Bus) -> None:
        """Handle a batch."""
        with self._lock:
            rows = [*records]
            failing = [row for row in rows if (row["text"], row["n"]) in self._fails]
            if failing and len(rows) > 1:
                raise ValueError
            for row in failing:
                self._fails.remove((row["text"], row["n"]))
                raise ValueError
            for row in rows:
                self.add(row)

    def one(self, message: dict[str, Any], _bus: Bus) -> None:
        """Handle a record."""
        with self._lock:
            if (message["text"], message["n"]) in self._fails:
                self._fails.remove((message["text"], message["n"]))
                raise ValueError
            self.add(message)

    def add(self, row: Any) -> None:
        """Add a record to the seen ones."""
        self.numbers.setdefault(row["text"], []).append(row["n"])

    def count(self) -> int:
        """Count the records of all keys."""
        with self._lock:
            return sum(map(len, self.numbers.values()))


@contextmanager
def running(system: System, seen: Seen, *names: str) -> Iterator[None]:
    """Run consumers, by default all of them, until the end of the block."""
    with ExitStack() as stack:
        for name in names or system.topology.consumers:
            stack.enter_context(system.running(seen.collect, name, batch=True))
        yield


def ring_of(shards: int) -> list[tuple[str, int]]:
    """Return the members of a ring with equal weights."""
    return [(f"shard_{number}", 1) for number in range(shards)]


def publish(system: System, key: str, numbers: Iterable[int]) -> None:
    """Publish numbered records of a key."""
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": number, "text": key}, key) for number in numbers])


make = systems_on_either_broker()


def test_each_shard_handles_the_keys_that_the_ring_gives_it(make: Callable[..., System]) -> None:
    system = make(sharded(4, batch=BATCH), pack=10)
    keys = [str(key) for key in range(200)]
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": int(key)}, key) for key in keys])
    ring = Ring.of(system.topology.generation("ring").members)
    for name in system.topology.consumers:
        own: list[int] = []
        system.run(lambda records, _, own=own: own.extend(records.column("n")), name, batch=True)
        assert own == [int(key) for key in keys if ring.route(key) == name]


def test_records_from_before_a_reshard_are_handled_before_those_after_it(
    make: Callable[..., System],
) -> None:
    system = make(sharded(3, **IN_ORDER), pack=5)
    keys = [str(key) for key in range(60)]
    with system.bus() as stale:
        stale.publish_many("ring", [({"n": 1, "text": key}, key) for key in keys])
        after = system.reshaped(sharded(5, **IN_ORDER))
        # This bus still uses the old ring: its packs are returned and sent as plain messages.
        stale.publish_many("ring", [({"n": 2, "text": key}, key) for key in keys])
    seen = Seen()
    with running(after, seen):
        wait_until(lambda: seen.count() == 2 * len(keys))
    assert seen.numbers == {key: [1, 2] for key in keys}


def test_packs_of_an_old_ring_are_sent_again_in_their_order_whatever_the_order_of_their_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Publisher.send

    def answer_backwards(publisher: Publisher, messages: Sequence[Outgoing]) -> list[Refusal]:
        return send(publisher, messages)[::-1]

    with closing_store():
        system = System.at(tmp_path, sharded(2, batch=BATCH), pack=2)
        with system.bus() as stale:
            stale.publish("ring", {"n": 0}, "a key")
            after = system.reshaped(sharded(3, batch=BATCH))
            monkeypatch.setattr(Publisher, "send", answer_backwards)
            stale.publish_many("ring", [({"n": n}, "a key") for n in range(1, 8)])
        after.run_all(
            lambda records, _: after.seen.extend(records.column("n")), batch=True, idle_seconds=2.0
        )
        assert after.seen == [*range(8)]


def test_a_record_waits_only_for_the_old_queue_that_had_its_key(
    make: Callable[..., System],
) -> None:
    system = make(sharded(2, **IN_ORDER))
    old, new = (Ring.of(ring_of(shards)) for shards in (2, 3))
    behind, free = (
        next(key for key in KEYS if (old.route(key), new.route(key)) == (owner, "shard_2"))
        for owner in ("shard_0", "shard_1")
    )
    publish(system, behind, range(3))
    after = system.reshaped(sharded(3, **IN_ORDER))
    publish(after, behind, range(3, 6))
    publish(after, free, range(3))
    seen = Seen()
    with running(after, seen, "shard_1", "shard_2"):
        wait_until(lambda: seen.count() == 3)
        assert seen.numbers == {free: [0, 1, 2]}
        with running(after, seen, "shard_0"):
            wait_until(lambda: seen.count() == 9)
    assert seen.numbers == {free: [0, 1, 2], behind: list(range(6))}


def test_a_key_waits_for_its_queues_of_all_older_generations(make: Callable[..., System]) -> None:
    system = make(sharded(2, **IN_ORDER), pack=5)
    keys = [str(key) for key in range(30)]
    for number, shards in enumerate((3, 5, 2)):
        for key in keys:
            publish(system, key, range(2 * number, 2 * number + 2))
        system = system.reshaped(sharded(shards, **IN_ORDER))
    for key in keys:
        publish(system, key, range(6, 8))
    seen = Seen(fails={(keys[0], 0), (keys[1], 3), (keys[2], 5)})
    with running(system, seen):
        wait_until(lambda: seen.count() == 8 * len(keys))
    assert seen.numbers == {key: list(range(8)) for key in keys}


def test_records_that_are_handled_at_the_same_time_keep_the_order_of_all_generations(
    make: Callable[..., System],
) -> None:
    options = ORDERED | {"concurrency": 4}
    system = make(sharded(2, **options), pack=5)
    keys = [str(key) for key in range(30)]
    for number, shards in enumerate((3, 2)):
        for key in keys:
            publish(system, key, range(2 * number, 2 * number + 2))
        system = system.reshaped(sharded(shards, **options))
    for key in keys:
        publish(system, key, range(4, 6))
    seen = Seen(fails={(keys[0], 0), (keys[1], 3)})
    with ExitStack() as stack:
        for name in system.topology.consumers:
            stack.enter_context(system.running(seen.one, name))
        wait_until(lambda: seen.count() == 6 * len(keys))
    assert seen.numbers == {key: list(range(6)) for key in keys}


def test_more_records_than_the_limit_behind_an_old_queue_do_not_stop_its_consumer(
    make: Callable[..., System],
) -> None:
    options = IN_ORDER | {"waiting_limit": 3}
    system = make(sharded(1, **options))
    new = Ring.of(ring_of(2))
    key = next(key for key in KEYS if new.route(key) == "shard_0")
    publish(system, key, range(20))
    after = system.reshaped(sharded(2, **options))
    publish(after, key, range(20, 60))
    seen = Seen()
    with running(after, seen, "shard_0"):
        wait_until(lambda: seen.count() == 60)
    assert seen.numbers == {key: list(range(60))}


def test_more_records_than_the_limit_behind_several_generations_do_not_stop_their_consumer(
    make: Callable[..., System],
) -> None:
    options = IN_ORDER | {"waiting_limit": 3}
    system = make(sharded(2, **options))
    first, second = (Ring.of(ring_of(shards)) for shards in (2, 3))
    # No record waits for shard_1 of the first ring, or for shard_0 and shard_1 of the second ring.
    owners = "shard_0", "shard_2"
    key = next(key for key in KEYS if (first.route(key), second.route(key)) == owners)
    publish(system, key, range(20))
    for number, shards in enumerate((3, 1), 1):
        system = system.reshaped(sharded(shards, **options))
        publish(system, key, range(20 * number, 20 * number + 20))
    seen = Seen()
    with running(system, seen, "shard_0"):
        wait_until(lambda: seen.count() == 60)
    assert seen.numbers == {key: list(range(60))}


def test_a_consumer_with_a_backlog_reads_its_new_queue_at_once(
    make: Callable[..., System],
) -> None:
    system = make(sharded(3, **ORDERED))
    old, new = (Ring.of(ring_of(shards)) for shards in (3, 2))
    behind = next(key for key in KEYS if old.route(key) == "shard_0")
    free = next(key for key in KEYS if (old.route(key), new.route(key)) == ("shard_2", "shard_0"))
    publish(system, behind, range(1_000))
    seen = Seen()

    def handle(message: dict[str, Any], _bus: Bus) -> None:
        time.sleep(0.005)
        seen.add(message)

    with system.running(handle, "shard_0"):
        wait_until(lambda: behind in seen.numbers)
        after = system.reshaped(sharded(2, **ORDERED))
        publish(after, free, range(1))
        wait_until(lambda: free in seen.numbers)
        assert len(seen.numbers[behind]) < 1_000
        wait_until(lambda: len(seen.numbers[behind]) == 1_000)
    assert seen.numbers[behind] == list(range(1_000))


@pytest.mark.parametrize("options", [{"batch": BATCH}, IN_ORDER], ids=["no order", "in order"])
def test_a_ring_that_changes_under_load_keeps_every_key_in_order(
    make: Callable[..., System], options: dict[str, Any]
) -> None:
    system = make(sharded(3, **options), pack=5)
    keys = [str(key) for key in range(40)]
    seen: dict[str, list[int]] = {key: [] for key in keys}
    lock, over = threading.Lock(), threading.Event()

    def collect(records: Records, _bus: Bus) -> None:
        with lock:
            for row in records:
                seen[row["text"]].append(row["n"])

    def consume(current: System, name: str) -> None:
        ended = ""
        while not over.is_set() and ended != "its shard was removed from the topology":
            ended = current.run(collect, name, batch=True, idle_seconds=1.0)

    def publish() -> None:
        with system.bus() as bus:
            for number in range(60):
                bus.publish_many("ring", [({"n": number, "text": key}, key) for key in keys])
                time.sleep(0.02)

    threads = [threading.Thread(target=publish)]
    threads[0].start()
    running: set[str] = set()
    for shards in (3, 5, 2, 3):
        current = system.reshaped(sharded(shards, **options))
        # Consumers that already run detect the new ring by the fence in their queue.
        for name in set(current.topology.consumers) - running:
            threads.append(threading.Thread(target=consume, args=(current, name)))
            threads[-1].start()
        running = set(current.topology.consumers)
        time.sleep(0.4)
    wait_until(lambda: sum(map(len, seen.values())) >= 60 * len(keys))
    over.set()
    for thread in threads:
        thread.join()
    assert seen == {key: list(range(60)) for key in keys}
