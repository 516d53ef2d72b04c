"""The run of one seed, from the choice of its scenario to the check."""

from __future__ import annotations

import gc
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from types import SimpleNamespace

from feedbus.generations.topology_setup import set_up
from feedbus.runner.resident_memory import ResidentMemory
from feedbus.transports import memory
from feedbus.transports.sqlite import delivery_owners, registered_connection, routing
from tests.simulation.adversary import opposed
from tests.simulation.broker import SimulatedBroker
from tests.simulation.checker import errors_of, stuck
from tests.simulation.consumers import Supervisor, reshard
from tests.simulation.faults import Faults
from tests.simulation.hosts import Hosts, simulated
from tests.simulation.network import Network
from tests.simulation.publishers import (
    MOST_RECORDS,
    Workload,
    publish,
    run_operator,
    run_relay,
    run_scheduler,
)
from tests.simulation.reached import (
    counted,
    noted_firings,
    noted_holds,
    noted_locks,
    noted_moves,
    noted_pauses,
    noted_rows,
    noted_settlements,
    noted_waiting_records,
    slow_switches,
    small,
)
from tests.simulation.replacing import replaced
from tests.simulation.scenario import BROKER, Scenario, topology_of
from tests.simulation.scheduler import Scheduler
from tests.simulation.sent_messages import checked_sending
from tests.simulation.store import Database
from tests.simulation.struck_landmarks import struck_landmarks
from tests.simulation.system import System
from tests.simulation.threads import simulated_locks

FAULTY_SECONDS = 100.0
QUIET_SECONDS = 1_000.0
MOST_STEPS = 15_000
# A publisher tries again often while a queue is full. While handlers are slow, the consumers that
# wait for old queues, and those that have no shard any more, take many steps.
MOST_QUIET_STEPS = 100_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed."""

    seed: int
    events: int
    faults: list[str]
    trace: list[str]
    scenario: Scenario
    reached: Counter[str]


def simulate(seed: int, *, tracing: bool = False) -> Outcome:
    """Run one seed."""
    with collected():
        return _simulate(seed, tracing=tracing)


def _simulate(seed: int, *, tracing: bool) -> Outcome:
    scheduler = Scheduler(seed, tracing=tracing)
    scenario = Scenario.of(scheduler)
    network = Network(scheduler)
    with (
        silent(),
        cheap(),
        small(seed, scenario),
        simulated_locks(scheduler),
        counted(scheduler) as reached,
        folder() as path,
    ):
        broker = SimulatedBroker(BROKER, network, declared(scenario_of_declaration(scenario)))
        memory.create(broker)
        try:
            system = System(scheduler, scenario, network, broker, Database(scheduler), path)
            with (
                noted_firings(system),
                noted_holds(system),
                noted_locks(system),
                noted_moves(system),
                noted_pauses(system),
                noted_rows(system),
                noted_settlements(system),
                noted_waiting_records(system),
                checked_sending(system),
                slow_switches(system),
                struck_landmarks(system),
                opposed(system),
                simulated(system),
            ):
                faults = run(system)
            reached += Counter(together=system.history.together)
            network.faulty = False
            for process in list(scheduler.processes):
                scheduler.kill(process)
        finally:
            memory.remove(BROKER)
    return Outcome(seed, scheduler.steps, faults, scheduler.trace, scenario, reached)


def run(system: System) -> list[str]:
    """Run a system with its faults, and then to its end without more faults; return the errors."""
    scenario, scheduler, network = system.scenario, system.scheduler, system.network
    faults = Faults(system)
    keeper: Supervisor | Hosts
    if scenario.hosts > 1:
        keeper = hosts = Hosts(system)
        system.disagreements = hosts.disagreements
    else:
        keeper = supervisor = Supervisor(system, system.topology)

    def between_steps() -> None:
        keeper.keep_running()
        faults.strike()

    scheduler.between_steps = between_steps
    network.faulty = scenario.faults > 0
    if scenario.stored:
        system.store().set_up()
        system.again("relay", run_relay, system)
        system.unfinished.discard("relay")
    if scenario.block_on_dead:
        system.again("operator", run_operator, system)
        system.unfinished.discard("operator")
    for number in range(scenario.schedulers):
        system.again(f"scheduler_{number}", run_scheduler, system)
        system.unfinished.discard(f"scheduler_{number}")
    for number in range(scenario.publishers):
        keys = scenario.keys[number :: scenario.publishers]
        work = Workload(dict.fromkeys(keys, 0), most=MOST_RECORDS // scenario.growth)
        for _ in range(scenario.records):
            work.add(scheduler.random)
        name = f"publisher_{number}"
        system.again(name, publish, system, name, work)
    if len(system.topologies) > 1:
        system.again("apply", reshard, supervisor, "apply", system.topologies[1:])
    scheduler.run(system.finished, most_seconds=FAULTY_SECONDS, most_steps=MOST_STEPS)
    network.faulty = False
    scheduler.note("NO MORE FAULTS", by="-")
    if finishes(system):
        return errors_of(system)
    return [*errors_of(system), *stuck(system)]


def finishes(system: System) -> bool:
    """Run a system until its work is done; return False if no record is handled for a long time.

    With few shards and slow handlers, all records can take longer than that together.
    """
    handled = -1
    while system.handled() > handled:
        handled = system.handled()
        if system.scheduler.run(
            system.finished, most_seconds=QUIET_SECONDS, most_steps=MOST_QUIET_STEPS
        ):
            return True
    return False


@cache
def declared(scenario: Scenario) -> bytes:
    """Return what a broker holds on which the first topology of a scenario is declared."""
    network = Network(Scheduler(0))
    broker = memory.create(SimulatedBroker(BROKER, network, None))
    try:
        set_up(topology_of(scenario, scenario.shards[0], Path("/nowhere")))
        return broker.serialized()
    finally:
        memory.remove(BROKER)


def scenario_of_declaration(scenario: Scenario) -> Scenario:
    """Return the part of a scenario that its declaration depends on."""
    return replace(
        scenario, shards=scenario.shards[:1], failing=0, publishers=1, records=1, faults=0
    )


@contextmanager
def folder() -> Iterator[Path]:
    """Return a folder in memory for the files of the processes."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="feedbus-", dir=shared if shared.is_dir() else None
    ) as path:
        yield Path(path)


@contextmanager
def collected() -> Iterator[None]:
    """Collect the garbage at the end of the block, and not within it.

    The block must keep nothing in the variables of its function.
    """
    collects = gc.isenabled()
    gc.disable()
    gc.freeze()  # the objects that exist already are not searched in the end
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
        if collects:
            gc.enable()


@contextmanager
def cheap() -> Iterator[None]:
    """Parse what a broker has declared only once, and measure no memory of this process.

    A killed process would leave the file open from which it reads how much memory it uses.
    """

    def open_nothing(self: ResidentMemory) -> None:
        self._statm = None

    with (
        replaced(ResidentMemory, "__init__", open_nothing),
        replaced(registered_connection, "process_namespace", lambda: ""),
        replaced(delivery_owners, "process_namespace", lambda: ""),
        replaced(routing, "make_queue", made_queue),
        replaced(routing, "json", SimpleNamespace(loads=parsed)),
    ):
        yield


made_queue = lru_cache(10_000)(routing.make_queue)
parsed = lru_cache(10_000)(json.loads)


@contextmanager
def silent() -> Iterator[None]:
    """Write no log: the lines of thousands of simulated crashes say nothing."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
