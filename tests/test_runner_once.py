"""Repeated messages on a queue with `once = true`."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker.refused_messages import Refusal
from feedbus.broker_names import Names
from feedbus.bus import Bus
from feedbus.bus.sender import Sender
from feedbus.clock import VirtualClock
from feedbus.dead_letters.requeue import Requeue
from feedbus.dispatch.skipped_records import SkippedRecords
from feedbus.errors import BrokerOutage
from feedbus.metrics import Metrics
from feedbus.records import Records
from feedbus.runner.queue_reader import QueueReader
from feedbus.store.outbox_publishing import publish_pending
from feedbus.store.peewee import PeeweeStore, bind, bound
from feedbus.topology import RetryPolicy
from tests.projects import wait_until
from tests.small_topologies import BATCH, queue
from tests.system_fixtures import closing_store, systems_on_either_broker
from tests.systems import System, publishing

make = systems_on_either_broker()


def test_a_repeat_has_no_second_effect_on_a_queue_that_says_once(
    make: Callable[..., System],
) -> None:
    system = make(queue(once=True), queue("next", exchange="other", routing_keys=("n",)))
    with system.bus() as bus:
        for _ in range(2):
            bus.publish("work", {"n": 1}, message_id="the-same")
        bus.publish("work", {"n": 1}, message_id="another")
    metrics = Metrics.none()
    system.run(publishing(system), metrics=metrics)
    assert system.seen == [1, 1]
    assert system.ready()["next"] == 2
    assert bound().outbox.pending() == []
    assert metrics.value("feedbus_skipped_records_total", "work") == 1
    assert metrics.value("feedbus_records_total", "work", "ack") == 3


def test_skipped_records_are_logged_once_a_minute_with_an_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics, clock = Metrics.none(), VirtualClock()
    skipped = SkippedRecords("work", metrics.consumer("work"), clock)

    def handle(new: Sequence[str], repeated: Sequence[str]) -> None:
        ids = [*new, *repeated]
        records = Records.of([{}] * len(ids), ids)
        skipped.add(records, records.only(new))
        skipped.report()

    with caplog.at_level("INFO", "feedbus"):
        handle(["a"], [])
        handle([], ["b"])
        handle(["c"], ["d", "e"])
        clock.sleep(60.0)
        handle(["f"], ["f"])
    assert metrics.value("feedbus_skipped_records_total", "work") == 4
    assert [
        (event.fields["records"], event.fields["message_id"])
        for event in (record.msg for record in caplog.records)
    ] == [(1, "b"), (3, "f")]


def test_a_wait_to_remove_rows_that_were_sent_does_not_count_as_time_of_the_handler(
    tmp_path: Path,
) -> None:
    system = System.at(
        tmp_path, queue(once=True), queue("next", exchange="other", routing_keys=("n",))
    )
    rows: list[int] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        with closing(sqlite3.connect(tmp_path / "store.db")) as other:
            rows.extend(other.execute("SELECT count(*) FROM feedbus_outbox").fetchone())
        yield

    system.store = bind(PeeweeStore(f"sqlite:///{tmp_path}/store.db", waiting=waiting))
    system.publish([1])
    with closing_store():
        system.run(lambda message, bus: bus.publish("other", message, "n"))
    assert rows[-1] == 1


def test_a_process_that_reads_a_queue_again_sends_first_what_another_has_left_meanwhile(
    tmp_path: Path,
) -> None:
    following = queue("next", exchange="other", routing_keys=("n",))
    system = System.at(tmp_path, queue(once=True), following)
    reads = threading.Event()
    reads.set()

    def is_read() -> bool:
        with broker.connect(system.topology) as connection:
            return bool(broker.count_consumers(connection, Names(system.topology).queue(first)))

    first = system.topology.consumer("work")
    with closing_store(), system.running(publishing(system), assigned=reads.is_set):
        system.publish([1])
        wait_until(lambda: system.ready()["next"] == 1)
        reads.clear()
        wait_until(lambda: not is_read())
        with system.store.transaction():
            system.store.outbox.put("other", {"n": 2}, "n")
        system.publish([3])
        reads.set()
        wait_until(lambda: system.ready()["next"] == 3)
    system.seen.clear()
    system.run(system.note, "next")
    assert system.seen == [1, 2, 3]


def test_a_repeat_in_the_same_batch_has_no_second_effect_on_a_queue_that_says_once(
    make: Callable[..., System],
) -> None:
    system = make(queue(once=True, batch=BATCH))
    with system.bus() as bus:
        for name in ("the-same", "another", "the-same"):
            bus.publish("work", {"n": 1}, message_id=name)
    batches: list[int] = []
    system.run(lambda records, _: batches.append(len(records)), batch=True)
    assert batches == [2]
    assert system.ready() == {"work": 0}


@pytest.mark.parametrize("pack", [0, 100])
def test_what_a_batch_handler_retries_or_rejects_on_a_queue_that_says_once_can_come_again(
    make: Callable[..., System], pack: int
) -> None:
    system = make(queue(once=True, batch=BATCH), pack=pack)
    system.publish([0, 1, 2, 3])

    def handle(records: Records, _bus: Bus) -> None:
        for single in records.singles():
            number = single[0]["n"]
            if system.seen.count(number) == 0 and number == 1:
                single.retry("not yet")
            if system.seen.count(number) == 0 and number == 2:
                single.reject("not yet")
            system.seen.append(number)

    system.run(handle, batch=True)
    assert sorted(system.seen) == [0, 1, 1, 2, 3]
    with Requeue(system.topology, system.topology.queues["work"]) as again:
        for letter in system.dead():
            again.send(letter)
    system.run(handle, batch=True)
    assert sorted(system.seen) == [0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("batch", [False, True])
def test_a_record_whose_handler_has_raised_is_handled_again_on_a_queue_that_says_once(
    tmp_path: Path, batch: bool
) -> None:
    def raise_once(given: Any, _bus: Bus) -> None:
        for message in [single[0] for single in given.singles()] if batch else [given]:
            system.note(message)
        if len(system.seen) == 1:
            raise ZeroDivisionError

    with closing_store():
        system = System.at(tmp_path, queue(once=True, **({"batch": BATCH} if batch else {})))
        system.publish([1])
        system.run(raise_once, batch=batch)
        assert (system.seen, system.dead()) == ([1, 1], [])


@pytest.mark.parametrize("options", [{}, {"batch": BATCH}, {"concurrency": 2}])
def test_a_record_whose_messages_a_full_queue_refuses_does_not_become_a_dead_letter(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    is_batch = "batch" in options

    def publish(given: Any, bus: Bus) -> None:
        if is_batch:
            given.publish("other", key="n", columns={"n": "n"})
        else:
            bus.publish("other", given, "n")

    with closing_store():
        system = System.at(
            tmp_path,
            queue(once=True, retry=RetryPolicy((), "dead-letter"), **options),
            queue(
                "next",
                exchange="other",
                routing_keys=("n",),
                max_length=1,
                overflow="reject-publish",
            ),
        )
        system.publish([1], "other", "n")
        system.publish([2])
        system.run(publish, batch=is_batch)
        assert (system.dead(), len(bound().outbox.pending())) == ([], 1)
        system.run(system.note, "next")
        with system.bus() as bus:
            publish_pending(bound(), bus, system.topology.name, older_than_seconds=0.0)
        system.run(system.note, "next")
        assert (system.seen, bound().outbox.pending()) == ([1, 2], [])


def test_a_handled_message_whose_process_ends_too_often_does_not_become_a_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unforeseen(KeyboardInterrupt):
        """An exception that ends a process; any other exception is a failure of the message."""

    calls: list[int] = []

    def end_after_the_commit(*_: object) -> list[Refusal]:
        raise Unforeseen

    def handle(message: dict[str, Any], bus: Bus) -> None:
        calls.append(message["n"])
        if len(calls) < 5:
            raise Unforeseen
        bus.publish("other", message, "n")

    with closing_store():
        system = System.at(
            tmp_path, queue(once=True), queue("next", exchange="other", routing_keys=("n",))
        )
        system.publish([1])
        with monkeypatch.context() as patched:
            patched.setattr(Sender, "send", end_after_the_commit)
            for _ in range(5):
                with pytest.raises(Unforeseen):
                    system.run(handle)
        system.run(handle)
        assert (len(calls), system.dead(), system.ready()["work"]) == (5, [], 0)
        assert len(bound().outbox.pending()) == 1  # the relay sends it


@pytest.mark.parametrize("batch", [False, True])
def test_what_a_killed_handler_has_left_is_sent_before_later_messages_of_its_key(
    make: Callable[..., System], batch: bool
) -> None:
    after = queue("next", exchange="other", routing_keys=("n",))
    system = make(queue(once=True, **({"batch": BATCH} if batch else {})), after)
    with system.store.transaction():
        system.store.outbox.put("other", {"n": 1}, "n")
        system.store.outbox.put("other", {"n": 0}, "m")
    system.publish([2, 3])

    def publish(given: Any, bus: Bus) -> None:
        if not batch:
            bus.publish("other", given, "n")
            return
        for single in given.singles():
            single.publish_many("other", [(single[0], "n")])

    system.run(publish, batch=batch)
    system.run(system.note, "next")
    assert system.seen == [1, 2, 3]
    assert [entry.key for entry in system.store.outbox.pending()] == ["m"]


def test_what_another_process_has_left_is_sent_when_its_message_is_delivered_again(
    tmp_path: Path,
) -> None:
    with closing_store():
        system = System.at(
            tmp_path, queue(once=True), queue("next", exchange="other", routing_keys=("n",))
        )
        store, database = bound(), bound().database
        with system.bus() as bus:
            for number in (0, 1, 2, 3):
                bus.publish("work", {"n": number}, message_id=f"m-{number}")

        def handle(message: dict[str, Any], bus: Bus) -> None:
            if message["n"] == 1:  # meanwhile, another process handles message 2, and is killed
                store.inbox.add_new("work", ["m-2"])
                store.outbox.put("other", {"n": 2}, "n")
                database.execute_sql("UPDATE feedbus_outbox SET created_at = created_at - 60000000")
            bus.publish("other", message, "n")

        system.run(handle)
        system.run(system.note, "next")
        assert (system.seen, store.outbox.pending()) == ([0, 1, 2, 3], [])


def test_own_messages_wait_for_older_ones_of_their_key_that_the_broker_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing_store():
        system = System.at(
            tmp_path, queue(once=True), queue("next", exchange="other", routing_keys=("n",))
        )
        outbox = bound().outbox
        with bound().transaction():
            outbox.put("other", {"n": 1}, "n", message_id="left")
        system.publish([2])
        send = Sender.send

        def refuse_first(sender: Sender, messages: Any) -> list[Refusal]:
            left = [each for each in messages if each.message_id == "left"]
            refusals = [Refusal(each, "nacked", "full") for each in left]
            return refusals + send(sender, [each for each in messages if each not in left])

        with monkeypatch.context() as patched:
            patched.setattr(Sender, "send", refuse_first)
            system.run(lambda message, bus: bus.publish("other", message, "n"))
        assert [json.loads(entry.payload)["n"] for entry in outbox.pending()] == [1, 2]
        with system.bus() as bus:
            publish_pending(bound(), bus, system.topology.name, older_than_seconds=0.0)
        system.run(system.note, "next")
        assert (system.seen, outbox.pending()) == ([1, 2], [])


def test_the_verdicts_of_a_batch_with_a_repeat_are_those_of_their_records(tmp_path: Path) -> None:
    with closing_store():
        system = System.at(tmp_path, queue(once=True, batch=BATCH))
        with system.bus() as bus:
            for number in (1, 2, 3):
                bus.publish("work", {"n": number}, message_id=f"m-{number}")
        with bound().transaction():
            bound().inbox.add_new("work", ["m-1"])

        def reject_last(records: Records, _bus: Bus) -> None:
            for single in records.singles():
                system.note(single[0])
            single.reject("not this one")

        system.run(reject_last, batch=True)
        assert system.seen == [2, 3]
        assert [json.loads(letter.body) for letter in system.dead()] == [{"n": 3}]


def test_a_delayed_message_that_was_handled_before_it_expired_is_skipped(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_once(reading: QueueReader, tag: int) -> None:
        if losses:
            reason = losses.pop()
            raise BrokerOutage(reason)
        settle(reading, tag)

    def handle(message: dict[str, Any], _bus: Bus) -> None:
        time.sleep(1.5)
        system.note(message)

    settle = QueueReader.settle_up_to
    losses = ["the connection was lost before the acknowledgement"]
    monkeypatch.setattr(QueueReader, "settle_up_to", lose_once)
    system = make(queue(once=True))
    with system.bus() as bus:
        bus.publish("work", {"n": 1}, delay=0.1, expires=1.5)
    system.run(handle, idle_seconds=2.0)
    assert not losses
    assert (system.seen, system.dead()) == ([1], [])
