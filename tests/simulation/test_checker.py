"""What the checker of the simulation does not expect, because feedbus does not state it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from tests.simulation.checker import (
    latest_overtakers,
    passed_locked,
    past_limit,
    schedule_errors,
    unordered,
)
from tests.simulation.clock import START
from tests.simulation.history import History, Record, disordered
from tests.simulation.network import Answer
from tests.simulation.scenario import TICK_SECONDS, Scenario, payload
from tests.simulation.scheduler import SECONDS, Scheduler
from tests.simulation.system import System

FIRST, SECOND = Record("a", 1), Record("a", 2)
MOMENT = (START // SECONDS // TICK_SECONDS + 1) * TICK_SECONDS  # of the schedule
JSON = "application/json"


def system(history: History, kept: list[tuple[str, str, bytes]], **options: Any) -> Any:
    """Return a system whose scenario has some options."""
    seeds = (Scenario.of(Scheduler(seed)) for seed in range(1, 1_000))
    scenario = next(
        each
        for each in seeds
        if (each.kind, each.concurrency, each.full) == ("once", 1, False)
        and all(getattr(each, name) == value for name, value in options.items())
    )
    network = SimpleNamespace(kept=kept)
    return SimpleNamespace(scenario=scenario, history=history, network=network)


def test_a_requeued_pack_has_no_order_because_it_blocks_no_key():
    history = History()
    history.unblocked["work"].add(FIRST)
    history.failed["work"].add(SECOND)
    found = unordered(system(history, [], ordered=True, queues=("work", "shard"), fan=2))
    assert found == {"work": {FIRST}, "shard": {Record("a", 2), Record("a", 3)}}


def test_a_record_that_the_broker_keeps_for_a_killed_process_has_no_order():
    body = json.dumps(payload(FIRST)).encode()
    kept = [("simulated.work", JSON, body), ("simulated.shard_0", JSON, b"")]
    chosen = {"queues": ("work", "shard"), "fan": 1}
    found = unordered(system(History(), kept, ordered=False, single_active=False, **chosen))
    assert found == {"work": {FIRST}, "shard": {FIRST}}
    nothing = {"work": set[Record](), "shard": set[Record]()}
    for options in ({"ordered": False, "single_active": True}, {"ordered": True}):
        assert unordered(system(History(), kept, **options, **chosen)) == nothing


def test_moments_before_the_start_of_a_schedule_are_not_due():
    def found(began_after: int | None) -> list[str]:
        history = History(began_after=began_after)
        run = system(history, [], faults=0, schedulers=1)
        run.ticks = list
        run.clock = SimpleNamespace(wall_nanoseconds=lambda: (MOMENT + 2 * TICK_SECONDS) * SECONDS)
        return schedule_errors(run)

    assert found(None) == [f"ticks: {MOMENT} was not fired"]
    assert found(MOMENT - 1) == [f"ticks: {MOMENT} was not fired"]
    assert found(MOMENT) == []


def test_a_moment_is_missed_only_if_the_lock_is_held_until_the_next_moment():
    begin = MOMENT * SECONDS - START

    def missed(*held: tuple[int, int]) -> bool:
        history = History()
        for one in held:
            history.note_lock(*one)
        return passed_locked(system(history, []), MOMENT)

    assert missed((begin, begin + TICK_SECONDS * SECONDS))
    assert missed((0, begin + 2 * SECONDS), (begin + 2 * SECONDS, begin + 9 * SECONDS))
    assert not missed((0, begin + 2 * SECONDS))
    assert not missed((0, begin + 1 * SECONDS), (begin + 2 * SECONDS, begin + 9 * SECONDS))
    assert not missed((begin + SECONDS, begin + 9 * SECONDS))


def test_two_records_of_a_queue_with_one_message_id_are_a_fault():
    history = History()
    for queue, message_id, record in (
        ("shard", "1", FIRST),
        ("shard", "1", FIRST),
        ("work", "1", SECOND),
        ("shard", "2", SECOND),
    ):
        history.note_id(queue, message_id, record)
    assert history.shared_ids == []
    history.note_id("shard", "2", FIRST)
    assert history.shared_ids == ["shard: a2 and a1 have the id 2"]


def test_a_row_that_its_process_knows_as_confirmed_is_not_published_again():
    history, process, other = History(), object(), object()
    history.note_published_row(process, 1)
    history.confirmed_rows.add((process, 1))
    for publisher, row in ((process, 2), (other, 1)):
        history.note_published_row(publisher, row)
    assert history.republished == []
    history.note_published_row(process, 1)
    assert history.republished == ["outbox: the confirmed row 1 was published again"]


def test_a_refused_record_is_overtaken_only_by_records_that_were_sent_with_it():
    def answer(record: Record, *, is_accepted: bool | None) -> Answer:
        properties = {"content_type": JSON}
        message = SimpleNamespace(body=json.dumps(payload(record)), properties=properties)
        return Answer(message, is_accepted=is_accepted)

    third, other = Record("a", 3), Record("b", 9)
    sending = [
        answer(FIRST, is_accepted=False),
        answer(SECOND, is_accepted=None),
        answer(third, is_accepted=False),
        answer(other, is_accepted=True),
    ]
    run = SimpleNamespace(
        scenario=SimpleNamespace(full=True), network=SimpleNamespace(divided_sendings=[sending])
    )
    overtakers = latest_overtakers(run)  # type: ignore[arg-type]
    assert overtakers == {FIRST: SECOND.n, SECOND: 0, third: 0}
    assert disordered("shard", [SECOND, FIRST, third], overtakers=overtakers) == []
    faults = disordered("shard", [SECOND, third, FIRST], overtakers=overtakers)
    assert faults == ["shard: a1 came after a3"]


def test_more_waiting_records_than_the_limit_and_the_received_messages_are_a_fault():
    def found(most_waiting: int, *shards: int, block_on_dead: bool = False) -> list[str]:
        scenario = SimpleNamespace(
            kind="ring", shards=shards, prefetch=3, concurrency=1, batch=False, pack=0
        )
        scenario.waiting_limit, scenario.block_on_dead = 3, block_on_dead
        history = History(most_waiting=most_waiting)
        history.rejected["shard", FIRST] += 1
        run: Any = SimpleNamespace(scenario=scenario, history=history)
        return past_limit(run)

    assert found(5, 2) == []
    assert found(6, 2) == ["6 records waited, and waiting_limit is 3"]
    assert found(6, 1, 2) == []
    assert found(6, 2, block_on_dead=True) == []  # a requeued dead letter waits
    assert len(found(7, 2, block_on_dead=True)) == 1


def test_a_message_that_has_ended_too_many_processes_is_not_handled_again():
    history, scheduler = History(), Scheduler(1)
    run = system(history, [], delivery_limit=2)
    process = scheduler.start("work", lambda: None)
    guard = SimpleNamespace(_in_handler=("m-1",))
    run.guards, run.process = {process: ("work", guard)}, lambda: process
    for faults in ([], [], ["work: m-1 is handled after 2 crashes"]):
        System.check_crashes(run)
        assert history.kept == faults
        System.note_crash(run, process)
