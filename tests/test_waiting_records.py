"""Records that wait for others of their keys: through failures, restarts and duplicates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedbus.dispatch.decoded_deliveries import DecodedDelivery
from feedbus.dispatch.failure_policy import Decision
from feedbus.dispatch.key_releases import KeyReleases
from feedbus.dispatch.order_decisions import OrderDecisions
from feedbus.dispatch.queue_order import Order
from feedbus.dispatch.records_at_start import RecordsAtStart
from feedbus.dispatch.waiting_deliveries import WaitingDeliveries
from feedbus.dispatch.waiting_record import DEAD_LETTER_ATTEMPT, Arrival, WaitingRecord
from feedbus.dispatch.waiting_records import WaitingRecords
from feedbus.records.ids import Ids
from feedbus.records.packs import Pack
from feedbus.wire import Delivery
from feedbus.wire.constants import RELEASE

DELAY = 3.0


@dataclass(frozen=True)
class Message:
    """A message of a waiting queue."""

    key: str
    place: int
    message_id: str
    attempt: int
    due_at: float


@dataclass
class Broker:
    """A queue of (id, key), its waiting queue, and the unacknowledged deliveries."""

    main: list[tuple[str, str]]
    waiting: list[Message] = field(default_factory=list)
    unacked: list[tuple[str, str]] = field(default_factory=list)
    returned: set[str] = field(default_factory=set)
    delivered: list[Message] = field(default_factory=list)

    def restart(self) -> None:
        """Return the unacknowledged deliveries of the consumer."""
        self.returned |= {name for name, _ in self.unacked}
        self.main[:0], self.unacked = self.unacked, []
        self.waiting[:0], self.delivered = self.delivered, []


@dataclass
class Consumer:
    """The steps of a consumer; it can be killed between any two of them."""

    broker: Broker
    failures: dict[str, int]
    effects: list[str]
    now: float = 0.0
    records: WaitingRecords = field(default_factory=WaitingRecords)
    records_at_start: RecordsAtStart = field(default_factory=RecordsAtStart)

    def begin(self) -> None:
        self.deliver()
        self.records_at_start.add(self.records)

    def deliver(self) -> None:
        """Receive the deliveries of the waiting queue."""
        while self.broker.waiting:
            came = self.broker.waiting.pop(0)
            self.broker.delivered.append(came)
            found = (came.key, came.place, came.message_id, True, came.attempt, came.due_at, "")
            for old in self.records.add_arrived(WaitingRecord(*found, came)):
                self.broker.delivered.remove(old)

    def fails(self, name: str) -> bool:
        self.failures[name] -= 1
        return self.failures[name] >= 0

    def handle(self) -> Iterator[None]:
        """Handle the next record of the queue."""
        name, key = record = self.broker.main.pop(0)
        self.broker.unacked.append(record)
        repeated = name in self.broker.returned and self.records_at_start.contain(0, name)
        blocked = self.records.blocks(key, 0)
        if not repeated and (blocked or self.fails(name)):
            due_at = 0.0 if blocked else self.now + DELAY
            place = self.records.positions.next(0)
            message = Message(key, place, name, int(not blocked), due_at)
            self.records.add(WaitingRecord(key, place, name, True, message.attempt, due_at))
            yield
            self.broker.waiting.append(message)
        elif not repeated:
            self.effects.append(name)
        yield
        self.broker.unacked.remove(record)

    def work_off(self, most: int) -> Iterator[None]:
        """Handle the waiting records that are due."""
        stopped: set[str] = set()
        for record in self.records.take(self.now, most):
            message = record.arrival
            assert message is not None
            if record.key in stopped:
                self.records.put_back(record)
                continue
            yield
            if self.fails(record.message_id):
                stopped.add(record.key)
                again = replace(message, attempt=message.attempt + 1, due_at=self.now + DELAY)
                self.broker.waiting.append(again)
                yield
                self.records.mark_failed_again(record, again.due_at)
            else:
                self.effects.append(record.message_id)
                yield
                assert self.records.remove_handled(record) == []
            self.broker.delivered.remove(message)


KEYS = st.lists(st.sampled_from("abc"), min_size=1, max_size=12)
FAILURES = st.lists(st.integers(0, 3), min_size=12, max_size=12)
STEPS = st.lists(
    st.tuples(st.sampled_from(["handle", "work off", "deliver", "pass"]), st.integers(0, 9)),
    max_size=60,
)


@dataclass
class Run:
    """A broker and the consumer that runs now."""

    broker: Broker
    consumer: Consumer

    def work(self, step: str, most: int) -> None:
        """Carry out a step; the consumer may be killed within it."""
        consumer = self.consumer
        if step == "deliver":
            consumer.deliver()
        elif step == "pass":
            consumer.now += 1.0
        elif step == "work off" or self.broker.main:
            begun = consumer.handle() if step == "handle" else consumer.work_off(most)
            if any(number == most for number, _ in enumerate(begun)):
                self.broker.restart()
                failures, effects = consumer.failures, consumer.effects
                self.consumer = Consumer(self.broker, failures, effects, consumer.now)
                self.consumer.begin()

    def finish(self) -> None:
        """Work without crashes until no record is left."""
        for _ in range(1000):
            if not (self.broker.main or self.broker.waiting or self.broker.delivered):
                break
            for step in ("deliver", "work off", "handle", "pass"):
                self.work(step, 100)


@given(KEYS, FAILURES, STEPS)
def test_each_key_takes_effect_in_order_whatever_fails_and_whoever_is_killed(keys, times, steps):
    names = [f"{number:02}" for number in range(len(keys))]
    key_of = dict(zip(names, keys, strict=True))
    broker, effects = Broker(list(key_of.items())), []
    failures = defaultdict(int, zip(names, times, strict=False))
    run = Run(broker, Consumer(broker, failures, effects))
    run.consumer.begin()
    for step, most in steps:
        run.work(step, most)
    run.finish()
    left = run.consumer.records
    assert (len(left), left.next_due_at(), broker.unacked) == (0, math.inf, [])
    first = list(dict.fromkeys(effects))
    assert sorted(first) == names
    for key in "abc":
        own = [name for name in first if key_of[name] == key]
        assert own == sorted(own)


def records(*keys: str) -> WaitingRecords:
    found: WaitingRecords = WaitingRecords()
    for number, key in enumerate(keys):
        place = found.positions.next(0)
        found.add_arrived(WaitingRecord(key, place, f"m{number}", arrival=f"d{number}"))
    return found


def test_a_key_waits_for_its_first_record_and_others_do_not():
    waiting = records("a", "b", "a", "b")
    (first, *_) = [each for each in waiting if each.key == "a"]
    waiting.mark_failed_again(first, due_at=10.0)
    assert [each.message_id for each in waiting.take(5.0, 10)] == ["m1", "m3"]
    assert waiting.next_due_at() == math.inf  # its message is being sent
    again = WaitingRecord("a", first.position, "m0", attempt=1, due_at=10.0, arrival="again")
    assert waiting.add_arrived(again) == []
    assert (waiting.next_due_at(), waiting.take(9.0, 10)) == (10.0, [])
    assert [each.message_id for each in waiting.take(10.0, 10)] == ["m0", "m2"]


def test_of_two_messages_of_one_record_the_one_with_the_later_attempt_counts():
    waiting = records("a")
    later = WaitingRecord("a", 1, "m0", attempt=1, due_at=7.0, arrival="later")
    assert waiting.add_arrived(later) == ["d0"]
    earlier = WaitingRecord("a", 1, "m0", arrival="late")
    assert waiting.add_arrived(earlier) == ["late"]
    assert (len(waiting), waiting.next_due_at()) == (1, 7.0)


def test_what_is_to_be_handled_alone_is_taken_alone():
    waiting = records("a", "a", "b", "a")
    taken = waiting.take(0.0, 10, lambda name: name == "m1")
    assert [each.message_id for each in taken] == ["m0", "m2"]
    for each in taken:
        waiting.remove_handled(each)
    assert [each.message_id for each in waiting.take(0.0, 10, lambda name: name == "m1")] == ["m1"]


@pytest.mark.parametrize("identified", [True, False])
def test_only_what_its_publisher_gave_an_id_is_known_as_a_repetition(identified):
    waiting: WaitingRecords = WaitingRecords()
    waiting.add_arrived(WaitingRecord("a", 1, "m", identified, arrival="d"))
    at_start = RecordsAtStart()
    at_start.add(waiting)
    assert at_start.contain(0, "m") is identified


def test_a_record_of_an_older_queue_is_no_repetition_of_a_later_message_with_its_id():
    order, nothing = Order(by_routing_key=True, field=""), cast("Any", None)
    waiting = WaitingDeliveries(order, nothing)
    decisions = OrderDecisions(order, nothing, waiting, block_on_dead=False)
    for message_id in ("later", "m"):
        place, came = waiting.records.positions.next(1), cast("Any", "d")
        waiting.records.add_arrived(WaitingRecord("a", place, message_id, arrival=came))
    waiting.mark_complete("tag")

    def decision(generation_number: int) -> object:
        waiting.add_subscription("queue", "waiting", generation_number)
        delivery = Delivery(1, b"", "", "m", "", "a", {}, redelivered=True, consumer_tag="queue")
        pack = Pack(Ids("m", None), ["a"], {}, {})
        return decisions.decide_before_call(DecodedDelivery(nothing, delivery, pack), 0)

    assert decision(0) is None
    assert decision(1) == Decision("wait", None)


def test_a_record_behind_an_old_queue_runs_after_the_queue_was_deleted():
    waiting: WaitingRecords = WaitingRecords()
    for number, awaited in enumerate([{"q"}, {"q", "r"}, set()]):
        record = WaitingRecord("abc"[number], waiting.positions.next(1), f"m{number}", arrival="d")
        record.awaited_queues = frozenset(awaited)
        waiting.add_arrived(record)
    assert (waiting.awaited_queues.record_count, set(waiting.awaited_queues.queues)) == (
        2,
        {"q", "r"},
    )
    assert [each.message_id for each in waiting.take(0.0, 10)] == ["m2"]
    waiting.forget_deleted_queues(["q"])
    assert (waiting.awaited_queues.record_count, set(waiting.awaited_queues.queues)) == (1, {"r"})
    assert [each.message_id for each in waiting.take(0.0, 10)] == ["m0"]
    waiting.forget_deleted_queues(["q", "r"])
    assert waiting.awaited_queues.record_count == 0
    assert [each.message_id for each in waiting.take(0.0, 10)] == ["m1"]


def test_records_of_an_older_generation_come_first_and_are_not_blocked_by_newer_ones():
    waiting: WaitingRecords = WaitingRecords()
    newer = WaitingRecord("a", waiting.positions.next(2), "new", arrival="n")
    waiting.add_arrived(newer)
    assert [waiting.blocks("a", turn) for turn in (1, 2, 3)] == [False, True, True]
    older = WaitingRecord("a", waiting.positions.next(1), "old", arrival="o")
    waiting.add_arrived(older)
    assert waiting.blocks("a", 1)
    assert [each.message_id for each in waiting.take(0.0, 10)] == ["old", "new"]


def in_queues(*queues: tuple[str, int], key: str = "a", place: int = 1) -> list[Any]:
    """Return one record as messages of queues, each with the turn of its generation."""
    return [
        WaitingRecord(key, place, f"m{place}", queue=queue, generation_number=turn, arrival=queue)
        for queue, turn in queues
    ]


@pytest.mark.parametrize("newest_first", [True, False])
def test_the_copy_of_a_record_in_a_newer_queue_is_acknowledged_with_it(newest_first):
    waiting: WaitingRecords = WaitingRecords()
    messages = in_queues(("old", 1), ("newer", 2), ("newest", 3))
    messages[1].awaited_queues, messages[2].awaited_queues = frozenset({"q"}), frozenset({"q", "r"})
    for each in messages[::-1] if newest_first else messages:
        assert waiting.add_arrived(each) == []
    assert (
        len(waiting),
        waiting.awaited_queues.record_count,
        list(waiting.awaited_queues.queues),
    ) == (1, 0, [])
    assert waiting.records_in("newer") == messages[1:2]
    assert waiting.add_arrived(in_queues(("newer", 2))[0]) == ["newer"]  # delivered twice
    (taken,) = waiting.take(0.0, 10)
    assert taken is messages[0]
    assert waiting.remove_handled(taken) == ["newer", "newest"]
    assert len(waiting) == 0


def test_a_copy_takes_the_position_of_a_record_that_has_left_its_queue():
    waiting: WaitingRecords = WaitingRecords()
    first = in_queues(("old", 1), ("newer", 2))
    first[1].awaited_queues = frozenset({"q"})
    (second,) = in_queues(("newer", 2), place=2)
    for each in (second, *reversed(first)):
        waiting.add_arrived(each)
    waiting.remove(first[0])
    assert [*waiting] == [first[1], second]
    assert waiting.take(0.0, 10) == []
    assert (waiting.awaited_queues.record_count, list(waiting.awaited_queues.queues)) == (1, ["q"])
    waiting.forget_deleted_queues(["q"])
    assert waiting.take(0.0, 10) == [first[1], second]


def test_a_request_releases_only_the_keys_whose_messages_are_in_its_queue():
    waiting: WaitingRecords = WaitingRecords()
    releases = KeyReleases(waiting)

    def delivery(released: str = "") -> Delivery:
        headers = {RELEASE: released}
        return Delivery(1, b"", "", "m", "", "a", headers, redelivered=False, consumer_tag="queue")

    messages = in_queues(("old", 1), ("newer", 2))
    in_old, in_newer = delivery(), delivery()
    for each, arrived in zip(messages, (in_old, in_newer), strict=True):
        each.attempt, each.arrival = DEAD_LETTER_ATTEMPT, Arrival(arrived, None, 0.0)
        waiting.add_arrived(each)
    assert releases.release(delivery("m1"), "newer") == [in_newer]
    assert [*waiting] == [messages[0]]
    assert releases.release(delivery(), "newer") == []
    assert releases.release(delivery(), "old") == [in_old]
    assert len(waiting) == 0


def test_a_copy_leaves_its_queue_and_the_record_still_waits():
    waiting: WaitingRecords = WaitingRecords()
    messages = in_queues(("old", 1), ("newer", 2), ("newest", 3))
    for each in messages:
        waiting.add_arrived(each)
    waiting.forget_queue("newer")
    assert [*waiting] == messages[:1]
    (taken,) = waiting.take(0.0, 10)
    assert waiting.remove_handled(taken) == ["newest"]
