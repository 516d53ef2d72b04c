"""Changes of a system with quorum queues, which RabbitMQ deletes only unconditionally."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from feedbus import broker
from feedbus.broker import inventory
from feedbus.broker_names import Names
from feedbus.errors import UsageError
from feedbus.generations import leaving_consumers, queue_emptying, state_queues
from feedbus.generations.queue_emptying import NO_ANSWER, QueueEmptier
from feedbus.generations.topology_setup import set_up
from feedbus.plan.planning import make_plan
from feedbus.store.peewee import close_bound
from feedbus.topology import NO_DELIVERY_LIMIT, Queue, Topology
from servers.rabbitmq import RabbitMQ
from tests.applying import (
    KEYS,
    WAITING,
    carry_out,
    consume_ring,
    consume_work,
    nothing_to_do,
    publish,
    wait_for_retry,
)
from tests.projects import wait_until
from tests.small_topologies import BATCH, queue, sharded
from tests.systems import System

pytestmark = pytest.mark.integration


@pytest.fixture
def make(any_rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Callable[..., System]]:
    node = any_rabbitmq
    yield partial(System.at, tmp_path, broker_url=node.url, management_url=node.management_url)
    close_bound()


def shards(count: int, kind: str = "quorum") -> Queue:
    return sharded(count, type=kind, single_active_consumer=True, batch=BATCH)


def arguments(topology: Topology) -> dict[str, dict]:
    """Return what each queue of handlers was declared with."""
    found = inventory.read_inventory(topology).queues
    kept = (".dead", ".retry", ".held", ".generations", ".ledger", ".lock")
    return {
        name: dict(one.arguments)
        for name, one in found.items()
        if not any(each in name for each in kept)
    }


def test_shards_and_queues_change_with_their_content_in_order(
    make: Callable[..., System],
) -> None:
    single = queue(type="quorum", retry=WAITING, single_active_consumer=True)
    system = make(single, shards(2), pack=5)
    wait_for_retry(system.topology, 99)
    publish(system.topology, 0)
    wanted = system.changed(replace(single, max_length=1000), shards(3))
    carry_out(wanted)
    publish(wanted, 1)
    last = System(wanted).changed(replace(single, max_length=1000), shards(1))
    carry_out(last)
    publish(last, 2)
    assert consume_ring(last, 3) == {key: [0, 1, 2] for key in KEYS}
    assert consume_work(last, 3) == [0, 1, 2]
    seen = inventory.read_inventory(last)
    assert seen.queues[Names(last).retry_queue(last.queues["work"], 600_000)].ready == 1
    assert len(arguments(last)) == 2
    assert nothing_to_do(last)


def test_queues_become_quorum_queues_and_classic_ones_again(make: Callable[..., System]) -> None:
    system = make(queue(), shards(2, "classic"))
    for number, kind in enumerate(("quorum", "classic")):
        publish(system.topology, 2 * number)
        wanted = system.changed(queue(type=kind), shards(2, kind))
        carry_out(wanted)
        publish(wanted, 2 * number + 1)
        expected = [2 * number, 2 * number + 1]
        assert consume_ring(wanted, 2) == dict.fromkeys(KEYS, expected)
        assert consume_work(wanted, 2) == expected
        kinds = {one["x-queue-type"] for one in arguments(wanted).values()}
        assert kinds == {kind}
        # The auxiliary queues still have the other type, because they may contain messages.
        assert nothing_to_do(wanted)
        notes = " ".join(make_plan(wanted, None).notes)
        own = ("work.dead", "shard.dead", "work.retry.", "ring.held", "ring.generations.ledger")
        names = [f"{wanted.name}.{each}" for each in own]
        assert [name in notes for name in names] == [kind == "quorum"] * len(names)
        system = System(wanted)


def test_an_empty_queue_of_feedbus_that_is_deleted_is_declared_with_the_new_type(
    make: Callable[..., System],
) -> None:
    system = make(queue(), shards(2, "classic"))
    wanted = system.changed(queue(type="quorum"), shards(2))
    carry_out(wanted)
    names = Names(wanted)
    own = (names.dead(wanted.queues["work"]), names.held("ring"))
    with broker.connect(wanted) as connection:
        for name in own:
            connection.channel().queue_delete(name, if_empty=True)
    set_up(wanted)
    found = inventory.read_inventory(wanted).queues
    assert [found[name].arguments["x-queue-type"] for name in own] == ["quorum", "quorum"]
    notes = " ".join(make_plan(wanted, None).notes)
    assert not any(name in notes for name in own)


def test_a_removed_queue_is_deleted_once_it_is_proved_to_be_empty(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaving_consumers, "LEAVE_SECONDS", 0.3)
    gone = queue("gone", exchange="other", routing_keys=("g",), type="quorum")
    system = make(queue(type="quorum"), replace(gone, single_active_consumer=True))
    wanted = system.changed(queue(type="quorum"))
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        channel.basic_consume(f"{wanted.name}.gone", callback=lambda _: None)
        with pytest.raises(UsageError, match=r"gone: messages: 0; .*another program consumes"):
            carry_out(wanted)
    _, done, _ = carry_out(wanted)
    assert done
    assert {*arguments(wanted)} == {f"{wanted.name}.work"}
    assert nothing_to_do(wanted)


def test_a_queue_of_an_earlier_version_keeps_up_running_and_apply_replaces_it(
    make: Callable[..., System],
) -> None:
    system = make(queue("other", exchange="other", routing_keys=("o",)))
    wanted = system.changed(*system.topology.queues.values(), queue(type="quorum"))
    name = f"{wanted.name}.work"
    with broker.connect(wanted) as connection:
        channel = connection.channel()
        earlier = {"x-queue-type": "quorum", "x-dead-letter-exchange": ""}
        earlier |= {"x-dead-letter-routing-key": f"{name}.dead", "x-delivery-limit": 7}
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=earlier)
    system = system.reshaped(*wanted.queues.values())  # as `feedbus up` does
    system.publish([1, 2])
    reported = [change.reason for change in make_plan(wanted, None, predict=False).changes]
    assert (
        f"x-delivery-limit: 7 -> {NO_DELIVERY_LIMIT}; replaced by a new queue, which gets its"
        f" messages" in reported
    )
    carry_out(wanted)
    assert arguments(wanted)[name]["x-delivery-limit"] == NO_DELIVERY_LIMIT
    assert consume_work(wanted, 2) == [1, 2]
    assert nothing_to_do(wanted)


def test_messages_that_were_only_prefetched_are_never_dead_letters(
    make: Callable[..., System],
) -> None:
    system = make(queue(type="quorum", prefetch=40))
    system.publish(range(30))
    for _ in range(30):
        system.run(system.note, idle_seconds=5.0, max_messages=1)
    assert sorted(system.seen) == list(range(30))
    assert system.dead() == []


def test_a_state_that_a_reader_gives_back_late_does_not_replace_the_newer_one(
    make: Callable[..., System],
) -> None:
    system = make(shards(2))
    names = Names(system.topology)
    with broker.connect(system.topology) as reader:
        channel = reader.channel()
        message = channel.basic_get(names.generations("ring"))
        newer = system.reshaped(shards(3)).topology
        # Other readers have returned the newer state, so it is before the older state.
        assert len(state_queues.states(reader, newer)["ring"].current.members) == 3
        channel.basic_reject(message.delivery_tag, requeue=True)
        channel.close()
        for _ in range(2):
            found = state_queues.states(reader, newer)["ring"]
            assert len(found.current.members) == 3
        # A quorum queue counts a returned message a moment later.
        wait_until(lambda: broker.count_messages(reader, names.generations("ring")) == 1)


def test_a_queue_that_loses_its_leader_is_not_reported_as_used_by_another_program(
    make: Callable[..., System], any_rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_emptying, "LOST_SECONDS", 0.5)
    gone = queue("gone", exchange="other", routing_keys=("g",), type="quorum")
    system = make(queue(type="quorum"), replace(gone, single_active_consumer=True))
    wanted = system.changed(queue(type="quorum"))
    name = f"{wanted.name}.gone"
    members = (
        "[amqqueue:get_pid(Q) || Q <- rabbit_amqqueue:list(),"
        f' element(4, amqqueue:get_name(Q)) == <<"{name}">>]'
    )
    check_empty, checks = QueueEmptier._check_empty, list[bool]()

    def lose_leader(emptier: QueueEmptier) -> bool:
        is_empty = check_empty(emptier)
        if emptier._queue == name and not checks:
            any_rabbitmq.evaluate(f"[ra:stop_server(quorum_queues, M) || M <- {members}]")
            checks.append(is_empty)
        return is_empty

    monkeypatch.setattr(QueueEmptier, "_check_empty", lose_leader)
    _, done, reported = carry_out(wanted)
    assert (done, f"{name} was not deleted: {NO_ANSWER}" in reported) == (False, True)
    any_rabbitmq.evaluate(f"[ra:restart_server(quorum_queues, M) || M <- {members}]")
    # For a moment, the broker may count the consumer of the first call, whose connection is closed.
    _, done, reported = carry_out(wanted)
    assert done, reported
