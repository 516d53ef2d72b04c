"""Dead letters that block their key until an operator has decided, on every broker."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker.refused_messages import Refusal
from feedbus.broker_names import Names
from feedbus.bus.sender import Sender
from feedbus.dead_letters import requeue
from feedbus.dispatch import obsolete_blocks
from feedbus.records import Records
from feedbus.wire import Outgoing
from feedbus.wire.constants import BLOCKED, PLACE
from servers import versions
from tests.blocking_dead_letters import dead_command, refusing
from tests.ordered_queues import EIGHT, ORDERED, published, waiting_in, work
from tests.projects import wait_until
from tests.small_topologies import sharded
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", versions.chosen()[-1])


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_dead_letter_blocks_its_key_until_it_is_sent_back_or_dropped(make, concurrency):
    options = {"concurrency": concurrency, "prefetch": 20, "block_on_dead": True}
    system = make(work(**options))
    published(system)
    refused, seen = {3, 6}, []
    refuse = refusing(refused, seen)
    system.run(refuse)
    assert sorted(seen) == [1, 2, 4]
    assert sorted(json.loads(letter.body)["n"] for letter in system.dead()) == [3, 6]
    refused.remove(3)
    command = dead_command(system.topology)
    assert command(["requeue", "work", "--all"]).output == "2 dead letters sent back to work\n"
    system.run(refuse)
    assert [number for number in seen if number % 2] == [1, 3, 5, 7]
    assert sorted(seen) == [1, 2, 3, 4, 5, 7]
    assert command(["purge", "work", "--yes"]).output == "1 dead letter dropped\n"
    system.run(refuse)
    assert [number for number in seen if number % 2 == 0] == [2, 4, 8]
    assert system.dead() == []


def test_the_message_that_blocks_a_key_is_sent_after_the_dead_letter_and_before_later_records(
    tmp_path, monkeypatch
):
    options = ORDERED | {"block_on_dead": True}
    system = System.at(tmp_path, sharded(1, **options), pack=10, stored=False)
    published(system, exchange="ring")
    send, sent = Sender.send, list[Outgoing]()

    def send_noted(self: Sender, messages: Iterable[Outgoing]) -> list[Refusal]:
        noted = list(messages)
        sent.extend(noted)
        return send(self, noted)

    monkeypatch.setattr(Sender, "send", send_noted)
    system.run(refusing({1}, []), "shard_0")
    (dead_letter,) = (message for message in sent if message.routing_key.endswith(".dead"))
    waiting = [message for message in sent if PLACE in message.headers]
    assert sent == [dead_letter, *waiting]
    assert [BLOCKED in message.headers for message in waiting] == [True, False, False, False]


def test_a_requeued_dead_letter_is_handled_although_a_repetition_of_its_message_waits(make):
    system = make(work(concurrency=4, prefetch=20, block_on_dead=True))
    with system.bus() as bus:
        for _ in range(2):
            bus.publish("work", {"n": 1}, "1", message_id="repeated")
        bus.publish("work", {"n": 3}, "1")
    refused, seen = {1}, []
    refuse = refusing(refused, seen)
    system.run(refuse)
    assert seen == []
    assert [letter.message_id for letter in system.dead()] == ["repeated"]
    command = dead_command(system.topology)
    assert command(["requeue", "work", "--all"]).output == "1 dead letter sent back to work\n"
    redeliver_waiting(system)
    refused.clear()
    system.run(refuse)
    assert seen == [1, 1, 3]
    assert waiting_in(system, Names(system.topology).queue(system.topology.consumer("work"))) == 0


def redeliver_waiting(system: System) -> None:
    """Let a consumer get all messages of the waiting queue, and end without an acknowledgement."""
    names = Names(system.topology)
    waiting = names.waiting(names.queue(system.topology.consumer("work")))
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        while channel.basic_get(waiting) is not None:
            pass


class EndedError(Exception):
    """The process of a consumer ends."""


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("action", ["requeue", "drop"])
def test_a_message_that_arrives_after_its_dead_letter_was_settled_blocks_no_key(
    make, monkeypatch, concurrency, action
):
    system = make(work(concurrency=concurrency, prefetch=20, block_on_dead=True))
    queue = Names(system.topology).queue(system.topology.consumer("work"))
    send, late = Sender.send, list[Outgoing]()

    def send_without_block(self: Sender, messages: Iterable[Outgoing]) -> list[Refusal]:
        noted = list(messages)
        late.extend(each for each in noted if BLOCKED in each.headers)
        if not late:
            return send(self, noted)
        send(self, noted[: noted.index(late[0])])
        raise EndedError

    published(system, [1, 3])
    refused, seen = {1}, []
    with monkeypatch.context() as patched:
        patched.setattr(Sender, "send", send_without_block)
        with pytest.raises(EndedError):
            system.run(refusing(refused, seen))
    refused.clear()
    (letter,) = system.dead()
    assert dead_command(system.topology)([action, "work", letter.message_id]).exit_code == 0
    with system.running(refusing(refused, seen)):
        wait_until(lambda: 3 in seen)
        with closing(Sender(system.topology)) as sender:
            assert sender.send(late) == []
        wait_until(lambda: waiting_in(system, queue) == 0)
        published(system, [5])
        wait_until(lambda: 5 in seen)
    assert waiting_in(system, queue) == 0
    assert system.dead() == []


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("shards", [0, 1])
def test_a_requeued_dead_letter_is_handled_although_the_limit_of_waiting_records_is_reached(
    make, concurrency, shards
):
    options = {"concurrency": concurrency, "block_on_dead": True, "waiting_limit": 1, "prefetch": 1}
    system = make(sharded(shards, **(ORDERED | options)) if shards else work(**options))
    exchange, name, queue = ("ring", "shard_0", "shard") if shards else ("work", "work", "work")
    refused, seen = {1}, []
    command = dead_command(system.topology)
    published(system, exchange=exchange)
    with system.running(refusing(refused, seen), name):
        wait_until(lambda: system.dead(queue))
        refused.clear()
        output = command(["requeue", queue, "--all"]).output
        assert output == f"1 dead letter sent back to {queue}\n"
        wait_until(lambda: len(seen) == len(EIGHT))
    assert [number for number in seen if number % 2] == [1, 3, 5, 7]
    assert sorted(seen) == EIGHT
    assert system.dead(queue) == []


def test_the_lock_is_held_for_several_requeued_dead_letters_and_then_released(make, monkeypatch):
    system = make(sharded(1, **(ORDERED | {"block_on_dead": True})))
    published(system, exchange="ring")
    refused, seen = set(EIGHT), []
    system.run(refusing(refused, seen), "shard_0")
    letters = len(system.dead("shard"))
    assert letters > 1
    locked, taken = broker.locked, []

    def noted_lock(*arguments: Any, **options: Any) -> Any:
        taken.append(arguments)
        return locked(*arguments, **options)

    monkeypatch.setattr(broker, "locked", noted_lock)
    monkeypatch.setattr(requeue, "LOCK_SECONDS", 600.0)
    command = dead_command(system.topology)
    output = command(["requeue", "shard", "--all"]).output
    assert output == f"{letters} dead letters sent back to shard\n"
    assert len(taken) == 1
    with broker.connect(system.topology) as connection:
        with locked(connection, system.topology, wait_seconds=0.0):
            refused.clear()
        system.run(refusing(refused, seen), "shard_0")
    assert sorted(seen) == EIGHT


@pytest.mark.parametrize("pack", [1, 10])
@pytest.mark.parametrize(("concurrency", "batch"), [(1, False), (1, True), (4, False)])
def test_an_invalid_record_blocks_only_the_records_of_its_key_behind_it(
    tmp_path, pack, concurrency, batch
):
    options = {"concurrency": concurrency, "prefetch": 20, "block_on_dead": True}
    system = System.at(tmp_path, sharded(1, **ORDERED | options), pack=pack, stored=False)
    with system.bus() as bus:
        numbers = [(1, "a"), ("bad", "a"), (2, "a"), (3, "b"), ("bad", "a"), (4, "a"), (5, "b")]
        bus.publish_many("ring", [({"n": number}, key) for number, key in numbers])

    def note_all(records: Records, _bus: Any = None) -> None:
        system.seen.extend(records.column("n"))

    command = dead_command(system.topology)
    handle = note_all if batch else system.note
    for seen in ([1, 3, 5], [1, 2, 3, 5]):
        system.run(handle, "shard_0", batch=batch)
        assert sorted(system.seen) == seen
        assert [letter.reason for letter in system.dead("shard")] == ["n: Not a valid integer."]
        assert command(["purge", "shard", "--yes"]).output == "1 dead letter dropped\n"
    system.run(handle, "shard_0", batch=batch)
    assert [number for number in system.seen if number in {1, 2, 4}] == [1, 2, 4]


@pytest.mark.parametrize(("concurrency", "batch"), [(1, False), (1, True), (4, False)])
def test_a_body_that_is_no_json_blocks_only_the_records_of_its_key_behind_it(
    tmp_path, concurrency, batch
):
    options = {"concurrency": concurrency, "prefetch": 20, "block_on_dead": True}
    system = System.at(tmp_path, work(**options), stored=False)
    bodies = [(b'{"n": 2}', "0"), (b"{", "0"), (b'{"n": 4}', "0"), (b'{"n": 1}', "1")]
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        for body, key in bodies:
            message = channel.prepare_message(body, content_type="application/json")
            channel.basic_publish(message, system.topology.name + ".work", key)

    def note_all(records: Records, _bus: Any = None) -> None:
        system.seen.extend(records.column("n"))

    handle = note_all if batch else system.note
    system.run(handle, batch=batch)
    assert sorted(system.seen) == [1, 2]
    command = dead_command(system.topology)
    assert command(["purge", "work", "--yes"]).output == "1 dead letter dropped\n"
    system.run(handle, batch=batch)
    assert sorted(system.seen) == [1, 2, 4]


@pytest.mark.parametrize("shards", [0, 1])
@pytest.mark.parametrize("body", [b"{", b'{"n": 1}'])
def test_a_dead_letter_without_an_id_keeps_its_place_and_blocks_its_key_once(make, body, shards):
    options = {"block_on_dead": True}
    system = make(sharded(shards, **(ORDERED | options)) if shards else work(**options))
    exchange, name, queue = ("ring", "shard_0", "shard") if shards else ("work", "work", "work")
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        for each in (body, b'{"n": 3}'):
            message = channel.prepare_message(each, content_type="application/json")
            channel.basic_publish(message, f"{system.topology.name}.{exchange}", "1")
    names = Names(system.topology)
    refused, seen = {1}, []
    for _ in range(2):
        system.run(refusing(refused, seen), name)
        assert seen == []
        if not shards:  # the message that blocks the key, and the record that waits
            assert waiting_in(system, names.queue(system.topology.consumer(name))) == 2
        dead_command(system.topology)(["requeue", queue, "--all"])
    refused.clear()
    system.run(refusing(refused, seen), name)
    assert (seen, len(system.dead(queue))) == (([1, 3], 0) if body != b"{" else ([], 1))


def test_the_ids_of_obsolete_blocks_that_were_noted_last_are_kept(monkeypatch) -> None:
    monkeypatch.setattr(obsolete_blocks, "MAX_IDS", 2)
    found = obsolete_blocks.ObsoleteBlocks()
    found.add("waiting", ["a", "b"])
    found.add("waiting", ["a"])
    found.add("waiting", ["c"])
    assert [found.contain("waiting", each) for each in "abc"] == [True, False, True]
