"""The publishers of the simulated project, the relay of its outbox, and its schedule."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from feedbus.bus import LiveBus
from feedbus.errors import Outage, PublishError
from feedbus.metrics import Metrics
from feedbus.schedules.scheduler import Scheduler
from feedbus.store import NoStore
from feedbus.store.relay import Relay
from tests.simulation.history import Record
from tests.simulation.scenario import LARGE_PACK, payload
from tests.simulation.system import System

MOST_RECORDS = 60  # of a publisher
LEAST_STEPS = 600  # of a seed
TIMEOUT_SECONDS = 5.0
SIZES = {"ring": (1, 1, 1, 4), "stream": (1, 1, 1, LARGE_PACK)}  # records published together


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


def publish(system: System, name: str, work: Workload) -> None:
    """Publish records one after the other, each again until it is accepted.

    While the number of shards changes, and until the seed has enough events, there are more of them
    than the scenario says.
    """
    todo, kind, scheduler = work.todo, system.scenario.kind, system.scheduler
    store, chosen = system.store(), scheduler.random
    bus = LiveBus(
        system.topology,
        timeout_seconds=TIMEOUT_SECONDS,
        store=None if isinstance(store, NoStore) else store,
    )

    def more() -> bool:
        few = scheduler.steps < LEAST_STEPS
        return (few or "apply" in system.unfinished) and work.most > 0

    while todo or more():
        if not todo:
            system.clock.sleep(chosen.choice((0.0, 0.02, 0.1, 0.5)))
            work.add(chosen)
        some = todo[: chosen.choice(SIZES.get(kind, (1,)))]
        system.history.tried += some
        try:
            _send(bus, kind, some)
        except (Outage, PublishError) as error:
            scheduler.note(f"is refused: {type(error).__name__}: {error}")
            system.clock.sleep(0.5)
            continue
        scheduler.note(f"accepted {', '.join(map(str, some))}")
        system.history.accepted += some
        del todo[: len(some)]
        system.clock.sleep(chosen.choice((0.0, 0.0, 0.0, 0.01, 0.2, 2.0)))
    bus.close()
    system.done(name)


def _send(bus: LiveBus, kind: str, records: list[Record]) -> None:
    """Publish records, a single one under an id of its own."""
    exchange = "work" if kind in {"once", "chain", "stream"} else "ring"
    first = records[0]
    if kind == "outbox":
        with bus.transaction():
            bus.publish(exchange, payload(first), first.key, message_id=f"m-{first}")
    elif len(records) > 1:
        bus.publish_many(exchange, [(payload(each), each.key) for each in records])
    else:
        bus.publish(exchange, payload(first), first.key, message_id=f"m-{first}")


def run_scheduler(system: System) -> None:
    """Run what fires the schedule on one host."""
    bus = LiveBus(system.topology, timeout_seconds=TIMEOUT_SECONDS)
    Scheduler(system.topology, bus, Metrics.none(), system.clock)._run()


def run_relay(system: System) -> None:
    """Run the relay's process."""
    bus = LiveBus(system.topology, timeout_seconds=TIMEOUT_SECONDS)
    Relay(system.topology, system.store(), bus, system.clock).run()
