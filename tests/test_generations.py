"""The switch of rings, step by step: what a crash, a reader or a second switch finds half done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker import declarations, publisher
from feedbus.broker.publisher import Publisher, publish_all
from feedbus.broker.refused_messages import Refusal
from feedbus.broker_names import Names
from feedbus.bus import LiveBus
from feedbus.bus.publish_requests import Request
from feedbus.generations import probes, state_queues, switch, switch_notices, topology_setup
from feedbus.records import Records
from feedbus.records.packs import Pack, pack_of_one
from feedbus.topology import Topology
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Channel
from feedbus.wire.constants import FENCE
from servers import versions
from tests.applying import Killed, switch_killed
from tests.projects import wait_until
from tests.ring_switches import publish, state
from tests.small_topologies import BATCH, sharded
from tests.system_fixtures import systems_on
from tests.systems import System, publish_confirmed

make = systems_on("embedded", *versions.chosen())


def reshaped(system: System, shards: int) -> Topology:
    """Return the system's topology with another number of shards."""
    return replace(system.topology, queues={"shard": sharded(shards, batch=BATCH)})


def wait_for_messages(channel: Channel, queue: str, count: int) -> None:
    """Wait until a queue has exactly so many messages that no reader holds."""
    wait_until(lambda: channel.queue_declare(queue, passive=True).message_count == count)


def drained_by(topology: Topology) -> list[int]:
    """Run the consumers of a topology, one after another until all is handled; return the order."""
    seen: list[int] = []

    def note(records: Records, _bus: Any) -> None:
        seen.extend(records.column("n"))

    after = System(topology)
    threads = [
        threading.Thread(
            target=after.run, args=(note, name), kwargs={"batch": True, "idle_seconds": 1.5}
        )
        for name in topology.consumers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def switch_killed_with_held(
    system: System, number: int, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Switch to five shards until a step, and publish a record that is held."""
    real = switch.exit_after_step

    def publishing(name: str) -> None:
        if name == "disconnected":
            publish(system, number)
        real(name)

    with monkeypatch.context() as patch:
        patch.setattr(switch, "exit_after_step", publishing)
        switch_killed(reshaped(system, 5), step, monkeypatch)


@pytest.mark.parametrize("step", ["written", "disconnected", "connected", "appended", "completed"])
def test_a_switch_that_was_begun_is_ended_before_another_begins(
    make: Callable[..., System], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(sharded(3, batch=BATCH))
    publish(system, 1)
    switch_killed_with_held(system, 2, step, monkeypatch)
    publish(system, 3)
    last = reshaped(system, 2)
    topology_setup.set_up(last)
    publish(system, 4)
    expected = [1, 3, 4] if step == "written" else [1, 2, 3, 4]
    assert drained_by(last) == expected
    assert state(system).draining == ()


@pytest.mark.parametrize("with_exchange", [False, True])
def test_held_messages_reach_the_new_ring_if_an_operator_has_deleted_the_old_ring(
    make: Callable[..., System], with_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(sharded(3, batch=BATCH))
    switch_killed_with_held(system, 1, "connected", monkeypatch)
    (old,) = state(system).draining
    with broker.connect(system.topology) as connection:
        for queue in Names(system.topology).members(old):
            connection.channel().queue_delete(queue)
        if with_exchange:
            connection.channel().exchange_delete(Names(system.topology).ring(old))
    last = reshaped(system, 5)
    topology_setup.set_up(last)
    publish(system, 2)
    assert drained_by(last) == [1, 2]


def test_messages_reach_the_ring_again_after_an_operator_has_deleted_the_entry(
    make: Callable[..., System],
) -> None:
    system = make(sharded(3, batch=BATCH))
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        channel.exchange_delete(Names(system.topology).exchange("ring"))
        declarations.declare_exchanges(channel, Names(system.topology))
    publish(system, 1)
    topology_setup.set_up(system.topology)
    publish(system, 2)
    assert drained_by(system.topology) == [1, 2]


@pytest.mark.parametrize("has_earlier_ring", [True, False])
@pytest.mark.parametrize("step", ["written", "disconnected"])
def test_packs_stay_in_order_if_the_ring_is_connected_while_they_are_sent(
    make: Callable[..., System],
    step: str,
    has_earlier_ring: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topology = reshaped(make(sharded(2, batch=BATCH), pack=2), 3)
    if not has_earlier_ring:
        topology = replace(topology, name=f"{topology.name}-first")
    switch_killed(topology, step, monkeypatch)
    send = Publisher._send_window
    windows: list[int] = []

    def switch_after_first(self: Publisher, window: Sequence[Outgoing]) -> list[Refusal]:
        refusals = send(self, window)
        windows.append(len(window))
        if len(windows) == 1:
            topology_setup.set_up(topology)
        return refusals

    with LiveBus(topology) as bus, monkeypatch.context() as patch:
        patch.setattr(publisher, "WINDOW", 1)
        bus.publish_many("ring", [])  # reads the state
        patch.setattr(Publisher, "_send_window", switch_after_first)
        bus.publish_many("ring", [({"n": number}, "k") for number in range(6)])
    assert drained_by(topology) == [0, 1, 2, 3, 4, 5]


def test_a_plain_message_does_not_overtake_a_pack_that_the_broker_returns(
    make: Callable[..., System],
) -> None:
    """A pack goes to the old ring, and is returned; the entry leads to the new ring."""
    system = make(sharded(2, batch=BATCH), pack=2)
    after = reshaped(system, 3)
    with LiveBus(system.topology) as bus:
        bus.publish("ring", {"n": 0}, "k")  # reads the state
        topology_setup.set_up(after)
        many = [
            Request("ring", Pack.numbered("0" * 24, ["k"] * 2, {}, {"n": [1, 2]})),
            Request("ring", pack_of_one("plain", "k", {"n": 3})),
            Request("ring", Pack.numbered("1" * 24, ["k"] * 2, {}, {"n": [4, 5]})),
        ]
        bus.send_together(many)
        assert [request.outcome for request in many] == [[], [], []]
    assert drained_by(after) == [0, 1, 2, 3, 4, 5]


def test_every_ring_has_a_turn_of_its_own(make: Callable[..., System]) -> None:
    system = make(sharded(3))
    first = state(system).current
    for turn, shards in enumerate((5, 3, 5), start=1):
        topology_setup.set_up(reshaped(system, shards))
        assert state(system).current.number == turn
    rings = (*state(system).draining, state(system).current)
    assert rings[0] == first
    assert len({each.digest for each in rings}) == 4


def test_an_old_ring_that_is_drained_leaves_the_other_old_rings_in_the_state(
    make: Callable[..., System],
) -> None:
    system = make(sharded(2, batch=BATCH))
    for shards in (3, 4):
        topology_setup.set_up(reshaped(system, shards))
    drained, other = state(system).draining
    with broker.connect(system.topology) as connection, broker.locked(connection, system.topology):
        switch.forget_drained(connection.channel(), system.topology, drained)
    assert state(system).draining == (other,)


def test_a_crash_after_an_old_ring_left_the_state_leaves_no_notice_behind(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(sharded(1, batch=BATCH, order_by=True))
    topology_setup.set_up(
        replace(system.topology, queues={"shard": sharded(2, batch=BATCH, order_by=True)})
    )
    drained, names, write = state(system).draining[0], Names(system.topology), state_queues.write
    (queue,) = names.members(drained)

    def write_and_die(*arguments: Any) -> None:
        write(*arguments)
        raise Killed

    monkeypatch.setattr(state_queues, "write", write_and_die)
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        declarations.declare_waiting_queue(
            channel, system.topology.queues["shard"], names.waiting(queue)
        )
        publish_all(
            channel.connection, [probes.fence_message(names.waiting(queue), drained.digest)]
        )
        channel.queue_delete(queue)
        with broker.locked(connection, system.topology), pytest.raises(Killed):
            switch.forget_drained(connection.channel(), system.topology, drained)
        assert not broker.queue_exists(connection, names.waiting(queue))
    assert state(system).draining == ()


def test_a_switch_finds_the_state_while_a_reader_has_not_acknowledged_it(
    make: Callable[..., System],
) -> None:
    system = make(sharded(3))
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        assert channel.basic_get(Names(system.topology).generations("ring")) is not None
        topology_setup.set_up(reshaped(system, 5))
        found = state_queues.read(channel, system.topology, "ring")
    assert found is not None
    assert [len(each.members) for each in (*found.draining, found.current)] == [3, 5]


def test_readers_take_the_newest_state_and_delete_an_older_one_that_a_reader_returned(
    make: Callable[..., System],
) -> None:
    system = make(sharded(3))
    kept = Names(system.topology).generations("ring")
    with broker.connect(system.topology) as connection:
        assert connection.channel().basic_get(kept) is not None
        topology_setup.set_up(reshaped(system, 5))
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        wait_for_messages(channel, kept, 2)
        found = state_queues.read(channel, system.topology, "ring")
        assert found is not None
        assert [len(each.members) for each in (*found.draining, found.current)] == [3, 5]
        wait_for_messages(channel, kept, 1)


def test_a_consumer_that_dies_before_it_deletes_a_queue_leaves_the_fence_to_the_next(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    from feedbus.runner.queue_reader import QueueReader

    system = make(sharded(1, batch=BATCH))
    publish(system, 1)
    after = reshaped(system, 2)
    topology_setup.set_up(after)
    publish(system, 2)

    def killed(*_: object) -> bool:
        raise Killed

    # No process puts another fence there, as a consumer that begins to drain does.
    monkeypatch.setattr(switch_notices, "put_fences", lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(QueueReader, "delete_if_empty", killed)
        with pytest.raises(Killed):
            System(after).run(lambda *_: None, "shard_0", batch=True)
    assert drained_by(after) == [2]
    assert state(system).draining == ()


def test_what_is_held_keeps_its_headers_and_properties_and_is_behind_what_was_there(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(sharded(1, batch=BATCH))
    names = Names(system.topology)
    switch_killed(reshaped(system, 2), "disconnected", monkeypatch)
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        message = channel.prepare_message(
            b'{"n": 1}',
            headers={"trace": "abc"},
            properties={"correlation_id": "c", "type": "t", "message_id": "m"},
        )
        publish_confirmed(channel, message, names.exchange("ring"), "k")
        topology_setup.set_up(reshaped(system, 2))
        old = state(system).draining[0]
        got = channel.basic_get(names.member(old, "shard_0"), no_ack=True)
        fence = channel.basic_get(names.member(old, "shard_0"), no_ack=True)
    kept = {name: got.properties[name] for name in ("correlation_id", "type", "message_id")}
    assert kept == {"correlation_id": "c", "type": "t", "message_id": "m"}
    assert got.headers["trace"] == "abc"
    assert fence.headers[FENCE] == old.digest


def test_of_several_processes_that_read_an_old_queue_the_last_one_deletes_it(
    make: Callable[..., System],
) -> None:
    system = make(sharded(1, batch=BATCH, order_by=False, processes=2))
    old = Names(system.topology).member(state(system).current, "shard_0")

    def note(records: Records, _bus: Any) -> None:
        system.seen.extend(records.column("n"))

    with (
        broker.connect(system.topology) as connection,
        system.running(note, "shard_0", batch=True),
        system.running(note, "shard_0", batch=True),
    ):
        wait_until(lambda: broker.count_consumers(connection, old) == 2)
        publish(system, 1)
        topology_setup.set_up(reshaped(system, 2))
        wait_until(lambda: not broker.queue_exists(connection, old))
    assert system.seen == [1]


def test_an_old_queue_that_is_left_by_its_reader_is_read_while_another_one_cannot_end(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(sharded(2, batch=BATCH, order_by=False))
    old, names = state(system).current, Names(system.topology)
    first, second = names.members(old)
    one = replace(system.topology, queues={"shard": sharded(1, batch=BATCH, order_by=False)})
    # No old queue ends before the switch is complete. It can wait for room in the second queue.
    switch_killed(one, "connected", monkeypatch)
    after = System(one, store=system.store)
    with broker.connect(one) as connection, broker.connect(one) as other:
        other.channel().basic_consume(second)
        with after.running(after.note, "shard_0"):
            wait_until(lambda: broker.count_consumers(connection, first) == 1)
            other.close()
            wait_until(lambda: broker.count_consumers(connection, second) == 1)
            topology_setup.set_up(one)
            wait_until(lambda: not state(after).draining)


def test_a_consumer_that_waits_for_another_takes_over_when_the_ring_moves_on(
    make: Callable[..., System],
) -> None:
    system = make(sharded(2, batch=BATCH))
    publish(system, 1, "a")
    publish(system, 1, "b")
    three, one = reshaped(system, 3), reshaped(system, 1)
    old = state(system).current
    topology_setup.set_up(three)
    seen: list[int] = []
    over = threading.Event()

    def note(records: Records, _bus: Any) -> None:
        seen.extend(records.column("n"))

    def consume() -> None:
        while not over.is_set():
            System(three).run(note, "shard_0", batch=True, idle_seconds=60, max_messages=4)

    # Nobody runs shard_1, to whom the other old queue was dealt.
    thread = threading.Thread(target=consume)
    thread.start()
    with broker.connect(system.topology) as connection:
        first = Names(system.topology).member(old, "shard_0")
        wait_until(lambda: not broker.queue_exists(connection, first))
    topology_setup.set_up(one)
    publish(system, 2)
    publish(system, 2)
    over.set()
    wait_until(lambda: len(seen) == 4)
    thread.join()
    assert seen == [1, 1, 2, 2]
    assert state(system).draining == ()
