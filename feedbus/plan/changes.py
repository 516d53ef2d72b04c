"""The content of a plan: changes with their reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from feedbus.broker.interface import SeenBinding

Action = Literal["create", "change", "delete", "dangerous"]
Kind = Literal["exchange", "queue", "binding", "ring", "schedule", "consumer", "process"]

# Reasons of changes that create auxiliary queues.
RETRIES = "retries wait there"
DEAD_LETTERS = "dead letters"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a plan; `feedbus apply` refuses a plan with a dangerous change.

    The deletion of a queue with messages is dangerous if no consumer empties the queue. If
    --delete-nonempty names the queue, the action is "delete" instead. The deletion of a queue from
    which another program consumes is always dangerous. The same is true for a ring whose last queue
    was removed, if its exchange stays: no consumer would empty its old queues.

    `feedbus plan` prints the changes.

    Attributes:
        action: "create", "change" or "delete"; or "dangerous" for a deletion that loses messages or
            takes the queue from another program, and for a ring that loses all its queues.
        kind: the kind of the object, such as "queue".
        name: the name of the object.
        reason: why the plan changes the object.
        messages: the number of messages in the queue; 0 for other objects.

    """

    action: Action
    kind: Kind
    name: str
    reason: str
    messages: int = 0


@dataclass(frozen=True, slots=True)
class Evenness:
    """How evenly keys are predicted to spread over the shards of a ring; part of a RingChange.

    Attributes:
        shards: the number of shards.
        max_over_share: the predicted number of keys of the busiest shard, divided by the number
            that this shard should have by its weight.

    """

    shards: int
    max_over_share: float


@dataclass(frozen=True, slots=True)
class Wait:
    """An old shard with messages, for a plan that changes a ring.

    Later records of the shard's keys wait until the shard's queue is empty.

    Attributes:
        shard: the name of the consumer of the old shard.
        generation: the digest of the shard's generation.
        messages: the number of messages in its queue that are ready: no process has received them.
        unacknowledged: the number of messages in its queue that processes have received, and have
            not acknowledged.
        moved_to: the other shards that get keys of this shard; the shard that gets the most keys
            comes first.
        consumers: the number of processes that read the queue.
        per_second: the number of messages of the shard that this host has handled per second while
            the plan was made; None if it has handled none, or if no process reads the queue.
        seconds: the time until all these messages are handled, if this rate does not change; None
            if the rate is not known.

    """

    shard: str
    generation: str
    messages: int
    unacknowledged: int
    moved_to: tuple[str, ...]
    consumers: int = 0
    per_second: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class HotKey:
    """A key of a sample that has more records than an average shard of the new ring.

    Attributes:
        key: the routing key.
        share: the share of the key in all records of the sample.
        shard_share: the share of an average shard: one divided by the number of shards.

    """

    key: str
    share: float
    shard_share: float


@dataclass(frozen=True, slots=True)
class RingChange:
    """A hash exchange that gets a new generation, with the consequences; a part of a Plan.

    Attributes:
        exchange: the name of the exchange in topology.toml.
        old: the digest of the current generation; None if there is none yet.
        new: the digest of the next generation; the same as `old` if only an interrupted switch is
            completed.
        reason: why the ring changes, such as another number of shards.
        moved_share: the share of all keys that another shard will handle. It is None if there is no
            current generation, if `new` is the same as `old`, or if no prediction was requested.
        before: the spread over the old shards; None in the same cases as `moved_share`, and if
            there are no old shards.
        after: the spread over the new shards; None if there are none, if `new` is the same as
            `old`, or if no prediction was requested.
        backlog_messages: the number of messages that are ready in the queues of the current
            generation and of the earlier generations that are not deleted yet; 0 if `new` is the
            same as `old`.
        unacknowledged_messages: the number of messages in these queues that processes have
            received, and have not acknowledged; 0 if `new` is the same as `old`.
        drain_seconds: the time until these ready and unacknowledged messages are handled, if no
            rate changes. It is None if there are no messages, if the rate of a shard is not known,
            or if no prediction was requested.
        measured_seconds: for how long the rates were measured; None if they were not measured.
        waits: the old shards that have messages; the shard with the most messages comes first.
        waits_for_all: whether the records of every key wait until all old shards are empty, and not
            only the old shard of the key. The reason is that the ring does not hash routing keys,
            or that a queue of the exchange has no `order_by` or has `block_on_dead`.
        hot_key: the key of a sample that is too busy for one shard; None if there is none, or if no
            sample was given.

    """

    exchange: str
    old: str | None
    new: str
    reason: str
    moved_share: float | None = None
    before: Evenness | None = None
    after: Evenness | None = None
    backlog_messages: int = 0
    unacknowledged_messages: int = 0
    drain_seconds: float | None = None
    measured_seconds: float | None = None
    waits: tuple[Wait, ...] = ()
    waits_for_all: bool = False
    hot_key: HotKey | None = None

    @property
    def action(self) -> Action:
        """The action: "create" for the first ring of an exchange, otherwise "change"."""
        return "create" if self.old is None else "change"


@dataclass(frozen=True, slots=True)
class Draining:
    """An old generation whose queues are not all deleted yet; a part of a Plan.

    Attributes:
        exchange: the name of the exchange in topology.toml.
        digest: the digest of the generation.
        messages: the number of messages that are ready in its queues.
        unacknowledged: the number of messages in its queues that processes have received, and have
            not acknowledged.

    """

    exchange: str
    digest: str
    messages: int
    unacknowledged: int = 0


@dataclass(frozen=True, slots=True)
class Watchers:
    """The differences between the watchers of the supervisor and of the topology.

    A watcher is the supervisor's object for the processes of one consumer or of one other process
    of the topology. Its name is the name of the consumer or process.

    Attributes:
        supervisor_pid: the supervisor's process id.
        added: names that are in the topology, and not in the supervisor.
        restarted: maps the name of each watcher that runs with other settings to the reason of its
            restart.
        removed: names that are no longer in the topology.
        kept: names that run as the topology declares them.
        started: maps the name of each watcher that is started again to the reason: it is stopped,
            it has given up after too many failed starts, or it runs too few or too many processes.
        schedules: the names of schedules that run with other options. All schedules belong to the
            watcher of the operations process.
        reloads: whether the supervisor applies changes of files without a command.

    """

    supervisor_pid: int
    added: tuple[str, ...] = ()
    restarted: Mapping[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    started: Mapping[str, str] = field(default_factory=dict)
    schedules: tuple[str, ...] = ()
    reloads: bool = False


@dataclass(frozen=True, slots=True)
class ObjectsToChange:
    """The names of the objects on the broker that `feedbus apply` changes; a part of a Plan.

    Attributes:
        exchanges: the exchanges to declare again.
        replaced: consumers whose queue is declared again, without a loss of messages.
        retry_queues: the retry queues to be declared again, as (queue in topology.toml, retry
            queue on the broker).
        bindings_to_remove: the bindings of queues to be removed, as (queue on the broker, exchange
            on the broker, binding key).
        timer_bindings_to_remove: the bindings of the timer's exchanges to be removed. The timer is
            the set of exchanges and queues that keep delayed messages.
        queues_to_empty: the queues of deleted_queues that a consumer reads, and the retry queues of
            such queues. `feedbus apply` waits until such a queue is empty before it deletes the
            queue, unless the queue is in `nonempty`.
        deleted_queues: queues to be deleted.
        used_by_others: the queues of deleted_queues from which other programs consume.
        nonempty: the queues of deleted_queues that are deleted with their messages, including the
            empty queues that --delete-nonempty names.
        deleted_exchanges: exchanges to be deleted; the entries of hash exchanges come first.

    """

    exchanges: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    retry_queues: tuple[tuple[str, str], ...] = ()
    bindings_to_remove: tuple[tuple[str, str, str], ...] = ()
    timer_bindings_to_remove: tuple[SeenBinding, ...] = ()
    queues_to_empty: tuple[str, ...] = ()
    deleted_queues: tuple[str, ...] = ()
    used_by_others: tuple[str, ...] = ()
    nonempty: tuple[str, ...] = ()
    deleted_exchanges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The differences between a topology, its broker and its supervisor.

    `feedbus plan` prints it, and `feedbus apply` carries it out.

    Attributes:
        changes: the changes of single objects, consumers and processes.
        rings: the hash exchanges that get a new generation.
        draining: the old generations that are not deleted yet.
        watchers: the differences of the watchers; None if no supervisor runs.
        notes: further sentences for the operator.
        unacknowledged_age_seconds: the largest age of the numbers of unacknowledged messages, which
            RabbitMQ reports late. It is 0 if these numbers are as new as the other numbers.
        work: the names of the objects that `feedbus apply` changes.

    """

    changes: tuple[Change, ...] = ()
    rings: tuple[RingChange, ...] = ()
    draining: tuple[Draining, ...] = ()
    watchers: Watchers | None = None
    notes: tuple[str, ...] = ()
    unacknowledged_age_seconds: float = 0.0
    work: ObjectsToChange = ObjectsToChange()

    @property
    def empty(self) -> bool:
        """Whether `feedbus apply` would change nothing."""
        return not self.changes and not self.rings

    @property
    def dangers(self) -> tuple[Change, ...]:
        """The dangerous changes, because of which `feedbus apply` refuses the plan."""
        return tuple(change for change in self.changes if change.action == "dangerous")

    def counts(self) -> dict[str, int]:
        """Count the changes, including the changes of rings, by action.

        The result maps "create", "change", "delete" and "dangerous" to a number, which can be 0.
        """
        counts: dict[str, int] = dict.fromkeys(("create", "change", "delete", "dangerous"), 0)
        for action in (*(one.action for one in self.changes), *(one.action for one in self.rings)):
            counts[action] += 1
        return counts

    def report(self) -> dict[str, Any]:
        """Return the plan as `feedbus plan --json` prints it.

        The result contains only values that JSON can represent.
        """
        watchers = self.watchers
        return {
            "changes": [asdict(change) for change in self.changes],
            "rings": [{"action": ring.action, **asdict(ring)} for ring in self.rings],
            "draining": [asdict(one) for one in self.draining],
            "consumers": None
            if watchers is None
            else {
                "supervisor": watchers.supervisor_pid,
                "add": list(watchers.added),
                "restart": dict(watchers.restarted),
                "start": dict(watchers.started),
                "remove": list(watchers.removed),
                "untouched": list(watchers.kept),
            },
            "notes": list(self.notes),
            "unacknowledged_age_seconds": self.unacknowledged_age_seconds,
            "counts": self.counts(),
        }
