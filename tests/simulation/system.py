"""What the simulated processes of a seed share, and how each is started again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feedbus.broker_names import Names
from feedbus.runner import CrashGuard
from feedbus.store import NoStore, Store
from feedbus.topology import Topology
from feedbus.wire.constants import QUEUE, REASON
from tests.simulation.broker import SimulatedBroker
from tests.simulation.clock import SimulatedClock
from tests.simulation.history import History, Record
from tests.simulation.network import Network
from tests.simulation.scenario import TICK, TICK_SECONDS, Scenario, records_of, topology_of
from tests.simulation.scheduler import SECONDS, Process, Scheduler
from tests.simulation.store import Database, SimulatedStore

DEAD = ".dead"  # at the end of the name of a queue of dead letters
TICKING_SECONDS = 25.0  # a schedule is fired for so long


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter: the queue of its message, the reason, the message id and the records."""

    queue: str
    reason: str
    message_id: str
    records: list[Record]


@dataclass(eq=False)
class System:
    """The broker, the database and the history of one seed.

    Attributes:
        topologies: the first topology, and the topologies that are applied after it.
        unfinished: processes whose work has an end that is not reached.
        lasting: processes that are started again when they are killed.
        ready: the folder and the name of each consumer that is ready.
        disagreements: returns the errors in the assignment of shards to hosts.
        guards: the queue, and the crash guard, of each process of a consumer.
        holding: processes that wait for the end of an outage, while none of their handlers runs.
        calls: by process, how many handlers run at the same time, with `concurrency`.
        pausing: processes in which records are handled in a pause of a handler.
        choosing: processes whose relays choose among rows of the outbox, of which there is one at
            least.
        late_starts: the names of processes whose next start is late.
        service_away_until: the moment until which a service that all handlers use is unavailable.
        without_service: processes for whose next record this service is unavailable.

    """

    scheduler: Scheduler
    scenario: Scenario
    network: Network
    broker: SimulatedBroker
    database: Database
    folder: Path
    history: History = field(default_factory=History)
    unfinished: set[str] = field(default_factory=set)
    lasting: set[str] = field(default_factory=set)
    ready: set[tuple[Path, str]] = field(default_factory=set)
    disagreements: Callable[[], list[str]] = list
    guards: dict[Process, tuple[str, CrashGuard]] = field(default_factory=dict)
    holding: set[Process | None] = field(default_factory=set)
    calls: Counter[Process | None] = field(default_factory=Counter)
    pausing: set[Process | None] = field(default_factory=set)
    choosing: set[Process | None] = field(default_factory=set)
    late_starts: set[str] = field(default_factory=set)
    service_away_until: int = 0
    without_service: set[Process | None] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Make the topologies and the clock."""
        scenario = self.scenario
        self.topologies: list[Topology] = [
            topology_of(scenario, each, self.folder) for each in scenario.shards
        ]
        self.topology = self.topologies[0]
        self.clock = SimulatedClock(self.scheduler)
        names = Names(self.topology)
        self._states = {names.generations("ring"), names.ledger("ring"), names.schedule(TICK.name)}

    def store(self) -> Store:
        """Return a process's access to the store."""
        if not self.scenario.stored:
            return NoStore()
        return SimulatedStore(self.database, self.topology.name)

    def process(self) -> Process | None:
        """Return the process whose turn it is."""
        thread = self.scheduler.current
        return thread.owner or thread if thread is not None else None

    def blame(self, process: Process) -> None:
        """Note that a process is killed, or stands still, if a single message is in its handler.

        Of several that are handled at the same time, each can be the only one a moment later.
        """
        if process not in self.guards or process in self.holding:
            return
        queue, guard = self.guards[process]
        inside = guard._in_handler
        if len(inside) == 1 or self.scenario.concurrency > 1:
            self.history.blamed.update((queue, each) for each in inside)

    def note_crash(self, process: Process) -> None:
        """Note that a process is killed, if a single message is in its handler."""
        inside = self.guards[process][1]._in_handler if process in self.guards else ()
        if len(inside) == 1:
            self.history.crashes[process.name, inside[0]] += 1

    def check_crashes(self) -> None:
        """Note a fault if a handler gets a message alone that has ended too many processes.

        With `concurrency`, another message can begin at the same time.
        """
        process, limit = self.process(), self.scenario.delivery_limit
        if process not in self.guards or self.scenario.concurrency > 1:
            return
        queue, guard = self.guards[process]
        inside = guard._in_handler
        if len(inside) == 1 and self.history.crashes[process.name, inside[0]] >= limit:
            self.history.kept.append(f"{queue}: {inside[0]} is handled after {limit} crashes")

    def dead(self) -> list[DeadLetter]:
        """Return the dead letters."""
        return [
            DeadLetter(
                headers[QUEUE],
                headers[REASON],
                message_id,
                records_of(body, content_type) if body else [],  # a fence has no record
            )
            for headers, content_type, message_id, body in self.broker.dead_letters()
        ]

    def again(self, name: str, run: Callable[..., None], *arguments: Any) -> None:
        """Run a process, and again whenever it was killed, until it has done its work."""
        self.unfinished.add(name)
        self.lasting.add(name)

        def restart(_killed: bool) -> None:
            if name in self.lasting:
                self.scheduler.after(self.scheduler.random.choice((0.1, 2.0)), begin)

        def begin() -> None:
            process = self.scheduler.start(name, lambda: run(*arguments))
            process.at_death.append(restart)

        begin()

    def done(self, name: str) -> None:
        """Note that a process has done its work."""
        self.unfinished.discard(name)
        self.lasting.discard(name)

    def finished(self) -> bool:
        """Whether all is published and handled; it is looked up only now and then."""
        if self.unfinished or self.scheduler.steps % 50:
            return False
        if self.scenario.schedulers and self.scheduler.now < TICKING_SECONDS * SECONDS:
            return False
        if self.outbox_rows() or any(self.waiting()) or self.blocking():
            return False
        if self.scenario.block_on_dead and self.operator_has_letters():
            return False
        return not self.disagreements() and not self.ticks_late()

    def blocking(self) -> list[DeadLetter]:
        """Return the dead letters that block their keys, and that an operator is to requeue."""
        return self.dead() if self.scenario.block_on_dead else []

    def operator_has_letters(self) -> bool:
        """Whether an operator has read dead letters that are not requeued or dropped yet."""
        return any(
            unacked and name.endswith(DEAD)
            for name, _, _, unacked, _ in self.broker.survey().queues
        )

    def waiting(self) -> Iterator[str]:
        """Yield the messages left in each queue, without states of rings and dead letters."""
        for name, _, ready, unacked, _ in self.broker.survey().queues:
            if (ready or unacked) and name not in self._states and not name.endswith(DEAD):
                yield f"{ready} ready and {unacked} delivered messages stay in {name}"

    def effects(self, queue: str) -> list[Record]:
        """Return the effects of a queue in their order."""
        if self.scenario.is_once(queue):
            return [Record(key, n) for name, key, n in self.database.effects() if name == queue]
        return self.history.effects[queue]

    def committed(self) -> list[Record]:
        """Return the records whose publishing was committed in the store."""
        rows = self.database.connection.execute("SELECT key, n FROM published ORDER BY rowid")
        return [Record(key, n) for key, n in rows]

    def ticks(self) -> list[Record]:
        """Return the effects of the schedule."""
        return self.effects("ticks")

    def ticks_late(self) -> bool:
        """Whether the latest moments of the schedule have had no effect."""
        if not self.scenario.schedulers:
            return False
        latest = max((tick.n for tick in self.ticks()), default=0)
        return latest < self.clock.wall_nanoseconds() // SECONDS - 2 * TICK_SECONDS

    def handled(self) -> int:
        """Return how many different records have had an effect, without those of the schedule."""
        return sum(len({*self.effects(queue)}) for queue in self.scenario.queues)

    def outbox_rows(self) -> int:
        """Return how many messages are in the outbox."""
        if not self.scenario.stored:
            return 0
        (count,) = self.database.connection.execute(
            "SELECT count(*) FROM feedbus_outbox"
        ).fetchone()
        return int(count)
