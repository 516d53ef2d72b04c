"""A dead handler: called for each record that becomes a dead letter, before it is put aside."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from peewee import Database

from feedbus import Bus, DeadLetter, Message, Outage, Reject, broker, handler
from feedbus.broker_names import Names
from feedbus.dead_letters.requeue import Requeue
from feedbus.errors import BrokerOutage, StoreOutage
from feedbus.generations import topology_setup
from feedbus.handling.annotations import Unfit
from feedbus.handling.dead_handlers import DeadLetterFunction
from feedbus.runner.queue_reader import QueueReader
from feedbus.testing import TestSystem
from feedbus.topology import RetryPolicy, StoreOptions
from feedbus.urls import parse_store_url
from tests.handlers_to_run import Numbered, topology_of
from tests.projects import Project, wait_until
from tests.small_topologies import queue
from tests.system_fixtures import closing_store
from tests.systems import System, publish_confirmed
from tests.transactions import numbers

SEEN: list[object] = []
AWAY: list[str] = []


@handler(Numbered)
def take(record: dict[str, int], bus: Bus) -> None:
    reasons = {1: Reject("one"), 2: ValueError("two")}
    if record["n"] in reasons:
        raise reasons[record["n"]]


def undo(letter: DeadLetter, message: Message, bus: Bus) -> None:
    SEEN.append((letter.payload, letter.reason, letter.attempts, message.routing_key))
    bus.publish("undone", {"n": len(SEEN)}, key=letter.key)


def fail(letter: DeadLetter) -> None:
    SEEN.append(letter.payload)
    raise LookupError(letter.reason)


def answer(letter: DeadLetter) -> Any:
    return letter.reason


def wait(letter: DeadLetter) -> None:
    if AWAY:
        raise Outage(AWAY.pop())
    SEEN.append(letter.payload)


@dataclass
class Order:
    n: int


def undo_order(order: Order, bus: Bus, letter: DeadLetter, message: Message) -> None:
    assert message.message_id == letter.message_id
    SEEN.append((order, letter.reason))
    bus.publish("undone", {"n": order.n})


@pytest.fixture(autouse=True)
def nothing_seen():
    SEEN.clear()


def system_of(function: str) -> TestSystem:
    return TestSystem(topology_of(f"{__name__}:take", dead_handler=f"{__name__}:{function}"))


def test_it_is_called_once_for_each_dead_letter_whatever_the_reason():
    with system_of("undo") as system:
        pairs = [({"n": n}, f"key.{n}") for n in range(3)]
        system.bus.publish_many("work", [*pairs, ({"n": "x"}, "key.x")])
        system.run()
        assert SEEN == [
            ({"n": 1}, "one", 1, "key.1"),
            ({"n": "x"}, "n: Not a valid integer.", 1, "key.x"),
            ({"n": 2}, "ValueError: two", 2, "key.2"),
        ]
        assert [letter.reason for letter in system.dead_letters("work")] == [
            reason for _, reason, _, _ in SEEN
        ]
        published = system.published("undone")
        assert [each.key for each in published] == ["key.1", "key.x", "key.2"]
        assert len({each.message_id for each in published}) == 3


def test_what_cannot_be_read_is_given_too():
    with system_of("undo") as system:
        channel = system._system._connection.channel()
        channel.basic_publish(channel.prepare_message(b"[1, "), "ours.work", "key.raw")
        system.run()
        ((payload, reason, attempts, key),) = SEEN
        assert (payload, attempts, key) == (None, 1, "key.raw")
        assert reason.startswith("body: ")
        assert len(system.dead_letters("work")) == 1


def test_one_that_fails_neither_loses_nor_repeats_the_dead_letter():
    with system_of("fail") as system:
        system.publish("work", {"n": 1})
        system.run()
        assert SEEN == [{"n": 1}]
        (letter,) = system.dead_letters("work")
        assert letter.reason == (f"one; dead_handler {__name__}:fail failed: LookupError: one")
        assert letter.payload == {"n": 1}


@pytest.mark.parametrize("concurrency", [1, 2])
def test_it_is_not_called_again_while_the_broker_refuses_the_dead_letter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, concurrency: int
) -> None:
    def reject(_message: dict[str, int], _bus: Bus) -> None:
        reason = "no"
        raise Reject(reason)

    caplog.set_level(logging.INFO)
    work = queue(dead_handler=f"{__name__}:fail", concurrency=concurrency)
    with closing_store():
        system = System.at(tmp_path, work, stored=False)
        with broker.connect(system.topology) as connection:
            connection.channel().queue_delete(Names(system.topology).dead(work))
        system.publish([1])
        with system.running(reject):
            wait_until(lambda: "consumer_paused" in caplog.text)
            time.sleep(1.5)
            topology_setup.set_up(system.topology)
            wait_until(lambda: "consumer_resumed" in caplog.text)
        assert int(re.findall(r"after (\d+) failed attempts", caplog.text)[-1]) > 1
        assert SEEN == [{"n": 1}]
        (letter,) = system.dead()
        assert letter.reason == f"no; dead_handler {__name__}:fail failed: LookupError: no"


def test_one_that_returns_something_has_failed():
    with system_of("answer") as system:
        system.publish("work", {"n": 1})
        system.run()
        (letter,) = system.dead_letters("work")
        line = answer.__code__.co_firstlineno
        reason = f"answer ({__file__}:{line}) returned 'one': expected None"
        assert f"failed: UnexpectedResult: {reason}" in letter.reason


def test_an_outage_keeps_the_message_where_it_is_until_the_dead_handler_can_run():
    AWAY.append("the warehouse is unavailable")
    with system_of("wait") as system:
        system.publish("work", {"n": 1})
        with pytest.raises(Outage, match="the warehouse is unavailable"):
            system.run()
        assert system.dead_letters() == []
        system.run()
        assert SEEN == [{"n": 1}]
        assert [letter.reason for letter in system.dead_letters()] == ["one"]


def test_it_takes_the_record_as_its_message_type_and_then_only_what_is_one():
    with system_of("undo_order") as system:
        system.bus.publish_many("work", [({"n": n}, "") for n in (1, "x", 2)])
        system.run()
        assert [(Order(1), "one"), (Order(2), "ValueError: two")] == SEEN
        assert len(system.dead_letters("work")) == 3
        assert [each.payload for each in system.published("undone")] == [{"n": 1}, {"n": 2}]


def keep(order: Order, session: Database, bus: Bus) -> None:
    session.execute_sql("CREATE TABLE IF NOT EXISTS kept (n)")
    session.execute_sql("INSERT INTO kept VALUES (?)", [order.n])
    SEEN.append(session.execute_sql("SELECT count(*) FROM kept").fetchone()[0])
    bus.publish("undone", {"n": order.n})
    if order.n == 2:
        raise LookupError(order)


def test_its_effects_and_what_it_publishes_commit_together_or_not_at_all(tmp_path):
    store = StoreOptions(url=parse_store_url(f"sqlite:///{tmp_path}/store.db"))
    options = {"dead_handler": f"{__name__}:keep", "store": store, "once": True}
    with TestSystem(topology_of(f"{__name__}:take", **options)) as system:
        for n in (1, 2, 1):
            system.publish("work", {"n": n})
            system.run()
        assert SEEN == [1, 2, 2]  # the second of them was undone
        assert [each.payload["n"] for each in system.published("undone")] == [1, 1]
        assert [letter.reason[:12] for letter in system.dead_letters("work")].count("one") == 2


def publish_letter(letter: DeadLetter, bus: Bus) -> None:
    bus.publish("other", letter.payload, "n")


def publish_and_fail(letter: DeadLetter, bus: Bus) -> None:
    publish_letter(letter, bus)
    raise LookupError(letter.reason)


@contextmanager
def system_with_next(folder: Path, dead_handler: str) -> Iterator[System]:
    """Yield a system whose queue has `once`, and whose dead handler publishes to a second queue."""
    work = queue(once=True, dead_handler=f"{__name__}:{dead_handler}")
    with closing_store():
        yield System.at(folder, work, queue("next", exchange="other", routing_keys=("n",)))


def test_rows_of_one_that_fails_do_not_hide_rows_that_get_the_same_ids(tmp_path):
    with system_with_next(tmp_path, "publish_and_fail") as system:
        with system.bus() as bus:
            for number in range(4):
                bus.publish("work", {"n": number}, message_id=f"m-{number}")

        def handle(message: dict[str, Any], bus: Bus) -> None:
            if message["n"] == 0:
                raise Reject(str(message["n"]))
            if message["n"] == 1:  # meanwhile, another process handles message 2, and is killed
                system.store.inbox.add_new("work", ["m-2"])
                system.store.outbox.put("other", {"n": 2}, "n")
                system.store.database.execute_sql(
                    "UPDATE feedbus_outbox SET created_at = created_at - 60000000"
                )
                return
            bus.publish("other", message, "n")

        system.run(handle)
        system.run(system.note, "next")
        assert (system.seen, numbers(system)) == ([2, 3], [])
        assert len(system.dead()) == 1


def test_a_commit_whose_answer_was_lost_leaves_rows_that_are_sent_before_later_ones(
    tmp_path, monkeypatch
):
    with system_with_next(tmp_path, "publish_letter") as system:
        system.publish([1, 2])
        transaction = system.store.transaction
        losses: list[int] = []

        @contextmanager
        def lose_answer() -> Iterator[object]:
            with transaction() as session:
                yield session
            if numbers(system) == [2] and not losses:
                losses.append(1)
                msg = "the store went away during the commit"
                raise StoreOutage(msg)

        def handle(message: dict[str, Any], bus: Bus) -> None:
            if message["n"] == 2:
                raise Reject(str(message["n"]))
            bus.publish("other", message, "n")

        monkeypatch.setattr(system.store, "transaction", lose_answer)
        system.run(handle)
        system.run(system.note, "next")
        assert losses
        assert (system.seen, numbers(system)) == ([1, 2, 2], [])


def two(letter: DeadLetter, other: int) -> None: ...
def nothing() -> None: ...
def takes_a_number(text: int) -> None: ...
def returns(letter: DeadLetter) -> bool: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (two, "has a parameter for which feedbus has no value: 'other: int'"),
        (takes_a_number, "takes int: expected a function that takes a DeadLetter or a record"),
        (
            nothing,
            "has no parameter for the dead letter: expected the dead letter as its first parameter",
        ),
        (returns, "has the return annotation bool: expected -> None"),
        (DeadLetter, "is not a function"),
    ],
)
def test_what_cannot_be_a_dead_handler_is_a_problem(function, said):
    with pytest.raises(Unfit, match=said):
        DeadLetterFunction.of(function, None)


async def undo_async(letter: DeadLetter, message: Message, bus: Bus) -> None:
    await asyncio.sleep(0)
    SEEN.append((letter.reason, message.routing_key))
    if letter.payload["n"] == 2:
        await asyncio.sleep(60)
    bus.publish("undone", {"n": len(SEEN)}, key=letter.key)


def test_it_may_be_async_and_is_cancelled_at_handler_timeout():
    topology = topology_of(
        f"{__name__}:take",
        dead_handler=f"{__name__}:undo_async",
        handler_timeout_seconds=0.2,
        retry=RetryPolicy((), reject_on=("ValueError",)),
    )
    with TestSystem(topology) as system:
        for n in range(3):
            system.publish("work", {"n": n}, key="a")
        system.run()
        assert [each.payload for each in system.handled("undone")] == [{"n": 1}]
        reasons = [each.reason for each in system.dead_letters("work")]
    assert SEEN == [("one", "a"), ("ValueError: two", "a")]
    assert reasons[0] == "one"
    assert reasons[1].startswith("ValueError: two; dead_handler ")
    assert reasons[1].endswith("cancelled, as it took longer than handler_timeout (0.2 s)")


UNDO = """

def undo(letter, session: Database) -> None:
    session.execute_sql("CREATE TABLE IF NOT EXISTS undone (n)")
    session.execute_sql("INSERT INTO undone VALUES (?)", [letter.payload["n"]])
    with open({log!r}) as log:
        seen = log.read().split()
    note("undone")
    if len(seen) < {deaths}:
        os._exit(1)
"""


@pytest.mark.parametrize(("limit", "more"), [(2, ""), (1, "concurrency = 4")])
def test_nothing_is_lost_and_nothing_loops_where_it_ends_its_process(tmp_path, limit, more):
    """Each death is counted; the dead letter is put aside without it after delivery_limit more."""
    body = 'note("handled")\nraise Reject(str(message["n"]))'
    options = f'dead_handler = "small_handlers:undo"\ndelivery_limit = {limit}\n{more}'
    project = Project.at(tmp_path, body, options)
    module = tmp_path / "small_handlers.py"
    text = module.read_text().replace(
        "import os, sys", "from peewee import Database\nimport os, sys"
    )
    undo = UNDO.format(log=str(project.log), deaths=1000)
    module.write_text(text + undo)
    project.publish(1)
    for _ in range(2 * limit):
        project.feedbus("run", "work", "--max-messages", "1", code=1)
    project.feedbus("run", "work", "--max-messages", "1")
    assert project.seen() == ["handled", "undone"] * limit + ["undone"] * limit
    (letter,) = project.dead()
    assert f"the process or its connection ended {2 * limit} times" in letter["reason"]
    with sqlite3.connect(tmp_path / "var/store.db") as database:
        assert (
            database.execute("SELECT name FROM sqlite_master WHERE name = 'undone'").fetchall()
            == []
        )


def publish_payload(letter: DeadLetter, bus: Bus) -> None:
    bus.publish("other", letter.payload, key="n")


@pytest.mark.parametrize("identified", [True, False], ids=["with an id", "without an id"])
def test_the_messages_of_each_death_are_different_but_a_repeated_death_has_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identified: bool
) -> None:
    def reject(_message: dict[str, int], _bus: Bus) -> None:
        reason = "no"
        raise Reject(reason)

    def lose_once(reading: QueueReader, tag: int) -> None:
        if losses:
            reason = losses.pop()
            raise BrokerOutage(reason)
        settle(reading, tag)

    settle, losses = QueueReader.settle_up_to, list[str]()
    monkeypatch.setattr(QueueReader, "settle_up_to", lose_once)
    work = queue(retry=RetryPolicy((), "dead-letter"), dead_handler=f"{__name__}:publish_payload")
    following = queue("next", exchange="other", routing_keys=("n",), once=True)
    with closing_store():
        system = System.at(tmp_path, work, following)
        with broker.connect(system.topology) as connection:
            channel: Any = connection.default_channel
            properties = {"message_id": "m"} if identified else {}
            message = channel.prepare_message(b'{"n": 1}', properties=properties)
            publish_confirmed(channel, message, Names(system.topology).exchange("work"), "")
        for deaths in (1, 2, 3):
            losses.append("the connection was lost before the acknowledgement")
            system.run(reject, idle_seconds=1.0)
            letters = system.dead()
            assert len(letters) == 2  # the second one is from the repeated delivery
            system.run(system.note, "next")
            assert system.seen == [1] * deaths
            system.purge_dead()
            with Requeue(system.topology, work) as requeue:
                requeue.send(letters[deaths % 2])
