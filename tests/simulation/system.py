"""A project in the simulation: its processes, its workload, and the faults that meet it."""

from __future__ import annotations

import logging
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from marshmallow import Schema, fields

from feedbus.apply import apply
from feedbus.broker.names import Names
from feedbus.bus import LiveBus
from feedbus.errors import Outage, PublishError, Retry, UsageError
from feedbus.generations.establishment import establish
from feedbus.handling.handlers import Handler
from feedbus.handling.routes import HandlerRoutes
from feedbus.metrics import Metrics
from feedbus.plan.comparison import make_plan
from feedbus.runner import Limits, Runner, Suspects
from feedbus.store import NoStore, Store
from feedbus.store.relay import Relay
from feedbus.topology import Batch, Exchange, Queue, RetryPolicy, StoreOptions, Topology
from feedbus.transports import memory
from feedbus.urls import BrokerUrl
from feedbus.wire.constants import REASON
from tests.simulation import history
from tests.simulation.clock import SimulatedClock
from tests.simulation.history import History, Record
from tests.simulation.network import Network, SimulatedBroker
from tests.simulation.scheduler import SECONDS, Process, Scheduler
from tests.simulation.store import Database, SimulatedStore

BROKER = "simulation"
KEYS = "abcde"
FAULTY_SECONDS = 100.0
MOST_RECORDS = 40  # of a publisher
QUIET_SECONDS = 200.0
MOST_STEPS = 15_000


class Numbered(Schema):
    """A record of the simulation."""

    key = fields.String(required=True)
    n = fields.Integer(strict=True, required=True)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a seed has chosen to happen.

    Attributes:
        kind: "ring" publishes to shards; "chain" to a queue whose handler publishes on to the
            shards; "once" likewise, with effects in the store; "outbox" to the shards, in
            transactions of the store.
        shards: how many, before and after each apply.
        batch: whether handlers take batches.
        pack: records in a message at most, 0 for plain messages.
        ordered: whether the queues keep the order of their keys also when a record is retried.
        failing: one record in so many is refused at first, 0 for none.
        full: whether the queues of the shards refuse what is more than three messages.
        prefetch: of each queue.
        publishers: how many.
        records: of each publisher.
        faults: how many at most.

    """

    kind: str
    shards: tuple[int, ...]
    batch: bool
    pack: int
    ordered: bool
    failing: int
    full: bool
    prefetch: int
    publishers: int
    records: int
    faults: int

    @property
    def stored(self) -> bool:
        """Whether there is a store."""
        return self.kind in {"once", "outbox"}

    @classmethod
    def of(cls, scheduler: Scheduler) -> Scenario:
        """Choose."""
        chosen = scheduler.random
        changes = chosen.choice((0, 0, 1, 1, 2))
        kind = chosen.choice(("ring", "ring", "chain", "once", "outbox"))
        failing = chosen.choice((0, 3, 7))
        shards = tuple(chosen.randint(1, 3) for _ in range(changes + 1))
        return cls(
            kind=kind,
            shards=shards,
            batch=chosen.random() < 0.5,
            pack=chosen.choice((0, 0, 5)),
            ordered=chosen.random() < 0.5,
            failing=failing,
            full=kind == "ring" and not failing and len(shards) == 1 and chosen.random() < 0.7,
            prefetch=chosen.choice((1, 3, 100)),
            publishers=chosen.choice((1, 2)),
            records=chosen.randint(5, 14),
            faults=chosen.choice((0, 2, 5, 12)),
        )


def topology_of(scenario: Scenario, shards: int, folder: Path) -> Topology:
    """Return the topology of a scenario with so many shards."""
    retry = RetryPolicy((0.5, 2.0), "dead-letter")
    batch = Batch(4, 0.01) if scenario.batch else Batch()
    common: dict[str, Any] = {
        "handler": "tests:none",
        "retry": retry,
        "batch": batch,
        "prefetch": scenario.prefetch,
        "order_by": scenario.ordered,
    }
    shard = Queue("shard", "ring", shards=shards, weights=(1,) * shards, store=False, **common)
    if scenario.full:
        shard = replace(shard, max_length=3, overflow="reject-publish")
    queues = [shard]
    if scenario.kind in {"once", "chain"}:
        once = scenario.kind == "once"
        work = Queue("work", "work", routing_keys=("",), once=once, store=once, **common)
        queues.append(work)
    return Topology(
        name="simulated",
        path=folder / "topology.toml",
        broker_url=BrokerUrl.in_memory(BROKER),
        store=StoreOptions(adapter="tests:none") if scenario.stored else None,
        exchanges={
            "work": Exchange("work", "fanout", 0),
            "ring": Exchange("ring", "x-consistent-hash", scenario.pack),
        },
        queues={queue.name: queue for queue in queues},
        var=folder,
    )


def payload(record: Record) -> dict[str, Any]:
    """Return the fields of a record."""
    return {"key": record.key, "n": record.n}


@cache
def declared(scenario: Scenario) -> bytes:
    """Return what a broker holds on which the first topology of a scenario is declared."""
    network = Network(Scheduler(0))
    broker = memory.create(SimulatedBroker(BROKER, network, None))
    try:
        establish(topology_of(scenario, scenario.shards[0], Path("/nowhere")))
        return broker.serialized()
    finally:
        memory.remove(BROKER)


@dataclass(slots=True)
class Workload:
    """What one publisher has to publish.

    Attributes:
        counts: the last number of each of its keys.
        todo: records that are not accepted yet.
        most: how many records may still be added.

    """

    counts: dict[str, int]
    todo: list[Record] = field(default_factory=list)
    most: int = MOST_RECORDS

    def add(self, chosen: random.Random) -> None:
        """Add the next record of one of the keys."""
        key = chosen.choice(list(self.counts))
        self.counts[key] += 1
        self.most -= 1
        self.todo.append(Record(key, self.counts[key]))


@dataclass(eq=False)
class System:
    """The processes of one seed."""

    seed: int
    scheduler: Scheduler
    scenario: Scenario
    network: Network
    broker: SimulatedBroker
    database: Database
    folder: Path
    history: History = field(default_factory=History)
    wanted: dict[str, Topology] = field(default_factory=dict)
    consumers: dict[str, Process] = field(default_factory=dict)
    runners: dict[str, Runner] = field(default_factory=dict)
    refused: dict[tuple[str, Record], int] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)
    lasting: set[str] = field(default_factory=set)
    faults_left: int = 0
    left_rows: bool = False

    def __post_init__(self) -> None:
        """Know the topologies."""
        scenario = self.scenario
        self.topologies = [topology_of(scenario, each, self.folder) for each in scenario.shards]
        self.topology = self.topologies[0]
        self.clock = SimulatedClock(self.scheduler)
        self.faults_left = scenario.faults
        names = Names(self.topology)
        self.states = {names.generations("ring"), names.ledger("ring")}

    # The project's processes

    def store(self) -> Store:
        """Return a process's access to the store."""
        if not self.scenario.stored:
            return NoStore()
        return SimulatedStore(self.database, self.topology.name)

    def handler(self, queue: Queue, consumer: str, store: Store) -> HandlerRoutes:
        """Return what handles the records of a consumer."""

        def effect(message: dict[str, Any], publish: Callable[[Record], object]) -> None:
            record = Record(message["key"], message["n"])
            self.clock.sleep(self.scheduler.random.choice((0.0, 0.001, 0.05, 1.0)))
            self.refuse(queue.name, record)
            if isinstance(store, SimulatedStore) and queue.once:
                store.effect(record.key, record.n)
            else:
                self.note(queue.name, record, consumer)
            if queue.name == "work":
                publish(record)

        def one(message: dict[str, Any], bus: Any) -> None:
            effect(message, lambda record: bus.publish("ring", payload(record), record.key))

        def many(records: Any, _bus: Any) -> None:
            refused = set()
            for single in records.singles():
                if self.scenario.ordered and single[0]["key"] in refused:
                    continue  # the effects of records behind it could not be rolled back
                try:
                    effect(
                        single[0],
                        lambda record, single=single: single.publish_many(
                            "ring", [(payload(record), record.key)]
                        ),
                    )
                except Retry as error:
                    refused.add(single[0]["key"])
                    single.retry(str(error))

        batch = self.scenario.batch
        return HandlerRoutes([Handler(many if batch else one, Numbered, batch)])

    def note(self, queue: str, record: Record, consumer: str) -> None:
        """Note an effect that no store keeps."""
        self.history.handled_by[queue, record.key].add(consumer)
        self.scheduler.note(f"effect {record} of {queue}")
        self.history.effects[queue].append(record)

    def refuse(self, queue: str, record: Record) -> None:
        """Raise Retry for a record that is to fail at first."""
        failing = self.scenario.failing
        if not failing or (record.n * 7 + ord(record.key)) % failing:
            return
        self.history.failed[queue].add(record)
        before = self.refused.get((queue, record), 0)
        if before < 1 + record.n % 2:
            self.refused[queue, record] = before + 1
            self.scheduler.note(f"refuses {record} of {queue}")
            msg = "not yet"
            raise Retry(msg)

    def consume(self, name: str) -> None:
        """Run a consumer's process until it is stopped, or has nothing to do."""
        topology = self.wanted[name]
        consumer = topology.consumer(name)
        store = self.store()
        with Suspects(self.folder / "run" / f"{name}.hand", now=self.clock.monotonic) as suspects:
            runner = Runner(
                topology,
                consumer,
                self.handler(consumer.queue, name, store),
                limits=Limits(),
                metrics=Metrics.none(),
                suspects=suspects,
                store=store,
            )
            self.runners[name] = runner
            self.scheduler.note(f"ends: {runner.run()}")

    def keep_running(self) -> None:
        """Start each wanted consumer that does not run, as a supervisor does."""
        for name in sorted(self.wanted):
            process = self.consumers.get(name)
            if process is not None and process.dead:
                del self.consumers[name]
                self.runners.pop(name, None)
                seconds = self.scheduler.random.choice((0.1, 0.5, 3.0))
                self.consumers[name] = self.later(name, seconds)
            elif process is None:
                self.consumers[name] = self.later(name, 0.0)

    def later(self, name: str, seconds: float) -> Process:
        """Start a consumer's process that begins after a while."""

        def run() -> None:
            self.clock.sleep(seconds)
            if name in self.wanted:
                self.consume(name)

        return self.scheduler.start(name, run)

    def publish(self, name: str, work: Workload) -> None:
        """Publish records one after the other, each again until it is accepted.

        While the number of shards changes, there are more of them than the scenario says.
        """
        todo = work.todo
        store = self.store()
        bus = LiveBus(
            self.topology, timeout_seconds=5.0, store=None if isinstance(store, NoStore) else store
        )
        exchange = "work" if self.scenario.kind in {"once", "chain"} else "ring"
        chosen = self.scheduler.random
        while todo or ("apply" in self.unfinished and work.most):
            if not todo:
                self.clock.sleep(chosen.choice((0.05, 0.3, 1.0)))
                work.add(chosen)
            some = todo[: chosen.choice((1, 1, 1, 4))] if self.scenario.kind == "ring" else todo[:1]
            self.history.tried += some
            try:
                if self.scenario.kind == "outbox":
                    with bus.transaction():
                        self.put(bus, exchange, some[0])
                elif len(some) > 1:
                    bus.publish_many(exchange, [(payload(each), each.key) for each in some])
                else:
                    self.put(bus, exchange, some[0])
            except (Outage, PublishError) as error:
                self.scheduler.note(f"is refused: {type(error).__name__}: {error}")
                self.clock.sleep(0.5)
                continue
            self.scheduler.note(f"accepted {', '.join(map(str, some))}")
            self.history.accepted += some
            del todo[: len(some)]
            self.clock.sleep(chosen.choice((0.0, 0.0, 0.0, 0.01, 0.2, 2.0)))
        bus.close()
        self.unfinished.discard(name)
        self.lasting.discard(name)

    def put(self, bus: LiveBus, exchange: str, record: Record) -> None:
        """Publish one record under an id of its own."""
        bus.publish(exchange, payload(record), record.key, message_id=f"m-{record}")

    def relay(self) -> None:
        """Run the relay's process."""
        Relay(
            self.topology, self.store(), LiveBus(self.topology, timeout_seconds=5.0), self.clock
        ).run()

    def reshard(self, name: str, todo: list[Topology]) -> None:
        """Apply one topology after the other, each again until it is done."""
        while todo:
            self.clock.sleep(self.scheduler.random.choice((0.0, 0.2, 1.0, 5.0)))
            wanted = todo[0]
            try:
                plan = make_plan(wanted, None, predict=False)
                done = apply(
                    wanted,
                    plan,
                    Followers(self, wanted),
                    wait=True,
                    report=self.scheduler.note,
                    progress=lambda _: None,
                )
            except (Outage, UsageError) as error:
                self.scheduler.note(f"cannot apply: {error}")
                continue
            if done:
                self.scheduler.note(f"has applied {wanted.queues['shard'].shards} shards")
                del todo[0]
        self.unfinished.discard(name)
        self.lasting.discard(name)

    def again(self, name: str, run: Callable[..., None], *arguments: Any) -> None:
        """Run a process, and again whenever it was killed, until it has done its work."""
        self.unfinished.add(name)
        self.lasting.add(name)

        def restart(_killed: bool = False) -> None:
            if name in self.lasting:
                self.scheduler.after(self.scheduler.random.choice((0.1, 2.0)), begin)

        def begin() -> None:
            process = self.scheduler.start(name, lambda: run(*arguments))
            process.at_death.append(restart)

        begin()

    # Faults

    def fault(self) -> None:
        """Let something go wrong now and then."""
        self.keep_running()
        chosen = self.scheduler.random
        if not self.faults_left or not self.network.faulty or chosen.random() > 0.03:
            return
        self.faults_left -= 1
        links, processes = self.network.open_links(), self.scheduler.processes
        what = chosen.choice(
            ("kill", "kill", "cut", "cut", "cut after", "cut after", "restart", "pause", "store")
        )
        if what == "kill" and processes:
            victim = chosen.choice(processes)
            self.left_rows = self.left_rows or victim.name.startswith("publisher")
            self.scheduler.kill(victim)
        elif what == "cut" and links:
            chosen.choice(links).cut("by the network")
        elif what == "cut after" and links:
            chosen.choice(links).cut_after_next = True
        elif what == "restart":
            self.restart_broker(chosen.choice((0.1, 3.0, 20.0)))
        elif what == "pause" and processes:
            paused = chosen.choice(processes)
            until = self.scheduler.now + int(chosen.choice((0.5, 10.0, 60.0)) * SECONDS)
            self.scheduler.note("IS PAUSED", by=paused.name)
            ready, at = paused.ready, paused.until
            paused.ready = None
            paused.until = until if at is None else max(at, until)
            if ready is not None:
                paused.ready = lambda: self.scheduler.now >= until and ready()
        elif what == "store":
            self.left_rows = True
            self.database.lose_answer = chosen.random() < 0.5
            self.database.away_until = self.scheduler.now + int(
                chosen.choice((0.0, 1.0, 10.0)) * SECONDS
            )
            self.scheduler.note("THE STORE IS AWAY", by="-")

    def restart_broker(self, seconds: float) -> None:
        """Cut every connection, and refuse others for a while."""
        self.scheduler.note("THE BROKER IS AWAY", by="-")
        self.network.down = True
        for link in list(self.network.open_links()):
            link.cut("the broker ends")

        def back() -> None:
            self.network.down = False
            self.scheduler.note("THE BROKER IS BACK", by="-")

        self.scheduler.after(seconds, back)

    # A run

    def run(self) -> list[str]:
        """Run the seed; return what is wrong."""
        scenario, chosen = self.scenario, self.scheduler.random
        self.scheduler.between_steps = self.fault
        self.network.faulty = scenario.faults > 0
        self.wanted = dict.fromkeys(self.topology.consumers, self.topology)
        if scenario.stored:
            self.store().set_up()
            self.again("relay", self.relay)
            self.unfinished.discard("relay")
        for number in range(scenario.publishers):
            keys = KEYS[number :: scenario.publishers]
            work = Workload(dict.fromkeys(keys, 0))
            for _ in range(scenario.records):
                work.add(chosen)
            self.again(f"publisher_{number}", self.publish, f"publisher_{number}", work)
        if len(self.topologies) > 1:
            self.again("apply", self.reshard, "apply", self.topologies[1:])
        self.scheduler.run(self.finished, most_seconds=FAULTY_SECONDS, most_steps=MOST_STEPS)
        self.network.faulty = False
        self.scheduler.note("NO MORE FAULTS", by="-")
        if not self.scheduler.run(self.finished, most_seconds=QUIET_SECONDS, most_steps=MOST_STEPS):
            return [*self.judge(), *self.stuck()]
        return self.judge()

    def finished(self) -> bool:
        """Whether all is published and handled."""
        if self.unfinished or self.scheduler.steps % 50:
            return False
        if self.scenario.stored and self.outbox_rows():
            return False
        return not any(self.waiting())

    def waiting(self) -> Iterator[str]:
        """Yield what is left in which queue, but for the states of the rings."""
        for name, _, ready, unacked, _ in self.broker.survey().queues:
            if (ready or unacked) and name not in self.states:
                yield f"{ready} ready and {unacked} delivered messages stay in {name}"

    def outbox_rows(self) -> int:
        """Return how many messages are in the outbox."""
        (count,) = self.database.connection.execute(
            "SELECT count(*) FROM feedbus_outbox"
        ).fetchone()
        return int(count)

    def stuck(self) -> list[str]:
        """Return what is left at the end."""
        faults = [f"{name} does not end" for name in sorted(self.unfinished)]
        faults += self.waiting()
        dead = self.broker.headers(lambda name: name.endswith(".dead"))
        faults += [f"a dead letter: {headers.get(REASON, headers)}" for headers in dead]
        if self.scenario.stored and self.outbox_rows():
            faults.append(f"{self.outbox_rows()} messages stay in the outbox")
        return faults or ["the system does not come to rest"]

    def judge(self) -> list[str]:
        """Return what is wrong with the history."""
        done, queue = self.history, "shard"
        effects = done.effects[queue]
        faults = [f"{name}: {type(e).__name__}: {e}" for name, e in self.scheduler.failures]
        faults += self.network.refused_acknowledgements
        free = set() if self.scenario.ordered else set().union(*done.failed.values())
        if self.scenario.kind == "once":
            stored = [Record(key, n) for key, n in self.database.effects()]
            faults += history.missing("work", done.accepted, stored)
            faults += history.repeated("work", stored)
            faults += history.disordered("work", stored, free)
        faults += history.missing(queue, done.accepted, effects)
        faults += history.invented(queue, done.tried, effects)
        if self.scenario.kind == "chain":
            faults += history.missing("work", done.accepted, done.effects["work"])
            faults += history.disordered("work", done.effects["work"], free)
        if self.keeps_order:
            faults += history.disordered(queue, effects, free)
        if len(self.scenario.shards) == 1:
            faults += history.wandering(queue, done.handled_by)
        return faults

    @property
    def keeps_order(self) -> bool:
        """Whether the shards have all records of a key in order.

        What a killed process has left in the outbox, or a lost answer to a commit, is published
        by the relay; others may overtake it. So may the messages of a window that a full queue has
        refused.
        """
        if self.scenario.full:
            return False
        return not self.scenario.stored or (self.scenario.kind == "outbox" and not self.left_rows)


@dataclass(frozen=True, slots=True)
class Followers:
    """What the supervisor does for an apply."""

    system: System
    topology: Topology

    def pause(self, consumers: tuple[str, ...]) -> None:
        """Stop consumers whose queue is to be replaced."""
        raise NotImplementedError

    def follow(self) -> None:
        """Let the consumers of the topology start anew; those that it has no more go on."""
        system = self.system
        for name in self.topology.consumers:
            system.wanted[name] = self.topology
            if name in system.runners:
                system.runners[name].stop()

    def finish(self) -> None:
        """End the consumers that the topology has no more."""
        system = self.system
        for name in [each for each in system.wanted if each not in self.topology.consumers]:
            del system.wanted[name]
            if name in system.runners:
                system.runners[name].stop()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed."""

    seed: int
    events: int
    faults: list[str]
    trace: list[str]
    scenario: Scenario


@contextmanager
def folder() -> Iterator[Path]:
    """Return a folder in memory for the files of the processes."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="feedbus-", dir=shared if shared.is_dir() else None
    ) as path:
        yield Path(path)


def simulate(seed: int, *, tracing: bool = False, kind: str = "") -> Outcome:
    """Run one seed."""
    with silent():
        return _simulated(seed, tracing=tracing, kind=kind)


@contextmanager
def silent() -> Iterator[None]:
    """Write no log: the lines of thousands of simulated crashes say nothing."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)


def _simulated(seed: int, *, tracing: bool, kind: str) -> Outcome:
    scheduler = Scheduler(seed, tracing=tracing)
    scenario = Scenario.of(scheduler)
    if kind:
        scenario = replace(scenario, kind=kind)
    network = Network(scheduler)
    broker = SimulatedBroker(BROKER, network, declared(scenario_of_declaration(scenario)))
    memory.create(broker)
    try:
        with folder() as path:
            system = System(seed, scheduler, scenario, network, broker, Database(scheduler), path)
            faults = system.run()
            for process in list(scheduler.processes):
                network.faulty = False
                scheduler.kill(process)
    finally:
        memory.remove(BROKER)
    return Outcome(seed, scheduler.steps, faults, scheduler.trace, scenario)


def scenario_of_declaration(scenario: Scenario) -> Scenario:
    """Return the part of a scenario that its declaration depends on."""
    return replace(
        scenario, shards=scenario.shards[:1], failing=0, publishers=1, records=1, faults=0
    )
