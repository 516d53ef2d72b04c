"""Waiting records that move to the shards that own their keys now, on every broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.dispatch.waiting_deliveries import WaitingDeliveries
from feedbus.runner import waiting_record_mover
from feedbus.runner.waiting_queue import WaitingQueue
from feedbus.topology import RetryPolicy
from feedbus.wire import Delivery
from servers import versions
from tests.applying import Killed
from tests.ordered_queues import (
    ORDERED,
    Failing,
    waiting_in,
)
from tests.small_topologies import sharded
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", versions.chosen()[-1])


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
    after.run_all(note, idle_seconds=4)
    assert seen == {key: list(range(5)) for key in keys}
    with broker.connect(after.topology) as connection:
        gone = [names.waiting(names.member(old, member)) for member, _ in old.members]
        assert not any(broker.queue_exists(connection, queue) for queue in gone)


@pytest.mark.parametrize(("concurrency", "most_moved"), [(1, 1000), (1, 0), (4, 0)])
def test_a_queue_ends_though_its_last_records_fail_and_its_end_fills_the_buffer(
    make, concurrency, most_moved, monkeypatch
):
    monkeypatch.setattr(waiting_record_mover, "MAX_MOVED", most_moved)
    options = ORDERED | {"concurrency": concurrency, "prefetch": 20}
    system = make(sharded(1, **options))
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": n}, "a key") for n in range(1, 4)])
    after = system.reshaped(sharded(2, **options))
    handler = Failing({1: 2})
    after.run_all(handler.one, idle_seconds=1.0, max_runtime_seconds=120.0)
    assert handler.seen == [1, 2, 3]
    old = Names(system.topology).member(system.topology.generation("ring"), "shard_0")
    with broker.connect(after.topology) as connection:
        assert not broker.queue_exists(connection, old)


def interrupt_move(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> list[Sequence[Delivery]]:
    """Raise an error once, after the first of three moved records was acknowledged.

    Returns:
        a list that contains the deliveries of that move as soon as the error was raised.

    """
    real, interrupted = WaitingQueue.acknowledge, list[Sequence[Delivery]]()

    def acknowledge(self: WaitingQueue, deliveries: Sequence[Delivery]) -> None:
        if len(deliveries) == 3 and not interrupted:
            real(self, deliveries[:1])
            interrupted.append(deliveries)
            raise error
        real(self, deliveries)

    monkeypatch.setattr(WaitingQueue, "acknowledge", acknowledge)
    return interrupted


def test_whoever_is_lost_while_what_waits_moves_leaves_its_later_records_to_nobody(
    make, monkeypatch
):
    options = ORDERED | {"retry": RetryPolicy((60.0,), "dead-letter")}
    system = make(sharded(1, **options))
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": n}, "a key") for n in (1, 2, 3)])
    handler = Failing({1: 1})
    system.run(handler.one, "shard_0", max_messages=3)
    lost = interrupt_move(monkeypatch, ConnectionResetError("the connection is lost"))
    now = WaitingDeliveries.now  # nothing is due before it has moved
    monkeypatch.setattr(WaitingDeliveries, "now", lambda self: now(self) + 60.0 * len(lost))
    after = system.reshaped(sharded(2, **options))
    after.run_all(handler.one, idle_seconds=3.0, max_runtime_seconds=120.0)
    assert len(lost) == 1
    assert list(dict.fromkeys(handler.seen)) == [
        1,
        2,
        3,
    ]  # moved twice: handled twice


@pytest.mark.parametrize("limit", [4, 1000])
def test_records_whose_move_was_interrupted_run_once_although_both_messages_are_read(
    make, monkeypatch, limit
):
    options = ORDERED | {"retry": RetryPolicy((60.0,), "dead-letter"), "waiting_limit": limit}
    system = make(sharded(1, **options))
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": n}, "a key") for n in (1, 2, 3)])
    handler = Failing({1: 1})
    system.run(handler.one, "shard_0", max_messages=3)
    interrupt_move(monkeypatch, Killed())
    second = system.reshaped(sharded(2, **options))
    with pytest.raises(Killed):
        second.run(handler.one, "shard_0", idle_seconds=3.0)
    with second.bus() as bus:  # the limit is reached, so they stay in their queue
        bus.publish_many("ring", [({"n": n}, "a key") for n in (4, 5)])
    now = WaitingDeliveries.now  # nothing is due before it has moved
    monkeypatch.setattr(WaitingDeliveries, "now", lambda self: now(self) + 60.0)
    third = second.reshaped(sharded(1, **options))  # its only consumer reads all queues
    with third.bus() as bus:
        bus.publish_many("ring", [({"n": n}, "a key") for n in range(6, 12)])
    third.run(handler.one, "shard_0", idle_seconds=1.0, max_runtime_seconds=60.0)
    assert handler.seen == [*range(1, 12)]
    with broker.connect(third.topology) as connection:
        old = system.topology.generation("ring")
        assert not broker.queue_exists(connection, Names(system.topology).member(old, "shard_0"))
