"""Verdicts of a runner: rejected, dropped, failed and retried messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.bus import Bus
from feedbus.errors import Drop, Reject, Retry, Unroutable
from feedbus.metrics import Metrics, totals
from feedbus.records import Records
from feedbus.topology import RetryPolicy
from feedbus.wire.constants import TRACEBACK
from feedbus.wire.failed_messages import sent_back
from tests.small_topologies import BATCH, queue
from tests.system_fixtures import systems_on_either_broker
from tests.systems import System, publish_confirmed

make = systems_on_either_broker()


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


@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
def test_a_dead_letter_has_the_traceback_of_its_last_attempt_and_a_requeued_message_none(
    make: Callable[..., System], batch: bool
) -> None:
    system = make(queue(**({"batch": BATCH} if batch else {})))

    def raises(message: dict[str, Any]) -> None:
        if message["n"] == 2:
            raise KeyError("no such seat")  # noqa: EM101, TRY003 -- a handler's own
        if message["n"] == 3:
            raise Reject("nobody wants 3")  # noqa: EM101, TRY003 -- a handler's own
        if message["n"] == 4:
            raise Retry("4 is not ready")  # noqa: EM101, TRY003 -- a handler's own
        system.note(message)

    def handle(given: Any, _bus: Bus) -> None:
        for message in given if batch else [given]:
            raises(message)

    system.publish([2, 3, 4])
    system.run(handle, batch=batch)
    found = {json.loads(letter.body)["n"]: letter.traceback for letter in system.dead()}
    assert found.keys() == {2, 3, 4}
    assert found[2].endswith("KeyError: 'no such seat'")
    assert "in raises\n    raise KeyError" in found[2]
    calls = [line for line in found[2].splitlines() if line.startswith('  File "')]
    assert [line.rpartition(", in ")[2] for line in calls] == ["handle", "raises"]
    assert (found[3], found[4]) == ("", "")
    again = [sent_back(each.delivery, "work", "", died_in=str.isupper) for each in system.dead()]
    assert [TRACEBACK in each.headers for each in again] == [False, False, False]


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
    line = refuse.__code__.co_firstlineno
    assert f"refuse ({__file__}:{line}) returned Reject(" in letter.reason
    assert letter.traceback == f"feedbus.errors.{letter.reason}"
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
            publish_confirmed(connection.default_channel, message, name, "")
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
        publish_confirmed(connection.default_channel, message, "", dead_queue)
    (letter,) = system.dead()
    assert (letter.attempts, letter.failed_at_microseconds) == (0, None)
    assert letter.reason == "broker: unknown"


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
    assert "for the routing key 'nowhere'" in letter.reason
    with system.bus() as bus, pytest.raises(Unroutable):
        bus.publish("other", {"n": 1}, "nowhere")
