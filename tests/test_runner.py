"""A consumer's life: deliveries, verdicts, limits, on a real embedded broker."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker.names import Names
from feedbus.bus import Bus
from feedbus.dead_letters.requeue import Requeue
from feedbus.dispatch import publications
from feedbus.errors import BrokerOutage, Drop, Outage, Reject, Retry, Unroutable
from feedbus.metrics import Metrics, totals
from feedbus.records import Records
from feedbus.ring import Ring
from feedbus.runner import Suspects
from feedbus.runner.reading import Reading
from feedbus.store.peewee import bound, close_bound, database
from feedbus.topology import Batch, RetryPolicy
from tests.projects import wait_until
from tests.systems import BATCH, System, queue, sharded


@pytest.fixture(params=["embedded", "rabbitmq"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., System]]:
    """Make systems on either broker, one without a store; what they promise is the same on both."""
    url = ""
    if request.param == "rabbitmq":
        url = request.getfixturevalue("rabbitmq").url
    yield partial(System.at, tmp_path, broker_url=url, stored=bool(url))
    close_bound()


def test_a_message_is_handled_once_and_leaves_nothing_behind(make: Callable[..., System]) -> None:
    system = make(queue())
    system.publish([1, 2, 3])
    assert system.run(system.note) == "idle for 0.3 s"
    assert system.seen == [1, 2, 3]
    assert system.ready() == {"work": 0}
    assert system.dead() == []


def test_a_rejected_message_is_dead_lettered_with_its_reason(make: Callable[..., System]) -> None:
    system = make(queue())

    def refuse(message: dict[str, Any], _bus: Bus) -> None:
        if message["n"] == 2:
            msg = "nobody wants 2"
            raise Reject(msg)
        system.note(message)

    system.publish([1, 2, 3])
    system.run(refuse)
    (letter,) = system.dead()
    assert system.seen == [1, 3]
    assert (letter.reason, letter.attempts, json.loads(letter.body)) == (
        "nobody wants 2",
        1,
        {"n": 2},
    )


def test_a_dropped_message_is_counted_and_logged_and_leaves_no_dead_letter(
    make: Callable[..., System], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    system = make(queue(), queue("many", routing_keys=("many",), batch=BATCH))

    def drop_two(message: dict[str, Any], _bus: Bus) -> None:
        if message["n"] == 2:
            msg = "2 was deleted"
            raise Drop(msg)
        system.note(message)

    def drop_even(records: Records, _bus: Bus) -> None:
        for each in records.singles():
            if each.first["n"] % 2:
                system.note(each.first)
            else:
                each.drop(f"{each.first['n']} was deleted")

    system.publish([1, 2, 3])
    system.publish([4, 5, 6], key="many")
    metrics = Metrics.open(system.topology.var / "metrics", "dropping")
    system.run(drop_two, metrics=metrics)
    system.run(drop_even, "many", batch=True, metrics=metrics)
    counted = totals(system.topology.var / "metrics")
    assert system.seen == [1, 3, 5]
    assert system.dead() == system.dead("many") == []
    assert {name: verdicts["drop"] for name, verdicts in counted.items()} == {"work": 1, "many": 2}
    event = "event=records_dropped consumer="
    assert f'{event}work records=1 first_reason="2 was deleted"' in caplog.text
    assert f"{event}many " in caplog.text


def test_a_handler_that_returns_something_has_failed_and_has_no_effect(
    make: Callable[..., System],
) -> None:
    system = make(queue(), queue("children", routing_keys=("child",)))

    def refuse(message: dict[str, Any], bus: Bus) -> Any:
        if message["n"] != 2:
            return system.note(message)
        bus.publish("work", {"n": 20}, "child")
        return Reject("nobody wants 2")

    system.publish([1, 2, 3])
    system.run(refuse)
    (letter,) = system.dead()
    assert system.seen == [1, 3]
    assert letter.reason.startswith("UnexpectedResult: the handler returned Reject(")
    assert "write 'raise Reject(…)'" in letter.reason
    assert system.ready() == {"work": 0, "children": 0}


def test_a_failing_message_goes_through_the_retry_delays_and_then_is_dead(
    make: Callable[..., System],
) -> None:
    system = make(queue())

    def fail(message: dict[str, Any], _bus: Bus) -> None:
        system.note(message)
        if message["n"] == 1:
            msg = "no luck"
            raise ValueError(msg)

    system.publish([1, 2])
    system.run(fail, idle_seconds=1.5)
    (letter,) = system.dead()
    assert sorted(system.seen) == [1, 1, 1, 2]
    assert (letter.reason, letter.attempts) == ("ValueError: no luck", 3)


def test_a_retry_comes_back_after_the_time_it_asks_for(make: Callable[..., System]) -> None:
    system = make(queue(retry=RetryPolicy((60.0,), "dead-letter")))

    def once_more(message: dict[str, Any], _bus: Bus) -> None:
        system.note(message)
        if len(system.seen) == 1:
            raise Retry(after_seconds=0.05)

    system.publish([1])
    system.run(once_more, idle_seconds=1.5)
    assert system.seen == [1, 1]
    assert system.dead() == []


def test_a_retry_policy_that_drops_leaves_no_dead_letter(make: Callable[..., System]) -> None:
    system = make(queue(retry=RetryPolicy((0.01,), "drop")))

    def fail(message: dict[str, Any], _bus: Bus) -> None:
        system.note(message)
        raise Retry

    system.publish([1])
    system.run(fail, idle_seconds=1.5)
    assert (system.seen, system.dead()) == ([1, 1], [])


def test_bodies_that_are_no_messages_are_dead_at_once_with_every_fields_error(
    make: Callable[..., System],
) -> None:
    system = make(queue())
    with system.bus() as bus:
        bus.publish("work", {"n": "one", "text": 3})
        bus.publish("work", {"n": 1})
    system.run(system.note)
    (letter,) = system.dead()
    assert system.seen == [1]
    assert letter.errors == {"n": ["Not a valid integer."], "text": ["Not a valid string."]}


def test_a_body_of_half_a_surrogate_pair_is_dead_as_it_came_and_ends_no_runner(
    make: Callable[..., System],
) -> None:
    system = make(queue())
    with system.bus() as bus:
        bus.publish("work", {"n": "\ud800"})
        bus.publish("work", {"n": 1})
    system.run(system.note)
    (letter,) = system.dead()
    assert system.seen == [1]
    assert json.loads(letter.body) == {"n": "\ud800"}


def test_a_reason_that_is_no_text_and_a_wait_that_is_none_end_no_runner(
    make: Callable[..., System],
) -> None:
    system = make(queue(retry=RetryPolicy((), "dead-letter")))

    def refuse(message: dict[str, Any], _bus: Bus) -> None:
        if message["n"] == 1:
            msg = "\ud800"
            raise Reject(msg)
        raise Retry(after_seconds=float("nan"))

    system.publish([1, 2])
    system.run(refuse)
    assert sorted(letter.reason for letter in system.dead()) == [
        "ValueError: after_seconds: expected 0 to 31622400, got nan",
        "\\ud800",
    ]


def test_attempts_that_a_foreign_header_makes_up_are_not_counted(
    make: Callable[..., System],
) -> None:
    system = make(queue())

    def fail(message: dict[str, Any], _bus: Bus) -> None:
        system.note(message)
        raise ValueError

    with broker.connect(system.topology) as connection:
        for attempts in (-9, 2**62, "many"):
            message = connection.channel().prepare_message(
                b'{"n": 1}', headers={"feedbus-attempt": attempts}
            )
            name = Names(system.topology).exchange("work")
            connection.default_channel.basic_publish(message, name, "")
    system.run(fail)
    assert [letter.attempts for letter in system.dead()] == [3, 3, 3]


def test_a_dead_letter_of_made_up_headers_is_read_all_the_same(
    make: Callable[..., System],
) -> None:
    system = make(queue())
    made_up = {"feedbus-attempt": "many", "feedbus-failed-at": "once", "x-death": "by water"}
    with broker.connect(system.topology) as connection:
        message = connection.channel().prepare_message(b"{}", headers=made_up)
        dead_queue = Names(system.topology).dead(system.topology.queues["work"])
        connection.default_channel.basic_publish(message, "", dead_queue)
    (letter,) = system.dead()
    assert (letter.attempts, letter.failed_at_microseconds) == (0, None)
    assert letter.reason == "broker: unknown"


def test_a_message_whose_error_ends_the_runner_is_given_up_after_five(
    make: Callable[..., System],
) -> None:
    system = make(queue())

    class Unforeseen(KeyboardInterrupt):
        """What ends a process: any other exception is a failure of the message."""

    def end(message: dict[str, Any], _bus: Bus) -> None:
        if message["n"] == 2:
            raise Unforeseen
        system.note(message)

    system.publish([1, 2, 3])
    for _ in range(5):
        with pytest.raises(Unforeseen):
            system.run(end)
    system.run(end)
    (letter,) = system.dead()
    assert json.loads(letter.body) == {"n": 2}
    assert "lost 5 times" in letter.reason
    assert set(system.seen) == {1, 3}


def test_one_bad_record_in_a_batch_does_not_fail_its_neighbours(
    make: Callable[..., System],
) -> None:
    system = make(queue(batch=BATCH), pack=100)

    def choke(records: Records, _bus: Bus) -> None:
        if 13 in records.column("n"):
            msg = "13"
            raise ValueError(msg)
        system.seen.extend(records.column("n"))

    system.publish(range(20))
    system.run(choke, batch=True, idle_seconds=1.5)
    (letter,) = system.dead()
    assert system.seen == [n for n in range(20) if n != 13]
    assert json.loads(letter.body) == {"n": 13}


def test_a_batch_takes_what_has_arrived_however_short_its_wait(
    make: Callable[..., System],
) -> None:
    system = make(queue(batch=Batch(50, 0.0)))
    sizes: list[int] = []

    def work(records: Records, _bus: Bus) -> None:
        sizes.append(len(records))
        time.sleep(0.5)  # meanwhile the rest arrives

    system.publish(range(50))
    system.run(work, batch=True)
    assert sum(sizes) == 50
    assert len(sizes) <= 2


def test_a_lone_record_waits_for_nobody_and_those_after_it_gather(
    make: Callable[..., System],
) -> None:
    system = make(queue(batch=Batch(4, 60.0)))  # the second is full before its wait is over
    batches: list[list[int]] = []

    def work(records: Records, _bus: Bus) -> None:
        batches.append(records.column("n"))

    with system.running(work, batch=True):
        system.publish([1])
        wait_until(lambda: batches == [[1]])
        for number in range(2, 6):
            system.publish([number])
        wait_until(lambda: len(batches) > 1)
    assert batches == [[1], [2, 3, 4, 5]]


def test_a_batch_handler_rejects_single_records_of_a_pack(make: Callable[..., System]) -> None:
    system = make(queue(batch=BATCH), pack=100)

    def pick(records: Records, _bus: Bus) -> None:
        records.where("n", range(0, 20, 7)).reject("divisible")

    system.publish(range(20))
    system.run(pick, batch=True)
    assert [json.loads(letter.body)["n"] for letter in system.dead()] == [0, 7, 14]


@pytest.mark.parametrize("options", [{}, {"once": True}, {"stream": True}])
def test_what_records_of_a_batch_publish_arrives_under_ids_of_theirs(
    make: Callable[..., System], options: dict[str, bool]
) -> None:
    next_ = queue("next", exchange="other", routing_keys=("n",), batch=BATCH)
    system = make(queue(batch=BATCH, **options), next_, pack=100)
    ids: list[str] = []

    def send_on(records: Records, _bus: Bus) -> None:
        records.where("n", {3}).reject("not this one")
        records.remaining().publish("other", key="n", columns={"n": "n"})
        if len(records) > 1:
            msg = "each is taken alone"
            raise ValueError(msg)

    def note(records: Records, _bus: Bus) -> None:
        ids.extend(records.ids)
        system.seen.extend(records.column("n"))

    system.publish(range(5))
    system.run(send_on, batch=True)
    system.run(note, "next", batch=True)
    assert system.seen == [0, 1, 2, 4]
    assert len(set(ids)) == 4
    assert [letter.reason for letter in system.dead()] == ["not this one"]


def test_a_batch_handler_that_publishes_by_the_bus_has_failed_with_what_to_do(
    make: Callable[..., System],
) -> None:
    system = make(queue(batch=BATCH), queue("next", exchange="other"))
    system.publish(range(2))
    system.run(lambda records, bus: bus.publish("other", records[0]), batch=True)
    reasons = {letter.reason for letter in system.dead()}
    assert len(reasons) == 1
    assert "records.publish(…)" in reasons.pop()


def test_invalid_records_of_a_pack_are_dead_and_the_others_handled(
    make: Callable[..., System],
) -> None:
    system = make(queue(batch=BATCH), pack=100)
    with system.bus() as bus:
        bus.publish_columns("work", {"n": [1, "two", 3]}, ["", "", ""])
    system.run(lambda records, _: system.seen.extend(records.column("n")), batch=True)
    assert system.seen == [1, 3]
    assert [letter.errors for letter in system.dead()] == [{"n": ["Not a valid integer."]}]


def test_what_a_failing_handler_published_is_not_sent(make: Callable[..., System]) -> None:
    system = make(queue(), queue("next", exchange="other", routing_keys=("n",)))

    def publish_then_fail(message: dict[str, Any], bus: Bus) -> None:
        bus.publish("other", message, "n")
        if message["n"] == 1:
            msg = "no"
            raise Reject(msg)

    system.publish([1, 2])
    system.run(publish_then_fail)
    assert system.ready() == {"work": 0, "next": 1}


def test_a_child_that_nobody_would_receive_is_its_parents_failure(
    make: Callable[..., System],
) -> None:
    system = make(queue())
    system.publish([1])
    system.run(lambda message, bus: bus.publish("other", message, "nowhere"), idle_seconds=1.5)
    (letter,) = system.dead()
    assert "no queue for key 'nowhere'" in letter.reason
    with system.bus() as bus, pytest.raises(Unroutable):
        bus.publish("other", {"n": 1}, "nowhere")


def test_a_store_that_is_locked_holds_the_runner_and_counts_no_attempt(
    make: Callable[..., System], tmp_path: Path
) -> None:
    system = make(queue(), stored=True)
    database.execute_sql("CREATE TABLE effects (n integer)")
    database.execute_sql("PRAGMA busy_timeout = 50")
    blocker = sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(0.5, lambda: blocker.execute("COMMIT"))

    def write(message: dict[str, Any], _bus: Bus) -> None:
        database.execute_sql("INSERT INTO effects VALUES (?)", (message["n"],))

    system.publish([1])
    timer.start()
    system.run(write, idle_seconds=1.5)
    timer.join()
    assert blocker.execute("SELECT n FROM effects").fetchall() == [(1,)]
    blocker.close()
    assert system.dead() == []


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"max_runtime_seconds": 2}, "ran for 2 s"), ({"idle_seconds": 0.5}, "idle for 0.5 s")],
)
def test_limits_end_a_run_that_holds(
    make: Callable[..., System], limits: dict[str, float], reason: str
) -> None:
    system = make(queue())
    holds: list[str] = []

    def need_something(_message: dict[str, Any], _bus: Bus) -> None:
        msg = "the printer is unavailable"
        raise Outage(msg)

    system.publish([1])
    assert (
        system.run(need_something, on_hold=holds.append, **{"idle_seconds": 9, **limits}) == reason
    )
    assert holds == ["the printer is unavailable"]
    assert (system.ready(), system.dead()) == ({"work": 1}, [])


def test_a_consumer_that_goes_on_says_so_and_waits_longer_only_while_nothing_succeeds(
    make: Callable[..., System], caplog: pytest.LogCaptureFixture
) -> None:
    system = make(queue())
    holds: list[str] = []

    def fail_twice(message: dict[str, Any], _bus: Bus) -> None:
        system.note(message)
        if len(system.seen) % 3:
            msg = "the printer is unavailable"
            raise Outage(msg)

    system.publish([1, 2])
    with caplog.at_level(logging.INFO):
        system.run(fail_twice, on_hold=holds.append, idle_seconds=60, max_messages=2)
    assert holds == ["the printer is unavailable", "", "the printer is unavailable", ""]
    reported = [
        record.getMessage() for record in caplog.records if "printer" in record.getMessage()
    ]
    assert len(reported) == 2  # an equal line is folded
    assert sum("continues after 2 failed attempts" in text for text in caplog.messages) == 2


def test_a_repeat_has_no_second_effect_on_a_queue_that_says_once(
    make: Callable[..., System],
) -> None:
    system = make(queue(once=True), queue("next", exchange="other", routing_keys=("n",)))

    def effect(message: dict[str, Any], bus: Bus) -> None:
        system.note(message)
        bus.publish("other", message, "n")

    with system.bus() as bus:
        for _ in range(2):
            bus.publish("work", {"n": 1}, message_id="the-same")
        bus.publish("work", {"n": 1}, message_id="another")
    system.run(effect)
    assert system.seen == [1, 1]
    assert system.ready()["next"] == 2
    assert bound().outbox.pending() == []


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


def test_what_a_batch_handler_retries_or_rejects_on_a_queue_that_says_once_can_come_again(
    make: Callable[..., System],
) -> None:
    system = make(queue(once=True, batch=BATCH))
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


def put_without_id(system: System, numbers: Sequence[int]) -> None:
    """Publish numbered messages as a foreign client that sets no message id."""
    with broker.connect(system.topology) as connection:
        channel: Any = connection.default_channel
        for number in numbers:
            message = channel.prepare_message(json.dumps({"n": number}).encode())
            channel.basic_publish(message, Names(system.topology).exchange("work"), "")


def test_equal_messages_without_ids_are_each_handled_on_a_queue_that_says_once(
    make: Callable[..., System],
) -> None:
    system = make(queue(once=True), queue("next", exchange="other", routing_keys=("n",)))

    def effect(message: dict[str, Any], bus: Bus) -> None:
        system.note(message)
        bus.publish("other", message, "n")

    put_without_id(system, [1, 1, 2])
    system.run(effect)
    put_without_id(system, [1])
    system.run(effect)
    assert system.seen == [1, 1, 2, 1]
    children: list[str] = []
    with broker.connect(system.topology) as connection:
        channel = connection.default_channel
        name = Names(system.topology).queue(system.topology.consumer("next"))
        while (message := channel.basic_get(name)) is not None:
            children.append(message.properties["message_id"])
    assert len(set(children)) == 4


def test_a_repeat_without_an_id_has_no_second_effect_and_is_counted(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(queue(once=True))
    metrics = Metrics.none()
    put_without_id(system, [1])

    settle, losses = Reading.settle, [True]

    def lose_one(reading: Reading, tag: int) -> None:
        if losses:
            losses.pop()
            msg = "the connection was lost before the acknowledgement"
            raise BrokerOutage(msg)
        settle(reading, tag)

    monkeypatch.setattr(Reading, "settle", lose_one)
    system.run(system.note, idle_seconds=1.0, metrics=metrics)
    assert system.seen == [1]
    assert metrics.value("feedbus_taken_for_repeats_total", "work") >= 1
    assert system.ready() == {"work": 0}


def test_a_message_without_an_id_that_ends_its_process_is_given_up_and_the_next_one_handled(
    make: Callable[..., System],
) -> None:
    system = make(queue())

    class Unforeseen(KeyboardInterrupt):
        """What ends a process: any other exception is a failure of the message."""

    def end(message: dict[str, Any], _bus: Bus) -> None:
        if message["n"] == 1:
            raise Unforeseen
        system.note(message)

    put_without_id(system, [1, 2])
    for _ in range(5):
        with pytest.raises(Unforeseen):
            system.run(end)
    system.run(end)
    (letter,) = system.dead()
    assert (json.loads(letter.body), system.seen) == ({"n": 1}, [2])


def test_a_run_that_connects_for_longer_than_it_may_idle_still_handles_what_waits(
    tmp_path: Path,
) -> None:
    system = System.at(tmp_path, queue())
    system.publish([1])
    with closing(sqlite3.connect(tmp_path / "broker.db", check_same_thread=False)) as writer:
        writer.isolation_level = None
        writer.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.6, writer.execute, ["ROLLBACK"])
        release.start()
        system.run(system.note)
        release.join()
    close_bound()
    assert system.seen == [1]


def test_a_queue_that_says_stream_sends_so_many_at_once_while_its_handler_still_works(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publications, "STREAM_RECORDS", 2)
    system = make(queue(stream=True), queue("next", exchange="other", routing_keys=("n",)))
    ready: list[int] = []

    def publish(message: dict[str, Any], bus: Bus) -> None:
        for _ in range(3):
            bus.publish("other", message, "n")
            ready.append(system.ready()["next"])

    system.publish([1, 2])
    system.run(publish)
    assert ready == [0, 2, 2, 3, 5, 5]
    assert system.ready()["next"] == 6


def test_a_run_says_once_that_it_is_ready(make: Callable[..., System]) -> None:
    system = make(queue())
    reported: list[int] = []
    system.publish([1, 2, 3])
    system.run(system.note, on_ready=lambda: reported.append(len(system.seen)))
    assert (reported, system.seen) == ([0], [1, 2, 3])


def test_who_was_in_hand_is_read_from_a_line_that_was_shorter_than_the_one_before(
    tmp_path: Path,
) -> None:
    path = tmp_path / "work.hand"

    def die() -> None:
        with Suspects(path) as suspects:
            suspects.take([f"message-{number}" for number in range(50)], 60.0)
            suspects.release()
            suspects.take(["one"], 60.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        die()
    with Suspects(path) as suspects:
        assert (suspects.suspected("one"), suspects.suspected("message-1")) == (True, False)


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_messages_are_handled_than_asked_for(
    make: Callable[..., System], limit: int
) -> None:
    system = make(queue())
    system.publish(range(5))
    assert system.run(system.note, max_messages=limit) == f"handled {limit} messages"
    assert system.seen == list(range(limit))
    assert system.ready() == {"work": 5 - limit}


def test_a_run_ends_after_its_longest_time_though_messages_come(
    make: Callable[..., System],
) -> None:
    system = make(queue())

    def slow(message: dict[str, Any], _bus: Bus) -> None:
        system.note(message)
        time.sleep(0.1)

    system.publish(range(50))
    assert system.run(slow, max_runtime_seconds=0.3) == "ran for 0.3 s"
    assert system.ready() == {"work": 50 - len(system.seen)}


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

    threads = [
        threading.Thread(
            target=after.run, args=(collect, name), kwargs={"batch": True, "idle_seconds": 2.0}
        )
        for name in after.topology.consumers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert by_key["all"] == [1] * 60 + [2] * 60


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
