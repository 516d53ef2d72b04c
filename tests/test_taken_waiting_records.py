"""Waiting records that were taken to be handled: each is done, fails again, or is not run."""

from __future__ import annotations

import math

import pytest

from feedbus.dispatch.taken_waiting_records import TakenRecords
from feedbus.dispatch.waiting_record import DEAD_LETTER_ATTEMPT, Arrival, WaitingRecord
from feedbus.dispatch.waiting_records import WaitingRecords
from feedbus.wire import Delivery


def delivery(number: int, consumer_tag: str = "tag") -> Delivery:
    return Delivery(number, b"{}", None, f"m{number}", "", "", {}, False, consumer_tag)


@pytest.fixture
def records() -> WaitingRecords:
    """Three records of one key, then one of another key, in two waiting queues."""
    found: WaitingRecords = WaitingRecords()
    for number, (key, queue) in enumerate([("a", "w1"), ("a", "w1"), ("a", "w1"), ("b", "w2")], 1):
        arrival = Arrival(delivery(number), None, 0.0)
        found.add_arrived(WaitingRecord(key, number, f"m{number}", queue=queue, arrival=arrival))
    return found


@pytest.fixture
def taken(records: WaitingRecords) -> TakenRecords:
    return TakenRecords(records)


def take(taken: TakenRecords, now: float = 0.0) -> list[int]:
    return [each.tag for each in taken.take(now, 10, lambda _: False)]


def test_a_record_without_a_decision_is_done(records, taken):
    assert take(taken) == [1, 2, 3, 4]
    assert taken.finish([delivery(1), delivery(4)]) == [delivery(1), delivery(4)]
    assert sorted(each.position for each in records) == [2, 3]


def test_the_copy_of_a_record_that_was_handled_is_acknowledged_too(records, taken):
    copy = Arrival(delivery(9, "newer"), None, 0.0)
    records.add_arrived(WaitingRecord("b", 4, "m4", queue="w3", arrival=copy, generation_number=1))
    take(taken)
    assert taken.finish([delivery(4)]) == [copy.delivery, delivery(4)]


def test_a_delivery_of_another_queue_is_not_acknowledged_here(taken):
    take(taken)
    assert taken.record_of(delivery(1, "other")) is None
    assert taken.finish([delivery(1, "other")]) == []


def test_later_records_of_a_key_that_has_failed_again_are_not_run_and_stay_in_the_queue(
    records, taken
):
    take(taken)
    taken.mark_failed_again(delivery(1), 5.0)
    assert (taken.is_blocked("a"), taken.is_blocked("b")) == (True, False)
    for number in (2, 3):
        taken.mark_not_run(delivery(number))
    done = taken.finish([delivery(number) for number in (1, 2, 3, 4)])
    assert done == [delivery(1), delivery(4)]  # a new message was sent for the first one
    assert not taken.is_blocked("a")
    again = next(iter(records))
    assert (again.attempt, again.due_at, again.arrival) == (1, 5.0, None)
    assert take(taken, 9.0) == []  # the new message of the first record has not arrived


def test_a_record_whose_dead_letter_blocks_its_key_is_not_due(records, taken):
    take(taken)
    record = taken.record_of(delivery(4))
    taken.mark_failed_again(delivery(4), math.inf)
    taken.finish([delivery(4)])
    assert (record.attempt, record.due_at) == (DEAD_LETTER_ATTEMPT, math.inf)


def later_message(records: WaitingRecords, attempt: int) -> Delivery:
    """Let another message of the fourth record arrive, which a consumer before has sent late."""
    arrived = delivery(9)
    message = WaitingRecord(
        "b", 4, "m4", attempt=attempt, due_at=7.0, queue="w2", arrival=Arrival(arrived, None, 0.0)
    )
    assert records.add_arrived(message) == []
    return arrived


def test_a_message_of_a_record_that_a_handler_has_is_acknowledged_after_the_result(records, taken):
    take(taken)
    arrived = later_message(records, 1)
    assert taken.finish([delivery(4)]) == [arrived, delivery(4)]
    assert "b" not in {each.key for each in records}


def test_a_message_of_a_record_that_fails_in_its_handler_is_its_next_attempt(records, taken):
    take(taken)
    arrived = later_message(records, 1)
    taken.mark_failed_again(delivery(4), 5.0)
    assert taken.finish([delivery(4)]) == [delivery(4)]
    own = Arrival(delivery(10), None, 0.0)
    message = WaitingRecord("b", 4, "m4", attempt=1, due_at=5.0, queue="w2", arrival=own)
    assert records.add_arrived(message) == [own]  # it is the second message of this attempt
    assert take(taken, 8.0) == [arrived.tag]


@pytest.mark.parametrize(("attempt", "due_at"), [(0, 5.0), (1, math.inf)])
def test_a_message_that_the_next_one_replaces_is_acknowledged(records, taken, attempt, due_at):
    take(taken)
    arrived = later_message(records, attempt)
    taken.mark_failed_again(delivery(4), due_at)
    assert taken.finish([delivery(4)]) == [arrived, delivery(4)]
    assert take(taken, 8.0) == []  # its new message has not arrived, or its dead letter blocks it


def test_a_message_of_a_record_that_was_put_back_is_acknowledged_with_it(records, taken):
    take(taken)
    arrived = later_message(records, 1)
    taken.put_back([delivery(4)])
    assert take(taken) == [4]
    assert taken.finish([delivery(4)]) == [arrived, delivery(4)]


def test_a_record_that_was_put_back_is_taken_again(taken):
    take(taken)
    taken.put_back([delivery(4)])
    assert take(taken) == [4]


def test_a_waiting_queue_that_is_closed_takes_its_decisions_along(records, taken):
    take(taken)
    taken.mark_failed_again(delivery(1), 5.0)
    taken.mark_not_run(delivery(2))
    taken.forget_queue("w1")
    assert not taken.is_blocked("a")
    assert taken.finish([delivery(number) for number in (1, 2, 3, 4)]) == [delivery(4)]


def test_a_lost_connection_takes_all_along(taken):
    take(taken)
    taken.mark_failed_again(delivery(1), 5.0)
    taken.forget()
    assert not taken.is_blocked("a")
    assert taken.finish([delivery(1)]) == []
