"""Runners of shards: the keys of each, and their order while the ring changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from feedbus.broker.publisher import Publisher, Refusal
from feedbus.bus import Bus
from feedbus.records import Records
from feedbus.ring import Ring
from feedbus.wire import Outgoing
from tests.projects import wait_until
from tests.systems import BATCH, System, closing_store, on_broker, sharded


@pytest.fixture(params=["embedded", "rabbitmq"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., System]]:
    """Make systems on either broker, one without a store; what they promise is the same on both."""
    yield from on_broker(request.param, tmp_path, request, stored=request.param != "embedded")


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
    system = make(sharded(3, batch=BATCH), pack=5)
    keys = [str(key) for key in range(60)]
    with system.bus() as stale:
        stale.publish_many("ring", [({"n": 1}, key) for key in keys])
        after = system.reshaped(sharded(5, batch=BATCH))
        # This bus still predicts by the old ring: its packs come back and go as plain messages.
        stale.publish_many("ring", [({"n": 2}, key) for key in keys])
    by_key: dict[str, list[int]] = {}
    lock = threading.Lock()

    def collect(records: Records, _bus: Bus) -> None:
        with lock:
            by_key.setdefault("all", []).extend(records.column("n"))

    after.run_all(collect, batch=True, idle_seconds=2.0)
    assert by_key["all"] == [1] * 60 + [2] * 60


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


def test_a_ring_that_changes_under_load_keeps_every_key_in_order(
    make: Callable[..., System],
) -> None:
    system = make(sharded(3, batch=BATCH), pack=5)
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
        current = system.reshaped(sharded(shards, batch=BATCH))
        # Those that run already learn of the new ring from the fence in their queue.
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
