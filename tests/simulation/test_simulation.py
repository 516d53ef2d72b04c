"""The short form of `make simulate`, and that what it should find it finds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from feedbus.dispatch.running_calls import RunningCalls
from feedbus.errors import BrokerOutage
from feedbus.runner import CrashGuard
from feedbus.runner.run_state import Run
from tests.simulation.clock import SimulatedClock
from tests.simulation.consumers import keep_content
from tests.simulation.faults import Faults
from tests.simulation.ignored_warnings import OF_KILLED_PROCESSES
from tests.simulation.reached import PATHS, noted_holds
from tests.simulation.replacing import replaced
from tests.simulation.runs import QUIET_SECONDS, finishes, simulate
from tests.simulation.scenario import THEMES, Choices, Scenario
from tests.simulation.scheduler import SECONDS, Scheduler

SEEDS = range(1, 6)
MOST = 40
MOST_TO_REACH = 200

pytestmark = OF_KILLED_PROCESSES


def test_some_seeds_find_nothing():
    outcomes = [simulate(seed) for seed in SEEDS]
    assert {outcome.seed: outcome.faults for outcome in outcomes if outcome.faults} == {}
    assert sum(outcome.events for outcome in outcomes) > 500 * len(SEEDS)


def test_a_seed_gives_the_same_trace_twice_also_where_sets_have_another_order():
    def trace(order: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation"],
            env={**os.environ, "SEED": "2", "FAULT": "", "PYTHONHASHSEED": order},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    first = trace("1")
    assert first == trace("2")
    assert "effect a1 of shard" in first


# The scenarios that can take each of the rare paths.
REACHING: dict[str, Callable[[Scenario], bool]] = {
    "overtook": lambda scenario: scenario.kind == "stream" and scenario.ordered,
    "paused": lambda scenario: scenario.kind == "stream" and scenario.ordered,
    "limited": lambda scenario: (
        len(scenario.shards) > 1
        and scenario.ordered
        and not scenario.block_on_dead
        and scenario.waiting_limit == 1
    ),
    "held": lambda scenario: len(scenario.shards) > 1 and scenario.growth == 1,
    "together": lambda scenario: scenario.concurrency > 1,
}


def test_seeds_reach_the_rare_paths():
    assert {path for path, *_ in PATHS} | {"together"} == REACHING.keys()
    reached = Counter[str]()
    for seed in range(1, MOST_TO_REACH):
        scenario = Scenario.of(Scheduler(seed))
        missing = [path for path in REACHING if not reached[path]]
        if any(REACHING[path](scenario) for path in missing):
            reached.update(simulate(seed).reached)
    assert REACHING.keys() <= (+reached).keys()


def test_seeds_have_several_hosts_processes_schedules_and_async_handlers():
    scenarios = [Scenario.of(Scheduler(seed)) for seed in range(1, MOST_TO_REACH)]
    assert {1, 2, 3} == {scenario.hosts for scenario in scenarios}
    assert {0, 1, 2} == {scenario.schedulers for scenario in scenarios}
    assert any(scenario.asynchronous and scenario.concurrency > 1 for scenario in scenarios)
    assert {True, False} == {scenario.single_active for scenario in scenarios}
    assert {1, 2} == {scenario.processes for scenario in scenarios}
    assert {scenario.kind for scenario in scenarios if not scenario.full} - {
        scenario.kind for scenario in scenarios if scenario.full
    } == {"stream"}
    assert any(scenario.delivery_limit == 1 and scenario.faults for scenario in scenarios)


def test_a_dead_letter_without_a_crash_is_a_fault():
    def always(_self: Any, _message_id: str, _limit: int) -> str:
        return "no reason"

    scenarios = ((each, Scenario.of(Scheduler(each))) for each in range(1, MOST))
    seed = next(each for each, one in scenarios if one.batch and not one.ordered)
    with replaced(CrashGuard, "reason_to_give_up", always):
        faults = simulate(seed).faults
    assert any("became a dead letter: no reason" in fault for fault in faults)


def test_a_theme_determines_only_choices_that_exist(monkeypatch: pytest.MonkeyPatch):
    names = {"most_shards"}
    pick, has = Choices.pick, Choices.has

    def noted_pick(self: Choices, name: str, *options: Any) -> Any:
        names.add(name)
        return pick(self, name, *options)

    def noted_has(self: Choices, name: str, share: float) -> bool:
        names.add(name)
        return has(self, name, share)

    monkeypatch.setattr(Choices, "pick", noted_pick)
    monkeypatch.setattr(Choices, "has", noted_has)
    for seed in range(1, MOST):
        Scenario.of(Scheduler(seed))
    assert {name for theme in THEMES for name in theme} <= names


def test_a_process_that_stood_still_waits_on_for_what_it_has_waited_for():
    scheduler = Scheduler(1)
    free, went_on = list[bool](), list[int]()

    def run() -> None:
        scheduler.wait("waits for the end of a transaction", ready=lambda: bool(free))
        went_on.append(scheduler.now)

    process = scheduler.start("publisher", run)
    system: Any = SimpleNamespace(
        scheduler=scheduler,
        scenario=SimpleNamespace(faults=1, stored=False),
        blame=lambda _: None,
    )
    scheduler.run(lambda: process.until is None, most_seconds=1, most_steps=10)
    Faults(system)._pause()
    scheduler.run(lambda: scheduler.now > 100 * SECONDS, most_seconds=200, most_steps=10)
    assert not went_on
    free.append(True)
    scheduler.run(lambda: process.dead, most_seconds=1, most_steps=10)
    assert went_on


def test_a_consumer_has_nothing_in_its_handlers_during_an_outage_when_they_have_ended():
    system: Any = SimpleNamespace(process=lambda: None, holding=set(), calls=Counter())
    found: list[bool] = []

    def hold(_run: Run, _error: Exception, update: Callable[[], None]) -> None:
        update()
        found.append(None in system.holding)

    def do_nothing(*_arguments: object) -> None:
        pass

    self: Any = None
    with (
        replaced(Run, "hold", hold),
        replaced(RunningCalls, "start", do_nothing),
        replaced(RunningCalls, "_report", do_nothing),
        noted_holds(system),
    ):
        Run.hold(self, BrokerOutage())
        RunningCalls.start(self, [self])
        Run.hold(self, BrokerOutage())
        RunningCalls._report(self, self)
        Run.hold(self, BrokerOutage())
    assert found == [True, False, True]
    assert not system.holding


@pytest.mark.parametrize(("records", "finished"), [(3, True), (2, False)])
def test_a_system_has_time_for_its_work_as_long_as_it_goes_on(records: int, finished: bool):
    scheduler = Scheduler(1)
    done: list[int] = []

    def run() -> None:
        for number in range(records):
            SimulatedClock(scheduler).sleep(QUIET_SECONDS * 0.8)
            done.append(number)

    scheduler.start("consumer", run)
    system: Any = SimpleNamespace(
        scheduler=scheduler, handled=lambda: len(done), finished=lambda: len(done) == 3
    )
    assert finishes(system) is finished


def test_a_killed_process_no_longer_changes_its_crash_guard_file(tmp_path: Path):
    path = tmp_path / "run" / "work.0.handler"
    with CrashGuard(path) as crash_guard:
        crash_guard.set_messages(["a"], 60.0)
        with crash_guard.nested():
            crash_guard.set_messages(["a", "b"], 60.0)
            keep_content(path)
    with CrashGuard(path) as crash_guard:
        assert crash_guard.is_suspected("b")
        assert not crash_guard.reason_to_give_up("a", 1)


def test_seeds_leave_no_file_open():
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    simulate(1)
    before = open_files()
    for seed in (2, 3):
        simulate(seed)
    assert open_files() <= before
