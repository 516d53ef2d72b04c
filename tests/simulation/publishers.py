"""The publishers of the simulated project, its relay, its schedule, and its operator."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from feedbus import broker
from feedbus.broker.publisher import publish_all
from feedbus.broker_names import Names
from feedbus.bus import LiveBus
from feedbus.dead_letters import letters as dead_letters
from feedbus.dead_letters.letters import DeadLetter
from feedbus.dead_letters.requeue import Requeue
from feedbus.errors import BrokerOutage, Outage, PublishError, UsageError
from feedbus.metrics import Metrics
from feedbus.schedules.scheduler import Scheduler
from feedbus.store import NoStore, Store
from feedbus.store.relay import Relay
from feedbus.wire import Outgoing
from feedbus.wire.constants import JSON, PACK
from tests.simulation.history import Record
from tests.simulation.scenario import payload, records_of
from tests.simulation.store import SimulatedStore
from tests.simulation.system import System

MOST_RECORDS = 45  # of a publisher
LEAST_STEPS = 600  # of a seed
TIMEOUT_SECONDS = 5.0  # of a relay, and of what fires the schedule
OPERATOR_SECONDS = (1.0, 5.0, 5.0)  # between two looks at the dead letters
DROPPED_SHARES = (0.3, 0.7)  # of the dead letters, where an operator drops some
PAUSES = (0.0, 0.0, 0.0, 0.01, 0.2, 2.0)  # seconds between two publishes


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

    def take_keys(self, chosen: random.Random, sizes: Sequence[int]) -> list[str]:
        """Remove some records, of which there is at least one, and return their keys."""
        if not self.todo:
            self.add(chosen)
        size = chosen.choice(sizes)
        keys = [each.key for each in self.todo[:size]]
        del self.todo[:size]
        return keys

    def goes_on(self, system: System) -> bool:
        """Whether more records are to be added to those of the scenario.

        It is so until the seed has enough events. While the number of shards changes, it is so up
        to a number of records, except in quiet scenarios.
        """
        changes = "apply" in system.unfinished and not system.scenario.quiet
        return system.scheduler.steps < LEAST_STEPS or (changes and self.most > 0)


def publish(system: System, name: str, work: Workload) -> None:
    """Publish records one after the other, each again until it is accepted."""
    if system.scenario.relayed:
        publish_with_relay(system, name, work)
        return
    if system.scenario.threads > 1:
        publish_in_threads(system, name, work)
        return
    todo, scheduler = work.todo, system.scheduler
    store, chosen = system.store(), scheduler.random
    bus = LiveBus(
        system.topology,
        timeout_seconds=system.scenario.timeout,
        store=None if isinstance(store, NoStore) else store,
    )

    def accepted(some: list[Record]) -> None:
        scheduler.note(f"accepted {', '.join(map(str, some))}")
        system.history.accepted += some
        del todo[: len(some)]

    sure = not transactional(system)  # whether the committed rows are known
    while todo or work.goes_on(system):
        if not todo:
            system.clock.sleep(chosen.choice((0.0, 0.02, 0.1, 0.5)))
            work.add(chosen)
        some = todo[: chosen.choice(system.scenario.sizes)]
        try:
            if not sure:
                accepted(committed(store, todo))
                sure = True
                continue
            _send(system, bus, some)
        except (Outage, PublishError) as error:
            scheduler.note(f"is refused: {type(error).__name__}: {error}")
            system.clock.sleep(0.5)
            sure = not transactional(system)
            continue
        accepted(some)
        system.clock.sleep(chosen.choice(PAUSES))
    bus.close()
    system.done(name)


def publish_in_threads(system: System, name: str, work: Workload) -> None:
    """Publish in transactions of several threads that share a bus.

    The transactions determine the numbers of their records. So the numbers of a key are in the
    order of the commits, and a number is used again after a rollback.
    """
    scheduler, store, chosen = system.scheduler, system.store(), system.scheduler.random
    assert isinstance(store, SimulatedStore)
    bus = LiveBus(system.topology, timeout_seconds=system.scenario.timeout, store=store)

    def send(keys: list[str]) -> None:
        with bus.transaction():
            records = []
            for key in keys:
                records.append(Record(key, store.next_number(key)))
                store.note_published(key, records[-1].n)
            system.history.tried += records
            _publish(system, bus, records)

    def run() -> None:
        while work.todo or work.goes_on(system):
            keys = work.take_keys(chosen, system.scenario.sizes)
            try:
                send(keys)
            except (Outage, PublishError) as error:
                scheduler.note(f"is refused: {type(error).__name__}: {error}")
                system.clock.sleep(0.5)
            system.clock.sleep(chosen.choice(PAUSES))

    threads = [
        system.clock.threads.start(f"{name}_{number}", run)
        for number in range(system.scenario.threads)
    ]
    for thread in threads:
        thread.join()
    bus.close()
    system.done(name)


def publish_with_relay(system: System, name: str, work: Workload) -> None:
    """Add rows to the outbox in transactions, and publish them with a relay of this process."""
    scheduler, store, chosen = system.scheduler, system.store(), system.scheduler.random
    assert isinstance(store, SimulatedStore)
    bus = LiveBus(system.topology, timeout_seconds=system.scenario.timeout)
    relay = Relay(system.topology, store, bus, system.clock)
    thread = system.clock.threads.start(f"{name}_relay", relay.run)
    while work.todo or work.goes_on(system):
        keys = work.take_keys(chosen, system.scenario.sizes)
        records: list[Record] = []
        try:
            with store.transaction():
                entries = []
                for key in keys:
                    records.append(each := Record(key, store.next_number(key)))
                    store.note_published(key, each.n)
                    entries.append(
                        store.outbox.put(
                            system.scenario.exchange, payload(each), key, message_id=f"m-{each}"
                        )
                    )
                system.history.tried += records
        except Outage as error:
            scheduler.note(f"is refused: {type(error).__name__}: {error}")
            # Perhaps they are committed. Then the relay publishes them later, after other records
            # of their keys.
            system.history.late.update(records)
            system.clock.sleep(0.5)
            continue
        relay.publish(entries)
        system.clock.sleep(chosen.choice(PAUSES))
    relay.stop()
    thread.join()
    bus.close()
    system.done(name)


def transactional(system: System) -> bool:
    """Whether publishers publish in transactions of the store."""
    return system.scenario.kind == "outbox"


def committed(store: Store, records: list[Record]) -> list[Record]:
    """Return the first of these records, whose transaction was committed."""
    assert isinstance(store, SimulatedStore)
    known = store.published()
    return [each for each in records if (each.key, each.n) in known]


def _send(system: System, bus: LiveBus, records: list[Record]) -> None:
    """Publish records, in a transaction that also notes them in the store, or without one."""
    system.history.tried += records
    if not transactional(system):
        _publish(system, bus, records)
        return
    with bus.transaction() as store:
        for each in records:
            store.note_published(each.key, each.n)
        _publish(system, bus, records)


def _publish(system: System, bus: LiveBus, records: list[Record]) -> None:
    """Publish records; in a transaction, in several calls now and then."""
    left = list(records)
    while left:
        sizes = system.scenario.sizes if transactional(system) else (len(left),)
        size = system.scheduler.random.choice(sizes)
        _publish_together(system, bus, left[:size])
        del left[:size]


def _publish_together(system: System, bus: LiveBus, records: list[Record]) -> None:
    """Publish records in one call, a single one under an id of its own."""
    exchange, first, ids = system.scenario.exchange, records[0], system.history.ids
    if system.scenario.without_id(first) and not transactional(system) and len(records) == 1:
        ids[first].add(bus.unique())  # an equal message is another one
        _publish_without_id(system, first)
    elif len(records) > 1:
        for each in records:
            ids[each].add(bus.unique())  # publish_many() gives them new ones
        bus.publish_many(exchange, [(payload(each), each.key) for each in records])
    else:
        ids[first].add(f"m-{first}")
        bus.publish(exchange, payload(first), first.key, message_id=f"m-{first}")


def _publish_without_id(system: System, record: Record) -> None:
    """Publish a record without a message id, as a program can that does not use feedbus."""
    topology, scenario = system.topology, system.scenario
    exchange, body = Names(topology).exchange(scenario.exchange), json.dumps(payload(record))
    message = Outgoing(exchange, record.key, body.encode(), JSON, "", stamp=None)
    with broker.connect(topology) as connection, broker.outage(connection, topology.broker_url):
        if publish_all(connection, [message], nacked_seconds=scenario.timeout):
            msg = "the broker has not accepted the message without an id"
            raise BrokerOutage(msg)


def run_scheduler(system: System) -> None:
    """Run what fires the schedule on one host."""
    bus = LiveBus(system.topology, timeout_seconds=TIMEOUT_SECONDS)
    Scheduler(system.topology, bus, Metrics.none(), system.clock)._run()


def run_operator(system: System) -> None:
    """Requeue or drop all dead letters of a queue now and then."""
    topology, dropping = system.topology, system.scenario.dropping
    chosen = random.Random(f"drops of seed {system.scheduler.seed}")
    seconds, share = chosen.choice(OPERATOR_SECONDS), chosen.choice(DROPPED_SHARES)

    def requeue(back: Requeue, letter: DeadLetter) -> None:
        if letter.content_type == PACK:
            records = records_of(letter.body, PACK)
            system.history.unblocked[letter.queue].update(records)
        back.send(letter)

    def is_dropped(letter: DeadLetter) -> bool:
        # A dead letter whose key was released can stay, if the connection is lost in between.
        records = records_of(letter.body, letter.content_type)
        system.history.unblocked[letter.queue].update(records)
        return True

    def note_dropped(letter: DeadLetter) -> None:
        records = records_of(letter.body, letter.content_type)
        system.scheduler.note(f"drops {', '.join(map(str, records))}")
        system.history.dropped[letter.queue].update(records)

    while True:
        system.clock.sleep(seconds)
        for queue in topology.queues.values():
            try:
                with dead_letters.open_channel(topology) as channel:
                    if dropping and chosen.random() < share:
                        dead_letters.drop(channel, topology, queue, is_dropped, note_dropped)
                        continue
                    with Requeue(topology, queue) as back:
                        dead_letters.settle(
                            channel, topology, queue, lambda _: True, partial(requeue, back)
                        )
            except (Outage, PublishError, UsageError) as error:
                system.scheduler.note(f"cannot requeue or drop: {error}")


def run_relay(system: System) -> None:
    """Run the relay's process."""
    bus = LiveBus(system.topology, timeout_seconds=TIMEOUT_SECONDS)
    Relay(system.topology, system.store(), bus, system.clock).run()
