"""The short form of `make simulate`, and that what it should find it finds."""

from __future__ import annotations

import gc
import inspect
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import pytest
from amqp import Message
from amqp.exceptions import RecoverableConnectionError

from feedbus import broker
from feedbus.broker.publisher import publish_all
from feedbus.broker_names import lock_queue
from feedbus.dispatch.running_calls import RunningCalls
from feedbus.dispatch.wake_up_socket import Waker
from feedbus.errors import BrokerOutage
from feedbus.runner import CrashGuard
from feedbus.runner.buffer import Buffer
from feedbus.runner.run_state import Run
from feedbus.transports import memory
from feedbus.wire import Outgoing
from tests.simulation.adversary import Adversary, name_of_moment
from tests.simulation.broker import SimulatedBroker
from tests.simulation.channel import LATE_ACKNOWLEDGEMENTS
from tests.simulation.clock import SimulatedClock
from tests.simulation.consumers import keep_content
from tests.simulation.faults import Faults
from tests.simulation.landmarks import ALL, Landmark
from tests.simulation.network import Network
from tests.simulation.planted import FAULTS, planted
from tests.simulation.planted.change import edited
from tests.simulation.reached import PATHS, noted_holds
from tests.simulation.replacing import replaced
from tests.simulation.runs import QUIET_SECONDS, finishes, simulate
from tests.simulation.scenario import BROKER, THEMES, Choices, Scenario, topology_of
from tests.simulation.scheduler import SECONDS, Scheduler
from tests.simulation.strikes import Strikes

SEEDS = range(1, 6)
MOST = 40
MOST_TO_REACH = 200
CONFIRM_SECONDS = 10.0
MOST_POLLS = 10_000  # of a publisher, where one without pauses has 50,000

# Python finds the sockets and the coroutines of a killed process unused.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


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


@pytest.mark.parametrize("name", ["an_early_acknowledgement", "an_outage_taken_for_success"])
def test_a_planted_fault_is_found(name: str):
    assert name in FAULTS
    with planted(name):
        assert any(simulate(seed).faults for seed in range(1, MOST))


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


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_takes_the_arguments_of_what_it_replaces(name: str):
    for owner, attribute, value in FAULTS[name]():
        original = owner.__dict__[attribute]
        if not isinstance(original, FunctionType):
            assert not isinstance(value, FunctionType)
            continue
        parameters = inspect.signature(original).parameters.values()
        own = inspect.signature(value).parameters.values()
        for one, other in zip(parameters, own, strict=False):
            ignored = other.name.startswith("_")
            if not ignored and other.kind is other.POSITIONAL_OR_KEYWORD:
                assert other.name == one.name
        named = {one.name: None for one in parameters if one.kind is one.KEYWORD_ONLY}
        positional = [None for one in parameters if one.name not in named]
        inspect.signature(value).bind(*positional, **named)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_uses_only_attributes_that_its_class_has(name: str):
    for owner, _, value in FAULTS[name]():
        if not (isinstance(owner, type) and isinstance(value, FunctionType)):
            continue
        classes = [each for each in owner.__mro__ if each.__module__.startswith("feedbus")]
        source = "".join(map(inspect.getsource, classes))
        for attribute in re.findall(r"\bself\.(\w+)", inspect.getsource(value)):
            is_set = re.search(rf"\bself\.{attribute}\b|^    {attribute}:", source, re.MULTILINE)
            assert hasattr(owner, attribute) or is_set, attribute


@pytest.mark.parametrize("landmark", ALL, ids=lambda landmark: landmark.name)
def test_a_landmark_is_a_function_of_its_owner(landmark: Landmark):
    assert isinstance(landmark.owner.__dict__[landmark.name], FunctionType)


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


def test_the_adversary_meets_moments_that_have_names_of_feedbus(monkeypatch: pytest.MonkeyPatch):
    met = Counter[str]()

    def noted_meet(_self: Adversary) -> None:
        met[name_of_moment()] += 1

    monkeypatch.setattr(Adversary, "meet", noted_meet)
    seeds = (seed for seed in range(1, MOST) if has_adversary(seed))
    simulate(next(seeds))
    assert any("Publisher" in name for name in met)
    assert any("settle_up_to" in name for name in met)
    assert len(met) > 20


def has_adversary(seed: int) -> bool:
    scheduler = Scheduler(seed)
    system: Any = SimpleNamespace(scheduler=scheduler, scenario=Scenario.of(scheduler))
    return Adversary(system).exists


def test_a_connection_is_cut_between_messages_that_are_sent_together():
    assert {count_before_a_cut(seed) for seed in range(20)} == {0, 1, 2, 3}


def count_before_a_cut(seed: int) -> int:
    """Return how many of four messages arrive before the cut."""
    scheduler = Scheduler(seed)
    topology = topology_of(Scenario.of(scheduler), 1, Path("/nowhere"))
    simulated = SimulatedBroker(BROKER, Network(scheduler), None)
    messages = [
        Outgoing("", "q", b"1", "text/plain", str(number), content_encoding=None, stamp=None)
        for number in range(4)
    ]
    failures: list[Exception] = []

    def run() -> None:
        with broker.connect(topology) as connection:
            raw: Any = connection.connection
            raw.channel().queue_declare("q")
            raw.sending.is_cut = True
            try:
                publish_all(raw, messages)
            except RecoverableConnectionError as error:
                failures.append(error)

    memory.create(simulated)
    try:
        process = scheduler.start("publisher", run)
        scheduler.run(lambda: process.dead, most_seconds=60, most_steps=1_000)
        ((_, _, ready, _, _),) = simulated.survey().queues
    finally:
        memory.remove(BROKER)
    assert len(failures) == 1
    return int(ready)


def test_the_deliveries_of_a_slow_queue_stay_on_their_way_and_those_of_another_arrive():
    scheduler = Scheduler(1)
    topology = topology_of(Scenario.of(scheduler), 1, Path("/nowhere"))
    network = Network(scheduler)
    arrived: dict[str, float] = {}

    def run() -> None:
        with broker.connect(topology) as connection:
            raw: Any = connection.connection
            channel = raw.channel()
            for queue in ("slow", "other"):
                channel.queue_declare(queue)
                channel.basic_publish(Message("1"), routing_key=queue)
                channel.basic_consume(
                    queue,
                    no_ack=True,
                    callback=lambda _, name=queue: arrived.setdefault(name, scheduler.now),
                )
            network.slow_queues["slow"] = 10 * SECONDS
            while len(arrived) < 2:
                raw.drain_events(timeout=60)

    memory.create(SimulatedBroker(BROKER, network, None))
    try:
        process = scheduler.start("consumer", run)
        scheduler.run(lambda: process.dead, most_seconds=60, most_steps=1_000)
    finally:
        memory.remove(BROKER)
    assert arrived["other"] < 10 * SECONDS <= arrived["slow"] < 11 * SECONDS


def test_a_process_stands_still_until_another_one_deletes_a_queue_of_a_ring():
    scheduler = Scheduler(1)
    topology = topology_of(Scenario.of(scheduler), 1, Path("/nowhere"))
    network = Network(scheduler)
    system: Any = SimpleNamespace(
        scheduler=scheduler,
        network=network,
        process=lambda: scheduler.current,
        blame=lambda _: None,
    )
    went_on: list[int] = []

    def wait() -> None:
        Strikes(system, random.Random(1)).await_deletion()
        went_on.append(scheduler.now)

    def delete() -> None:
        with broker.connect(topology) as connection:
            channel: Any = connection.channel()
            for queue in (lock_queue(topology.name), "simulated.shard_0.bed36fe0"):
                scheduler.wait("pauses", until=scheduler.now + 2 * SECONDS)
                channel.queue_declare(queue)
                channel.queue_delete(queue)

    memory.create(SimulatedBroker(BROKER, network, None))
    try:
        waiting = scheduler.start("waiting", wait)
        scheduler.start("deleting", delete)
        scheduler.run(lambda: waiting.dead, most_seconds=60, most_steps=1_000)
    finally:
        memory.remove(BROKER)
    assert 4 * SECONDS < went_on[0] < 5 * SECONDS


def test_a_part_of_a_function_is_replaced_only_if_it_is_there():
    ((owner, name, value),) = edited(Buffer, "put_back", "lane.records += delivery.record_count")
    assert (owner, name) == (Buffer, "put_back")
    assert "record_count" not in inspect.getsource(value)
    with pytest.raises(AssertionError, match="has changed"):
        edited(Buffer, "put_back", "no such text")


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


def test_a_publisher_whose_connection_is_woken_waits_for_its_confirm_without_polling():
    class SlowNetwork(Network):
        def confirm_seconds(self) -> float:
            return CONFIRM_SECONDS

    scheduler = Scheduler(1)
    topology = topology_of(Scenario.of(scheduler), 1, Path("/nowhere"))
    waker = Waker()
    waker.wake()
    message = Outgoing("", "q", b"1", "text/plain", "", content_encoding=None, stamp=None)
    refusals: list[object] = []

    def run() -> None:
        with broker.connect(topology) as connection:
            raw: Any = connection.connection
            raw.channel().queue_declare("q")
            raw.wake_on(waker.fileno())
            refusals.append(publish_all(raw, [message]))

    memory.create(SimulatedBroker(BROKER, SlowNetwork(scheduler), None))
    try:
        process = scheduler.start("publisher", run)
        scheduler.run(lambda: process.dead, most_seconds=60, most_steps=100_000)
    finally:
        memory.remove(BROKER)
        waker.close()
    assert refusals == [[]]
    assert scheduler.steps < MOST_POLLS


@pytest.mark.parametrize("seed", range(4))  # it arrives before the wait, or in it
def test_a_refused_acknowledgement_ends_the_wait_of_its_connection(seed: int):
    class LateAcknowledgements(Network):
        def chance(self, share: float) -> bool:
            return share == LATE_ACKNOWLEDGEMENTS

    scheduler = Scheduler(seed)
    topology = topology_of(Scenario.of(scheduler), 1, Path("/nowhere"))
    ended: list[Exception] = []

    def run() -> None:
        with broker.connect(topology) as connection:
            raw: Any = connection.connection
            channel = raw.channel()
            channel.queue_declare("q")
            channel.basic_consume("q", callback=lambda _: None)
            channel.basic_ack(1)
            try:
                raw.drain_events(timeout=60)
            except RecoverableConnectionError as error:
                ended.append(error)

    memory.create(SimulatedBroker(BROKER, LateAcknowledgements(scheduler), None))
    try:
        process = scheduler.start("consumer", run)
        scheduler.run(lambda: process.dead, most_seconds=60, most_steps=1_000)
    finally:
        memory.remove(BROKER)
    assert len(ended) == 1


def test_a_killed_process_loses_the_connections_of_its_threads():
    scheduler = Scheduler(1)
    topology = topology_of(Scenario.of(scheduler), 1, Path("/nowhere"))
    simulated = SimulatedBroker(BROKER, Network(scheduler), None)
    taken: list[Any] = []

    def take() -> None:
        with broker.connect(topology) as connection:
            channel = connection.connection.channel()
            channel.queue_declare("q")
            channel.basic_publish(Message("1"), routing_key="q")
            taken.append(channel.basic_get("q"))
            simulated.clock.sleep(60)

    memory.create(simulated)
    try:
        threads = simulated.clock.threads
        process = scheduler.start("consumer", lambda: threads.start("thread", take).join())
        scheduler.run(lambda: bool(taken), most_seconds=60, most_steps=1_000)
        assert taken
        scheduler.kill(process)
        assert [(ready, unacked) for _, _, ready, unacked, _ in simulated.survey().queues] == [
            (1, 0)
        ]
    finally:
        memory.remove(BROKER)


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
