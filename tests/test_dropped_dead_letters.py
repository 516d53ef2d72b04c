"""Dropped dead letters release the keys that they have blocked, on every broker."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker import acknowledging
from feedbus.broker.publisher import publish_all
from feedbus.broker.refused_messages import Refusal
from feedbus.broker_names import Names
from feedbus.bus.sender import Sender
from feedbus.dead_letters import letters, pruning
from feedbus.dead_letters.pruning import prune
from feedbus.runner import waiting_queue
from feedbus.runner.queue_reader import QueueReader
from feedbus.runner.waiting_queue import WaitingQueue
from feedbus.topology import DeadLetters
from feedbus.wire import Outgoing
from feedbus.wire.constants import BLOCKED, RELEASE
from feedbus.wire.outgoing_message import Moved
from servers import versions
from tests.blocking_dead_letters import dead_command, refusing
from tests.ordered_queues import ORDERED, published, work
from tests.small_topologies import sharded
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", versions.chosen()[-1])


def test_one_dead_letter_is_dropped_and_only_its_key_goes_on(make):
    system = make(work(block_on_dead=True))
    published(system)
    seen: list[int] = []
    refuse = refusing({3, 6}, seen)
    system.run(refuse)
    ids = {json.loads(letter.body)["n"]: letter.message_id for letter in system.dead()}
    command = dead_command(system.topology)
    assert command(["drop", "work", ids[3]]).output == "1 dead letter dropped\n"
    system.run(refuse)
    assert sorted(seen) == [1, 2, 4, 5, 7]
    assert [letter.message_id for letter in system.dead()] == [ids[6]]
    again = command(["drop", "work", ids[3]])
    assert again.output == "0 dead letters dropped\n"
    assert f"no dead letter '{ids[3]}' in work" in str(again.exception)


def test_the_key_of_a_dead_letter_that_another_program_has_deleted_can_be_released(make):
    system = make(work(block_on_dead=True))
    published(system)
    seen: list[int] = []
    system.run(refusing({3, 6}, seen))
    ids = {json.loads(letter.body)["n"]: letter.message_id for letter in system.dead()}
    with broker.connect(system.topology) as connection:
        connection.channel().queue_purge(Names(system.topology).dead(system.topology.queue("work")))
    result = dead_command(system.topology)(["drop", "work", ids[3]])
    assert f"no dead letter '{ids[3]}' in work; keys that" in str(result.exception)
    system.run(refusing(set(), seen))
    assert sorted(seen) == [1, 2, 4, 5, 7]


def test_a_dead_letter_can_be_dropped_before_the_message_that_blocks_its_key_is_sent(
    make, monkeypatch
):
    system = make(work(block_on_dead=True))
    published(system)
    seen: list[int] = []
    send, dropped = Sender.send, list[str]()
    command = dead_command(system.topology)

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
    system, refuse, seen = purged(make)
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
    system, refuse, seen = purged(make)
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
        command = dead_command(system.topology)
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
    command = dead_command(after.topology)
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


def purged(make: Callable[..., System]) -> tuple[System, Callable[..., None], list[int]]:
    """Let a consumer reject record 3, and purge its dead letter while no consumer runs.

    Returns:
        The system, its handler, and the numbers that the handler has handled.

    """
    system = make(work(block_on_dead=True))
    published(system)
    seen: list[int] = []
    refuse = refusing({3}, seen)
    system.run(refuse)
    output = dead_command(system.topology)(["purge", "work", "--yes"]).output
    assert output == "1 dead letter dropped\n"
    return system, refuse, seen
