"""Dead letters that block their key until an operator has decided, on every broker."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from click.testing import CliRunner

from feedbus import broker
from feedbus.broker import acknowledging
from feedbus.broker.publisher import publish_all
from feedbus.broker.refused_messages import Refusal
from feedbus.broker_names import Names
from feedbus.bus.sender import Sender
from feedbus.cli import dead
from feedbus.dead_letters import letters, pruning, requeue
from feedbus.dead_letters.pruning import prune
from feedbus.errors import Reject
from feedbus.records import Records
from feedbus.runner import waiting_queue
from feedbus.runner.queue_reader import QueueReader
from feedbus.runner.waiting_queue import WaitingQueue
from feedbus.topology import DeadLetters, Topology
from feedbus.wire import Outgoing
from feedbus.wire.constants import BLOCKED, PLACE, RELEASE
from feedbus.wire.outgoing_message import Moved
from servers import versions
from tests.ordered_queues import EIGHT, ORDERED, published, waiting_in, work
from tests.projects import wait_until
from tests.small_topologies import sharded
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", versions.chosen()[-1])


@dataclass
class Loaded:
    """The message of the commands."""

    topology: Topology

    def load(self) -> Topology:
        return self.topology


def refusing(refused: Collection[int], seen: list[int]) -> Callable[[dict[str, Any], Any], None]:
    """Return a handler that rejects the messages of these numbers, and notes the others."""

    def refuse(message: dict[str, Any], _bus: Any) -> None:
        if message["n"] in refused:
            reason = "not now"
            raise Reject(reason)
        seen.append(message["n"])

    return refuse


def test_one_dead_letter_is_dropped_and_only_its_key_goes_on(make):
    system = make(work(block_on_dead=True))
    published(system)
    seen: list[int] = []
    refuse = refusing({3, 6}, seen)
    system.run(refuse)
    ids = {json.loads(letter.body)["n"]: letter.message_id for letter in system.dead()}
    command = partial(CliRunner().invoke, dead.command, obj=Loaded(system.topology))
    assert command(["drop", "work", ids[3]]).output == "1 dead letter dropped\n"
    system.run(refuse)
    assert sorted(seen) == [1, 2, 4, 5, 7]
    assert [letter.message_id for letter in system.dead()] == [ids[6]]
    again = command(["drop", "work", ids[3]])
    assert again.output == "0 dead letters dropped\n"
    assert f"no dead letter '{ids[3]}' in work" in str(again.exception)


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
    command = partial(CliRunner().invoke, dead.command, obj=Loaded(system.topology))
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


def test_a_dead_letter_can_be_dropped_before_the_message_that_blocks_its_key_is_sent(
    make, monkeypatch
):
    system = make(work(block_on_dead=True))
    published(system)
    seen: list[int] = []
    send, dropped = Sender.send, list[str]()
    command = partial(CliRunner().invoke, dead.command, obj=Loaded(system.topology))

    def send_and_drop(self: Sender, messages: Iterable[Outgoing]) -> list[Refusal]:
        some = list(messages)
        blocks = [BLOCKED in message.headers for message in some]
        if True not in blocks:
            return send(self, some)
        refusals = send(self, some[: blocks.index(True)])
        (letter,) = system.dead()
        dropped.append(command(["drop", "work", letter.message_id]).output)
        return refusals + send(self, some[blocks.index(True) :])

    monkeypatch.setattr(Sender, "send", send_and_drop)
    system.run(refusing({3}, seen))
    assert dropped == ["1 dead letter dropped\n"]
    assert [number for number in seen if number % 2] == [1, 5, 7]


def test_a_request_to_release_a_key_is_applied_although_a_new_consumer_gets_it_first(make):
    system = make(work(block_on_dead=True))
    published(system)
    seen: list[int] = []
    refuse = refusing({3}, seen)
    system.run(refuse)
    command = partial(CliRunner().invoke, dead.command, obj=Loaded(system.topology))
    assert command(["purge", "work", "--yes"]).output == "1 dead letter dropped\n"
    names = Names(system.topology)
    waiting = names.waiting(names.queue(system.topology.consumer("work")))
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        messages = [
            channel.basic_get(waiting)
            for _ in range(broker.count_messages(connection, waiting) or 0)
        ]
        *records, request = messages
        assert RELEASE in request.properties["application_headers"]
        publish_all(connection, [Moved.of(each, "", waiting) for each in (request, *records)])
        channel.basic_ack(request.delivery_tag, multiple=True)
    system.run(refuse)
    assert [number for number in seen if number % 2] == [1, 5, 7]


def test_a_request_to_release_a_key_is_acknowledged_after_the_message_that_blocks_it(
    make, monkeypatch
):
    system = make(work(block_on_dead=True))
    published(system)
    seen: list[int] = []
    refuse = refusing({3}, seen)
    system.run(refuse)
    command = partial(CliRunner().invoke, dead.command, obj=Loaded(system.topology))
    assert command(["purge", "work", "--yes"]).output == "1 dead letter dropped\n"
    acknowledge, interrupted = acknowledging.acknowledge, list[int]()

    def acknowledge_first(channel: Any, delivery_tags: Sequence[int]) -> None:
        acknowledge(channel, delivery_tags[:1])
        if len(delivery_tags) > 1 and not interrupted:
            interrupted.extend(delivery_tags[1:])
            raise ConnectionResetError
        acknowledge(channel, delivery_tags[1:])

    monkeypatch.setattr(waiting_queue, "acknowledge", acknowledge_first)
    system.run(refuse)
    assert interrupted
    assert [number for number in seen if number % 2] == [1, 5, 7]


def test_a_purge_releases_the_keys_of_the_dead_letters_that_it_deletes_and_no_others(
    make, monkeypatch
):
    system = make(work(block_on_dead=True))
    published(system)
    seen: list[int] = []
    refuse = refusing({3, 6}, seen)
    system.run(refuse)
    release = letters.release

    def release_then(*arguments: Any) -> None:
        release(*arguments)
        published(system, [2])  # it becomes a dead letter while others are deleted
        system.run(refusing({2, 4}, seen))

    with monkeypatch.context() as patch:
        patch.setattr(letters, "release", release_then)
        command = partial(CliRunner().invoke, dead.command, obj=Loaded(system.topology))
        assert command(["purge", "work", "--yes"]).output == "2 dead letters dropped\n"
    (new,) = (json.loads(letter.body)["n"] for letter in system.dead())
    assert new == 2
    published(system, [10])
    system.run(refuse)
    assert 10 not in seen
    system.purge_dead()  # as another program does
    assert command(["purge", "work"]).output == "0 dead letters dropped\n"
    system.run(refuse)
    assert seen[-1] == 10


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
    command = partial(CliRunner().invoke, dead.command, obj=Loaded(system.topology))
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


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("shards", [0, 1])
def test_a_requeued_dead_letter_is_handled_although_the_limit_of_waiting_records_is_reached(
    make, concurrency, shards
):
    options = {"concurrency": concurrency, "block_on_dead": True, "waiting_limit": 1, "prefetch": 1}
    system = make(sharded(shards, **(ORDERED | options)) if shards else work(**options))
    exchange, name, queue = ("ring", "shard_0", "shard") if shards else ("work", "work", "work")
    refused, seen = {1}, []
    command = partial(CliRunner().invoke, dead.command, obj=Loaded(system.topology))
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
    command = partial(CliRunner().invoke, dead.command, obj=Loaded(system.topology))
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

    command = partial(CliRunner().invoke, dead.command, obj=Loaded(system.topology))
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
    command = partial(CliRunner().invoke, dead.command, obj=Loaded(system.topology))
    assert command(["purge", "work", "--yes"]).output == "1 dead letter dropped\n"
    system.run(handle, batch=batch)
    assert sorted(system.seen) == [1, 2, 4]


def test_a_limit_drops_no_dead_letter_whose_key_it_has_not_released(tmp_path, monkeypatch):
    system = System.at(tmp_path, work(block_on_dead=True))
    published(system)
    refused, seen = {3, 6}, []
    refuse = refusing(refused, seen)
    system.run(refuse)
    limited = replace(system.topology.queues["work"], dead_letters=DeadLetters(max_length=1))
    with broker.connect(system.topology) as connection:
        with monkeypatch.context() as crash:
            crash.setattr(pruning, "release", lambda *_, **__: sys.exit("killed"))
            with pytest.raises(SystemExit):
                prune(connection, system.topology, limited)
        assert len(system.dead()) == 0  # until this connection is closed
    assert sorted(json.loads(letter.body)["n"] for letter in system.dead()) == [3, 6]
    with broker.connect(system.topology) as connection:
        assert prune(connection, system.topology, limited) == {"max_length": 1}
    (left,) = (json.loads(letter.body)["n"] for letter in system.dead())
    system.run(refuse)
    assert [number for number in (5, 7, 8) if number in seen] == ([5, 7] if left == 6 else [8])


@pytest.mark.parametrize(
    ("owner", "method"),
    [(WaitingQueue, "is_complete"), (QueueReader, "delete_if_empty")],
    ids=["while its records are moved", "after its old queue was deleted"],
)
def test_a_dead_letter_that_is_dropped_during_a_change_of_shards_releases_its_key(
    make, monkeypatch, caplog, owner, method
):
    options = ORDERED | {"block_on_dead": True}
    before = make(sharded(1, **options))
    published(before, exchange="ring")
    seen: list[int] = []
    refuse = refusing({1}, seen)
    before.run(refuse, "shard_0")
    (letter,) = before.dead("shard")
    names, old = Names(before.topology), before.topology.generation("ring")
    after = before.reshaped(sharded(2, **options))
    command = partial(CliRunner().invoke, dead.command, obj=Loaded(after.topology))
    original, dropped = getattr(owner, method), []

    def drop_then(reader: Any, *arguments: Any) -> bool:
        done = bool(original(reader, *arguments))
        if done and not dropped and names.member(old, "shard_0") in reader.queue:
            dropped.append(command(["drop", "shard", letter.message_id]).output)
        return done

    monkeypatch.setattr(owner, method, drop_then)
    for _ in range(2):
        for name in ("shard_0", "shard_1"):
            after.run(refuse, name)
    assert dropped == ["1 dead letter dropped\n"]
    assert [number for number in seen if number % 2] == [3, 5, 7]
    assert "waiting_queue_kept" not in caplog.text
    with broker.connect(after.topology) as connection:
        waiting = names.waiting(names.member(old, "shard_0"))
        assert not broker.queue_exists(connection, waiting)


def test_a_limit_waits_until_it_can_release_the_key_of_a_dead_letter(tmp_path):
    system = System.at(tmp_path, sharded(1, **(ORDERED | {"block_on_dead": True})))
    published(system, exchange="ring")
    system.run(refusing({1}, []), "shard_0")
    limited = replace(system.topology.queues["shard"], dead_letters=DeadLetters(max_length=0))
    with broker.connect(system.topology) as connection:
        with broker.locked(connection, system.topology):
            assert prune(connection, system.topology, limited) == {}
        assert len(system.dead("shard")) == 1
        assert prune(connection, system.topology, limited) == {"max_length": 1}
    assert system.dead("shard") == []
