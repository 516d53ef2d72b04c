"""What a seed has chosen to happen, and the topology that follows from it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marshmallow import Schema, fields

from feedbus.records.packs import decode
from feedbus.topology import Batch, Exchange, Queue, RetryPolicy, Schedule, StoreOptions, Topology
from feedbus.urls import BrokerUrl
from feedbus.wire.constants import PACK
from tests.simulation.history import Record
from tests.simulation.scheduler import Scheduler

BROKER = "simulation"
KEYS = "abcde"
# By kind: how many queues there are whose handlers publish on.
STAGES = {"ring": (0,), "outbox": (0,), "stream": (1,), "chain": (1, 1, 2), "once": (1, 1, 2)}
FANS = ((1,), (1, 2, 3), (1, 2, 2))  # by that number
MORE_RECORDS = {"outbox": 3, "stream": 2}
TICK_SECONDS = 4  # between the moments of the schedule
MOST_CRASHES = 5  # of a process that handles a message alone
SOON, LATE = (0.5, 2.0), (4.0, 12.0)  # the delays of retries
QUICK, SLOW = (0.0, 0.001, 0.05, 1.0), (0.05, 1.0, 4.0)  # seconds that a handler takes
NO_LIMIT = 10_000  # waiting records
LARGE_PACK = 12  # records of a message to a stream, which makes several slices
BATCH_RECORDS = 4  # the largest batch
SIZES = (1, 1, 4, LARGE_PACK)  # records published together


def theme(**options: Any) -> Mapping[str, Any]:
    """Return a theme: the values to choose from, or the share of the seeds, of some choices."""
    return options


# In a share of the seeds, a theme determines some of the choices: faults that need several settings
# at once are rare otherwise.
THEMES: tuple[Mapping[str, Any], ...] = (
    # Records wait while the ring changes again and again.
    theme(
        hosts=(1,),
        changes=(2, 2, 2, 3),
        most_shards=2,
        differing=1.0,
        kind=("ring", "ring", "chain"),
        full=0.0,
        pack=(0,),
        ordered=1.0,
        failing=(3,),
        keys=(2, 5),
        delays=(SOON, LATE),
        slow=0.15,
        faults=(5, 12),
        patient=0.5,
    ),
    # Dead letters block their keys, and are dropped.
    theme(
        hosts=(1,),
        changes=(0, 1, 1, 2),
        differing=1.0,
        shrinking=0.7,
        full=0.0,
        ordered=1.0,
        block_on_dead=1.0,
        rejecting=(4,),
        slow=0.5,
        faults=(5, 12),
        patient=0.2,
    ),
    # There are packs for rings that change, and full queues.
    theme(
        hosts=(1,),
        changes=(1, 1, 2),
        kind=("ring",),
        full=0.8,
        pack=(2,),
        faults=(5, 12),
        relayed=0.0,
    ),
    # Records of packs fail. They are handled at the same time, or one after the other in groups.
    theme(
        changes=(0,),
        most_shards=1,
        kind=("ring", "ring", "ring", "outbox", "chain"),
        batch=0.0,
        concurrency=(1, 4, 4),
        ordered=1.0,
        failing=(2, 3),
        full=0.0,
        pack=(3,),
        keys=(5,),
        sizes=((4, LARGE_PACK),),
        prefetch=(3, 100, 100),
        faults=(2, 2, 5),
        slow=0.4,
    ),
    # Several hosts fire a schedule, and messages are given up soon.
    theme(hosts=(1,), schedulers=(2,), delivery_limit=(1, 2), faults=(5, 12)),
    # Several old rings have a backlog of few keys.
    theme(
        hosts=(1,),
        changes=(2, 2, 3),
        most_shards=2,
        differing=1.0,
        kind=("ring",),
        full=0.0,
        pack=(0,),
        ordered=1.0,
        block_on_dead=0.0,
        failing=(0, 3, 3),
        waiting_limit=(NO_LIMIT,),
        delays=(LATE,),
        keys=(1, 2),
        faults=(2, 5),
        slow=0.0,
        patient=0.1,
    ),
    # Rows of the outbox stay there: queues are full, and publishers give up soon.
    theme(
        hosts=(1,),
        kind=("outbox",),
        full=0.7,
        pack=(0, 2),
        relayed=1.0,
        keys=(2, 5),
        timeout=(0.5, 5.0),
        faults=(5, 12),
    ),
    # Full queues refuse packs of a transaction.
    theme(
        hosts=(1,),
        changes=(0, 0, 1),
        kind=("outbox",),
        full=1.0,
        slow=0.8,
        pack=(2,),
        relayed=0.0,
        keys=(1, 2),
        timeout=(0.5,),
        faults=(0, 2),
    ),
    # A stream has few keys, and its handlers meet outages.
    theme(kind=("stream",), ordered=1.0, keys=(1, 2), prefetch=(100,), faults=(5, 12)),
    # Several hosts share the shards.
    theme(hosts=(2, 3), faults=(2, 5, 12)),
)
THEME_SHARE = 0.45
QUIET_SHARE = 0.4  # of the seeds whose number of shards changes several times
MOST_SHARDS = 3

EXCHANGES = {"work": "work", "middle": "middle", "shard": "ring"}  # by queue

TICK = Schedule("tick", f"*/{TICK_SECONDS} * * * * *", "ticks", payload={"key": "tick", "n": 0})


class Numbered(Schema):
    """A record of the simulation."""

    key = fields.String(required=True)
    n = fields.Integer(strict=True, required=True)


class Choices:
    """The choices of a seed, which its theme can determine.

    Attributes:
        random: the random numbers of the seed.
        most_shards: how many shards there are at most.

    """

    def __init__(self, scheduler: Scheduler) -> None:
        """Choose a theme, or none."""
        self.random = scheduler.random
        themes = random.Random(f"theme of seed {scheduler.seed}")
        self._theme = themes.choice(THEMES) if themes.random() < THEME_SHARE else theme()
        self.most_shards = self._theme.get("most_shards", MOST_SHARDS)

    def pick(self, name: str, *options: Any) -> Any:
        """Return one of the options, or of those that the theme has for this name."""
        return self.random.choice(self._theme.get(name, options))

    def has(self, name: str, share: float) -> bool:
        """Return True in a share of the seeds, or in the share that the theme has for this name."""
        return self.random.random() < float(self._theme.get(name, share))

    def shards(self, changes: int) -> tuple[int, ...]:
        """Return the numbers of shards, before and after each change."""
        numbers, differ = list(range(1, self.most_shards + 1)), self.has("differing", 0.3)
        shards = [self.random.choice(numbers)]
        for _ in range(changes):
            shards.append(
                self.random.choice([each for each in numbers if each != shards[-1] or not differ])
            )
        # If the number becomes smaller, a consumer reads several old queues of one ring.
        return tuple(sorted(shards, reverse=True) if self.has("shrinking", 0.0) else shards)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a seed has chosen to happen.

    Attributes:
        kind: "ring" publishes to shards; "chain" to a queue whose handler publishes on to the
            shards; "stream" likewise, in slices while the handler runs; "once" likewise, with
            effects in the store; "outbox" to the shards, in transactions of the store.
        queues: the queues that a record passes, in their order. The handlers of all but the last
            one publish on to the next one.
        once_at_shards: whether the shards, too, have their effects in the store.
        shards: how many, before and after each apply.
        batch: whether handlers take batches.
        pack: records in a message at most, 0 for plain messages.
        fan: how many records a handler publishes on for each record.
        ordered: whether the queues keep the order of their keys also when a record is retried.
        block_on_dead: whether a dead letter blocks its key, until an operator requeues it.
        failing: one record in so many is refused at first, 0 for none.
        rejecting: one record in so many is rejected, 0 for none; with `block_on_dead`, only once.
        dropping: whether the operator drops some dead letters, and requeues only the others.
        unidentified: one record in so many is published without a message id, 0 for none; see
            without_id().
        delays: of its retries, in seconds.
        room: how many messages the queues of the shards accept, 0 without a limit.
        slow: whether handlers are so slow that messages wait in several generations.
        prefetch: of each queue.
        concurrency: how many records a process handles at the same time.
        asynchronous: whether the handlers are coroutines.
        processes: how many read each queue; the broker lets one of them be active.
        delivery_limit: how many crashes of a process that handles a message alone make the message
            a dead letter.
        hosts: how many share the shards; with several, the number of shards does not change.
        single_active: whether the broker lets one of several consumers read a queue, as feedbus
            declares queues with an order; otherwise a consumer reads it exclusively.
        schedulers: how many hosts fire the schedule, 0 where there is none.
        publishers: how many.
        keys: the keys of the records.
        timeout: the seconds for which a publisher tries again.
        threads: how many threads of a publisher share its bus, in transactions of the store.
        records: of each publisher.
        sizes: how many of them are published together; one of these.
        faults: how many at most.
        waiting_limit: of the queues.
        relayed: whether publishers add rows to the outbox themselves, and publish them with a relay
            of their own.
        patient: whether an apply ends only when the old queues are deleted. Otherwise the next one
            can begin while several generations have queues.
        quiet: whether publishers add no records while the number of shards changes.

    """

    kind: str
    queues: tuple[str, ...]
    once_at_shards: bool
    shards: tuple[int, ...]
    batch: bool
    pack: int
    fan: int
    ordered: bool
    block_on_dead: bool
    failing: int
    rejecting: int
    dropping: bool
    unidentified: int
    delays: tuple[float, ...]
    room: int
    slow: bool
    prefetch: int
    concurrency: int
    asynchronous: bool
    processes: int
    delivery_limit: int
    hosts: int
    single_active: bool
    schedulers: int
    publishers: int
    keys: str
    timeout: float
    threads: int
    relayed: bool
    records: int
    sizes: Sequence[int]
    faults: int
    waiting_limit: int
    patient: bool
    quiet: bool

    @property
    def stored(self) -> bool:
        """Whether there is a store."""
        return self.kind in {"once", "outbox"}

    @property
    def numbers_in_store(self) -> bool:
        """Whether the transactions of the publishers determine the numbers of their records."""
        return self.threads > 1 or self.relayed

    def rejects(self, record: Record) -> bool:
        """Whether the handlers reject a record."""
        return self.rejecting > 0 and (record.n * 5 + ord(record.key)) % self.rejecting == 0

    def without_id(self, record: Record) -> bool:
        """Whether a record that is published alone gets no message id from its publisher.

        On a queue with `once`, the effect of such a record can happen twice if its handler fails:
        see the page about messages. So no record is published so to a queue whose handlers fail.
        """
        numbered = self.unidentified > 0 and record.n % self.unidentified == 0
        return numbered and (self.kind != "once" or not (self.failing or self.rejecting))

    @property
    def exchange(self) -> str:
        """The exchange of the publishers."""
        return EXCHANGES[self.queues[0]]

    def next_exchange(self, queue: str) -> str | None:
        """Return the exchange to which the handler of a queue publishes, None for the shards."""
        later = self.queues[self.queues.index(queue) + 1 :]
        return EXCHANGES[later[0]] if later else None

    def is_once(self, queue: str) -> bool:
        """Whether the effects of a queue are in the store."""
        if queue == "ticks":
            return self.stored
        return self.once_at_shards if queue == "shard" else self.kind == "once"

    @property
    def full(self) -> bool:
        """Whether the queues of the shards can be full."""
        return self.room > 0

    @property
    def seconds(self) -> tuple[float, ...]:
        """How long a handler can take for a record."""
        return SLOW if self.slow else QUICK

    @property
    def growth(self) -> int:
        """How many records the shards get for one that is published."""
        return self.fan ** (len(self.queues) - 1)

    def caused(self, record: Record) -> list[Record]:
        """Return the records that a handler publishes on for a record."""
        return [Record(record.key, record.n * self.fan + part) for part in range(self.fan)]

    @classmethod
    def of(cls, scheduler: Scheduler) -> Scenario:
        """Choose."""
        chosen = Choices(scheduler)
        pick, has = chosen.pick, chosen.has
        hosts = pick("hosts", 1, 1, 1, 1, 1, 2, 3)
        changes = pick("changes", 0, 0, 1, 1, 2, 3) if hosts == 1 else 0
        kind = pick("kind", "ring", "ring", "chain", "once", "once", "outbox", "outbox", "stream")
        full = kind != "stream" and has("full", 0.5 if kind == "outbox" else 0.3)
        failing = 0 if full else pick("failing", *((3, 3, 7) if kind == "stream" else (0, 3, 7)))
        ordered = has("ordered", 0.8 if kind == "stream" else 0.7 if changes > 1 else 0.5)
        block_on_dead = ordered and has("block_on_dead", 0.3)
        shards = chosen.shards(changes)
        batch = has("batch", 0.5)
        single_active = hosts > 1 or has("single_active", 0.5)
        stages = chosen.random.choice(STAGES[kind])
        fan = chosen.random.choice(FANS[stages])
        growth = fan**stages if kind != "stream" else 1
        once_at_shards = kind in {"once", "outbox"} and has("once_at_shards", 0.4)
        keys = KEYS[: pick("keys", 5, 5, 5, 2)]
        relayed = kind == "outbox" and has("relayed", 0.3)
        return cls(
            kind=kind,
            queues=(*("work", "middle")[:stages], "shard"),
            once_at_shards=once_at_shards,
            shards=shards,
            batch=batch,
            pack=pick("pack", 0, 0, 0, 2, 5, 5),
            fan=fan,
            ordered=ordered,
            block_on_dead=block_on_dead,
            failing=failing,
            rejecting=pick("rejecting", *((0, 4, 9) if block_on_dead else (0, 0, 0, 4, 9))),
            dropping=random.Random(f"drops of seed {scheduler.seed}").random() < 0.5,
            unidentified=random.Random(f"ids of seed {scheduler.seed}").choice((0, 0, 0, 2)),
            delays=pick("delays", SOON, LATE)
            if (failing > 3 or changes > 1) and kind != "stream"
            else SOON,
            room=pick("room", 1, 3) if full else 0,
            slow=has("slow", 0.5 if changes > 1 or full else 0.1),
            prefetch=pick("prefetch", 1, 3, 100),
            concurrency=1 if batch else pick("concurrency", 1, 1, 2, 4),
            # A handler in a transaction is not async, and an async one has no pauses.
            asynchronous=kind not in {"once", "stream"}
            and not once_at_shards
            and has("asynchronous", 0.3),
            processes=pick("processes", 1, 2) if single_active and hosts == 1 else 1,
            delivery_limit=pick("delivery_limit", 1, 2, MOST_CRASHES, MOST_CRASHES),
            hosts=hosts,
            single_active=single_active,
            schedulers=pick("schedulers", 0, 0, 0, 0, 1, 2, 2),
            publishers=min(pick("publishers", 1, 2), len(keys)),
            keys=keys,
            timeout=pick("timeout", 5.0, 5.0, 5.0, 0.5),
            threads=pick("threads", 1, 2) if kind == "outbox" and not relayed else 1,
            relayed=relayed,
            records=max(chosen.random.randint(5, 14) * MORE_RECORDS.get(kind, 1) // growth, 3),
            sizes=pick("sizes", SIZES),
            faults=pick("faults", 0, 2, 5, 12),
            # During a change of shards, a requeued dead letter can stay behind the backlog of a
            # consumer that holds: see docs/reliability.md.
            waiting_limit=max(
                pick("waiting_limit", 1, 3, NO_LIMIT, NO_LIMIT),
                NO_LIMIT if block_on_dead and changes else 0,
            ),
            patient=has("patient", 0.4),
            quiet=changes > 1
            and random.Random(f"quiet of seed {scheduler.seed}").random() < QUIET_SHARE,
        )


def topology_of(scenario: Scenario, shards: int, folder: Path) -> Topology:
    """Return the topology of a scenario with so many shards."""
    # A full queue can refuse what a handler publishes for a long time.
    retry = RetryPolicy(scenario.delays, "repeat" if scenario.full else "dead-letter")
    pack = scenario.pack
    batch = Batch(BATCH_RECORDS, 0.01) if scenario.batch else Batch()
    common: dict[str, Any] = {
        "handler": "tests:none",
        "retry": retry,
        "batch": batch,
        "prefetch": max(scenario.prefetch, scenario.concurrency),
        "concurrency": scenario.concurrency,
        "single_active_consumer": scenario.single_active,
        "order_by": scenario.ordered,
        "block_on_dead": scenario.block_on_dead,
        "waiting_limit": scenario.waiting_limit,
        "processes": scenario.processes,
        "delivery_limit": scenario.delivery_limit,
    }
    once = scenario.once_at_shards
    shard = Queue(
        "shard", "ring", shards=shards, weights=(1,) * shards, once=once, store=once, **common
    )
    if scenario.full:
        shard = replace(shard, max_length=scenario.room, overflow="reject-publish")
    queues = [shard]
    stream = scenario.kind == "stream"
    for name in scenario.queues[:-1]:
        once = scenario.is_once(name)
        queues.append(
            Queue(name, name, routing_keys=("",), once=once, store=once, stream=stream, **common)
        )
    if scenario.schedulers:
        once = scenario.is_once("ticks")
        queues.append(
            Queue("ticks", "ticks", "tests:none", ("",), retry=retry, once=once, store=once)
        )
    return Topology(
        name="simulated",
        path=folder / "topology.toml",
        broker_url=BrokerUrl.in_memory(BROKER),
        store=StoreOptions(adapter="tests:none") if scenario.stored else None,
        exchanges={
            "work": Exchange("work", "fanout", LARGE_PACK if stream else pack),
            "middle": Exchange("middle", "fanout", pack),
            "ring": Exchange("ring", "x-consistent-hash", pack),
            "ticks": Exchange("ticks", "fanout", 0),
        },
        schedules={"tick": TICK} if scenario.schedulers else {},
        queues={queue.name: queue for queue in queues},
        var=folder,
    )


def payload(record: Record) -> dict[str, Any]:
    """Return the fields of a record."""
    return {"key": record.key, "n": record.n}


def records_of(body: bytes, content_type: str) -> list[Record]:
    """Return the records of a message."""
    if content_type == PACK:
        pack = decode(body, content_type, "", "")
        payloads = [pack.payload(row) for row in range(len(pack))]
    else:
        payloads = [json.loads(body)]
    return [Record(each["key"], each["n"]) for each in payloads]
