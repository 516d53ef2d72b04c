"""Removing or renaming a queue that has consumers: they handle every message before they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from feedbus import broker
from feedbus.apply import apply
from feedbus.broker import inventory
from feedbus.broker_names import Names
from feedbus.errors import Retry, UsageError
from feedbus.generations import removed_queues, topology_setup
from feedbus.generations.probes import delete_empty_queue
from feedbus.plan import Watchers
from feedbus.plan.planning import make_plan
from feedbus.plan.unread_queues import find_unread_queues, unread_queue_notes
from feedbus.process.slots import run_folder
from feedbus.topology import Batch, RetryPolicy, Topology
from servers import versions
from tests.applying import carry_out, killed_at, nothing_to_do, wait_for_retry
from tests.projects import wait_until
from tests.small_topologies import BATCH, queue, sharded
from tests.system_fixtures import systems_on
from tests.systems import System, publish_confirmed

make = systems_on("embedded", *versions.chosen(), management=True)
COUNT = 12


class Supervisor:
    """The supervisor of consumers that run in threads of the test."""

    def __init__(self, consumers: ExitStack) -> None:
        self._consumers = consumers

    def pause(self, consumers: object) -> None:
        """Do nothing."""

    def change_topology(self) -> None:
        """Do nothing: removed consumers continue to run."""

    def finish(self) -> None:
        """End the consumers."""
        self._consumers.close()


def remove(
    wanted: Topology, consumers: ExitStack, *removed: str, wait: bool = True
) -> tuple[bool, list[str]]:
    """Apply a topology without the queues of some consumers; return the result and the output."""
    plan = make_plan(wanted, Watchers(7, removed=removed), predict=False)
    assert not plan.dangers
    lines: list[str] = []
    done = apply(
        wanted,
        plan,
        Supervisor(consumers),
        wait=wait,
        report=lines.append,
        progress=lambda _left: None,
    )
    return done, lines


def broker_consumers(system: System) -> list[int]:
    """Return the number of consumers of each shard."""
    names, topology = Names(system.topology), system.topology
    with broker.connect(topology) as connection:
        members = names.members(topology.generation("ring"))
        return [broker.count_consumers(connection, each) for each in members]


def gone(**options: Any) -> Any:
    return queue("gone", exchange="other", routing_keys=("g",), **options)


@pytest.mark.parametrize("processes", [1, 3])
def test_a_removed_queue_is_deleted_when_its_consumers_have_handled_all_messages(
    make: Callable[..., System], processes: int
) -> None:
    system = make(queue(), gone(prefetch=COUNT, batch=Batch(1, 0.0)))
    begun, lock = threading.Event(), threading.Lock()

    def handle(message: dict[str, Any], _bus: Any) -> None:
        begun.set()
        time.sleep(0.1)
        with lock:
            system.note(message)

    wanted = system.changed(queue(), queue("new", exchange="other", routing_keys=("g",)))
    with ExitStack() as consumers:
        for _ in range(processes):
            consumers.enter_context(system.running(handle, "gone"))
        system.publish(range(COUNT), "other", "g")
        begun.wait()
        done, lines = remove(wanted, consumers, "gone")
    assert done
    assert f"{wanted.name}.gone was deleted" in lines
    assert sorted(system.seen) == [*range(COUNT)]
    assert nothing_to_do(wanted)
    assert not [name for name in inventory.read_inventory(wanted).exchanges if "gone" in name]


@pytest.mark.parametrize("order_by", ["", "n"])
def test_a_removed_queue_is_kept_until_its_retries_are_handled(
    make: Callable[..., System], order_by: str
) -> None:
    options = {"order_by": order_by, "single_active_consumer": True} if order_by else {}
    retry = RetryPolicy((0.7,), "dead-letter")
    system = make(queue(), gone(retry=retry, **options))
    failed = threading.Event()

    def handle(message: dict[str, Any], _bus: Any) -> None:
        if not failed.is_set():
            failed.set()
            raise Retry
        system.note(message)

    wanted = system.changed(queue())
    with ExitStack() as consumers:
        consumers.enter_context(system.running(handle, "gone"))
        system.publish([1, 2], "other", "g")
        failed.wait()
        done, lines = remove(wanted, consumers, "gone")
    assert done, lines
    assert sorted(system.seen) == [1, 2]
    assert nothing_to_do(wanted)


def test_the_shards_of_a_removed_ring_are_deleted_when_their_messages_are_handled(
    make: Callable[..., System],
) -> None:
    system = make(queue(), sharded(2, batch=BATCH))
    lock = threading.Lock()

    def handle(records: Any, _bus: Any) -> None:
        time.sleep(0.3)
        with lock:
            system.seen.extend(records.column("n"))

    exchanges = {name: one for name, one in system.topology.exchanges.items() if not one.hashed}
    wanted = replace(system.topology, queues={"work": queue()}, exchanges=exchanges)
    with ExitStack() as consumers:
        for name in ("shard_0", "shard_1"):
            consumers.enter_context(system.running(handle, name, batch=True))
        with system.bus() as bus:
            bus.publish_many("ring", [({"n": n}, str(n)) for n in range(COUNT)])
        wait_until(lambda: system.seen)
        done, lines = remove(wanted, consumers, "shard_0", "shard_1")
    assert done, lines
    assert sorted(system.seen) == [*range(COUNT)]
    assert nothing_to_do(wanted)


@pytest.mark.parametrize("interrupted", ["", "delay-parked", "delay-deleted"])
def test_the_shards_of_a_removed_ring_are_kept_until_their_retries_are_handled(
    make: Callable[..., System], interrupted: str
) -> None:
    retry = RetryPolicy((0.7,), "dead-letter")
    system = make(queue(), sharded(2, order_by="", retry=retry, prefetch=1))
    lock, failed = threading.Lock(), set[int]()

    def handle(message: dict[str, Any], _bus: Any) -> None:
        time.sleep(0.2)
        with lock:
            if message["n"] not in failed:
                failed.add(message["n"])
                raise Retry
            system.note(message)

    exchanges = {name: one for name, one in system.topology.exchanges.items() if not one.hashed}
    wanted = replace(system.topology, queues={"work": queue()}, exchanges=exchanges)
    if interrupted:
        assert killed_at(interrupted, lambda: carry_out(wanted))
    with ExitStack() as consumers:
        for name in ("shard_0", "shard_1"):
            consumers.enter_context(system.running(handle, name))
        wait_until(lambda: all(broker_consumers(system)))
        with system.bus() as bus:
            bus.publish_many("ring", [({"n": n}, str(n)) for n in range(COUNT)])
        if interrupted:
            wait_for_retry(system.topology, COUNT, "shard", parked=True)
        done, lines = remove(wanted, consumers, "shard_0", "shard_1")
    assert done, lines
    assert sorted(system.seen) == [*range(COUNT + bool(interrupted))]
    if interrupted:  # the retry queue may have been missing when the plan was made
        carry_out(wanted)
    assert nothing_to_do(wanted)


def test_a_ring_whose_retries_wait_when_the_plan_is_made_can_be_removed(
    make: Callable[..., System],
) -> None:
    system = make(queue(), sharded(2, order_by="", retry=RetryPolicy((3,), "dead-letter")))
    failed = threading.Event()

    def handle(message: dict[str, Any], _bus: Any) -> None:
        if not failed.is_set():
            failed.set()
            raise Retry
        system.note(message)

    exchanges = {name: one for name, one in system.topology.exchanges.items() if not one.hashed}
    wanted = replace(system.topology, queues={"work": queue()}, exchanges=exchanges)
    retry_queue = f"{wanted.name}.shard.retry.3000"
    with ExitStack() as consumers:
        for name in ("shard_0", "shard_1"):
            consumers.enter_context(system.running(handle, name))
        wait_until(lambda: all(broker_consumers(system)))
        system.publish([1], "ring", "key")
        wait_until(lambda: inventory.read_inventory(wanted).queues[retry_queue].messages)
        done, lines = remove(wanted, consumers, "shard_0", "shard_1")
    assert done, lines
    assert system.seen == [1]


def test_a_retry_that_arrives_while_a_shard_of_a_removed_ring_is_deleted_is_handled(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(queue(), sharded(2, order_by="", retry=RetryPolicy((600.0,), "dead-letter")))
    exchanges = {name: one for name, one in system.topology.exchanges.items() if not one.hashed}
    wanted = replace(system.topology, queues={"work": queue()}, exchanges=exchanges)
    names = Names(system.topology)
    ring = names.ring(system.topology.generation("ring"))
    deleted = list[str]()

    def delete(channel: Any, name: str) -> None:
        if not deleted:  # retries whose delay has ended; each shard gets some of their keys
            for n in range(COUNT):
                body, properties = b'{"n": %d}' % n, {"content_type": "application/json"}
                message = channel.prepare_message(body, **properties)
                publish_confirmed(channel, message, ring, str(n))
        deleted.append(name)
        delete_empty_queue(channel, name)

    monkeypatch.setattr("feedbus.runner.queue_reader.delete_empty_queue", delete)
    with ExitStack() as consumers:
        for name in ("shard_0", "shard_1"):
            consumers.enter_context(system.running(system.note, name))
        wait_until(lambda: all(broker_consumers(system)))
        done, lines = remove(wanted, consumers, "shard_0", "shard_1")
    assert done, lines
    assert sorted(system.seen) == [*range(COUNT)]
    assert deleted == names.members(system.topology.generation("ring"))


def test_a_ring_that_stays_without_queues_is_refused(make: Callable[..., System]) -> None:
    system = make(queue(), sharded(2))
    wanted = system.changed(queue())
    system.publish([1], "ring", "key")
    with pytest.raises(UsageError, match=r"  ring: .*Remove \[exchanges.ring\], too"):
        carry_out(wanted)
    with pytest.raises(UsageError, match=r"ring 'ring': no queue in the topology uses"):
        topology_setup.set_up(wanted)
    system.run_all(system.note)
    assert system.seen == [1]


def test_a_sharded_queue_that_is_renamed_hands_its_messages_to_the_new_shards(
    make: Callable[..., System],
) -> None:
    system = make(sharded(2, batch=BATCH))
    renamed = replace(sharded(2, batch=BATCH), name="renamed")
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": n}, "key") for n in range(COUNT)])
        after = system.reshaped(renamed)
        bus.publish("ring", {"n": COUNT}, "key")
    after.run_all(lambda records, _: system.seen.extend(records.column("n")), batch=True)
    assert system.seen == [*range(COUNT + 1)]


def test_a_queue_that_the_topology_gets_again_is_not_deleted_and_its_fence_is_discarded(
    make: Callable[..., System],
) -> None:
    system = make(queue(), gone())
    name = f"{system.topology.name}.gone"
    names = Names(system.topology)
    with broker.connect(system.topology) as connection:
        removed_queues.mark(connection.channel(), names, name)
        removed_queues.put_fence(connection, name)
        topology_setup.set_up(system.topology)
        assert not removed_queues.is_marked(connection, names, name)
    system.publish([1, 2], "other", "g")
    system.run(system.note, "gone")
    assert system.seen == [1, 2]
    assert system.dead("gone") == []
    assert nothing_to_do(system.topology)


def test_the_proof_of_a_removed_queue_ends_when_the_topology_gets_it_again(
    make: Callable[..., System],
) -> None:
    system = make(queue(), gone(retry=RetryPolicy((600.0,), "dead-letter")))
    name = f"{system.topology.name}.gone"
    names = Names(system.topology)
    failed = threading.Event()

    def handle(message: dict[str, Any], _bus: Any) -> None:
        if message["n"] == 0:
            failed.set()
            raise Retry
        system.note(message)

    with broker.connect(system.topology) as connection, system.running(handle, "gone"):
        system.publish([0], "other", "g")
        failed.wait()
        removed_queues.mark(connection.channel(), names, name)
        removed_queues.put_fence(connection, name)
        time.sleep(1.0)  # a probe is in the queue
        topology_setup.set_up(system.topology)
        connection.channel().queue_purge(names.retry_queue(system.topology.queues["gone"], 600_000))
        system.publish([1, 2], "other", "g")
        wait_until(lambda: system.seen == [1, 2])
    system.run(system.note, "gone")  # the consumer may have returned the last probe to the queue
    assert system.seen == [1, 2]
    assert system.ready()["gone"] == 0
    assert system.dead("gone") == []


def test_a_consumer_that_starts_while_its_queue_is_being_removed_empties_and_deletes_it(
    make: Callable[..., System],
) -> None:
    system = make(queue(), gone())
    name = f"{system.topology.name}.gone"
    system.publish([1, 2], "other", "g")
    with broker.connect(system.topology) as connection:
        removed_queues.mark(connection.channel(), Names(system.topology), name)
        removed_queues.put_fence(connection, name)
    assert system.run(system.note, "gone") == "its queue was removed from the topology"
    assert system.run(system.note, "gone") == "its queue was removed from the topology"
    assert system.seen == [1, 2]


def test_an_empty_queue_that_nobody_reads_is_reported_as_long_as_it_is_bound(
    make: Callable[..., System],
) -> None:
    system = make(queue(), gone())
    wanted = system.changed(queue())
    run_folder(wanted).mkdir(parents=True, exist_ok=True)
    (found,) = find_unread_queues(wanted)
    assert str(found).startswith(
        f"queue {wanted.name}.gone (0 messages): no longer in the topology"
    )
    (note,) = unread_queue_notes(wanted)
    assert note.startswith(f"queue {wanted.name}.gone (0 messages) is not in the topology")
    assert not unread_queue_notes(system.topology)  # another command has put it back
    carry_out(wanted)
    assert not unread_queue_notes(wanted)
    assert not find_unread_queues(wanted)
