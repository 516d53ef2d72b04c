"""What was published and what came of it, and the checker that reads both."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

LOCK_POLL = 100_000_000  # nanoseconds between two requests for a lock


@dataclass(frozen=True, slots=True)
class Record:
    """One record: the number n of its key."""

    key: str
    n: int

    def __str__(self) -> str:
        """Return key and number."""
        return f"{self.key}{self.n}"


NOTHING: Mapping[Record, int] = MappingProxyType({})
ONE_ID: Mapping[Record, Collection[str]] = MappingProxyType({})  # each record has one


@dataclass(slots=True)
class History:
    """What publishers were promised, and the effects of each queue in their order.

    Attributes:
        accepted: records that the broker or the store confirmed to their publisher.
        tried: records that a publisher has begun to publish.
        ids: the ids under which each record was published.
        effects: by queue.
        handled_by: by queue and key, the consumers.
        failed: records that a handler has refused once at least, by queue.
        unblocked: records that later records of their keys can overtake, by queue: those of whole
            packs that were requeued as dead letters, because such a dead letter blocks no key, and
            those whose keys were released to drop their dead letters.
        dropped: records of dead letters that were dropped, by queue.
        refused: how often a handler has refused each record of a queue.
        rejected: how often a handler has rejected each record of a queue.
        refused_at: by queue, record and attempt, when a handler has first refused the record.
        early: faults of records that were retried before their delay was over.
        late: records that a relay can publish after later ones, because their publisher does not
            know whether they are committed.
        forgotten: faults of schedules whose last fired moment was lost.
        blamed: by queue and message id, how often a process ended, or stood still, while this was
            the only message in its handler.
        crashes: by the name of a process and the message id, how often the process was killed while
            this was the only message in its handler. It is forgotten when the message is settled.
        kept: faults of messages that a handler gets although they have ended too many processes.
        fired: the moments of the schedule that a host has begun to record as fired.
        began_after: the moment that a host stored first, because the schedule was new. It is not
            fired; None before that.
        locked: from when to when the lock of the topology was held, but not by a scheduler.
        running: the process, queue and key of each record that is in a handler.
        together: how many records began while another ran in their process.
        at_once: faults of records that ran together although they have one key.
        record_of: by queue and message id, the record that a handler has got under this id.
        shared_ids: faults of different records that have one message id.
        confirmed_rows: by process, the rows of the outbox that it published itself, and whose
            confirms it knows.
        republished: faults of such rows that their process published again.
        most_waiting: the largest number of records that waited in a consumer for their next
            attempts, or for earlier records of their keys.
        lost_messages: faults of messages that feedbus takes for sent, and that the broker has not
            accepted.

    """

    accepted: list[Record] = field(default_factory=list)
    tried: list[Record] = field(default_factory=list)
    ids: defaultdict[Record, set[str]] = field(default_factory=lambda: defaultdict(set))
    effects: defaultdict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    handled_by: defaultdict[tuple[str, str], set[str]] = field(
        default_factory=lambda: defaultdict(set)
    )
    failed: defaultdict[str, set[Record]] = field(default_factory=lambda: defaultdict(set))
    unblocked: defaultdict[str, set[Record]] = field(default_factory=lambda: defaultdict(set))
    dropped: defaultdict[str, set[Record]] = field(default_factory=lambda: defaultdict(set))
    refused: Counter[tuple[str, Record]] = field(default_factory=Counter)
    rejected: Counter[tuple[str, Record]] = field(default_factory=Counter)
    refused_at: dict[tuple[str, Record, int], float] = field(default_factory=dict)
    early: list[str] = field(default_factory=list)
    late: set[Record] = field(default_factory=set)
    forgotten: list[str] = field(default_factory=list)
    blamed: Counter[tuple[str, str]] = field(default_factory=Counter)
    crashes: Counter[tuple[str, str]] = field(default_factory=Counter)
    kept: list[str] = field(default_factory=list)
    fired: list[Record] = field(default_factory=list)
    began_after: int | None = None
    locked: list[tuple[int, int]] = field(default_factory=list)
    running: list[tuple[object, str, str]] = field(default_factory=list)
    together: int = 0
    at_once: list[str] = field(default_factory=list)
    record_of: dict[tuple[str, str], Record] = field(default_factory=dict)
    shared_ids: list[str] = field(default_factory=list)
    confirmed_rows: set[tuple[object, int]] = field(default_factory=set)
    republished: list[str] = field(default_factory=list)
    most_waiting: int = 0
    lost_messages: list[str] = field(default_factory=list)

    def note_id(self, queue: str, message_id: str, record: Record) -> None:
        """Note the message id of a record that a handler has got."""
        known = self.record_of.setdefault((queue, message_id), record)
        if known != record:
            self.shared_ids.append(f"{queue}: {known} and {record} have the id {message_id}")

    def note_published_row(self, process: object, row: int) -> None:
        """Note that a process publishes a row of the outbox."""
        if (process, row) in self.confirmed_rows:
            self.republished.append(f"outbox: the confirmed row {row} was published again")

    def note_lock(self, begin: int, end: int) -> None:
        """Note from when to when the lock of the topology was held.

        Two processes can hold it without a pause in which a scheduler would ask for it.
        """
        if self.locked and begin < self.locked[-1][1] + LOCK_POLL:
            begin, _ = self.locked.pop()
        self.locked.append((begin, end))


def missing(queue: str, expected: Iterable[Record], effects: Sequence[Record]) -> list[str]:
    """Return a fault for each record that was accepted and had no effect."""
    had = set(effects)
    return [
        f"{queue}: {record} was accepted and is lost" for record in expected if record not in had
    ]


def invented(queue: str, tried: Iterable[Record], effects: Sequence[Record]) -> list[str]:
    """Return a fault for each effect of a record that was not published."""
    known = set(tried)
    return [f"{queue}: {record} was never published" for record in effects if record not in known]


def repeated(
    queue: str, effects: Sequence[Record], ids: Mapping[Record, Collection[str]] = ONE_ID
) -> list[str]:
    """Return a fault for each record that had more effects than ids.

    Args:
        queue: the queue.
        effects: in any order.
        ids: the ids of each record; missing records have one, too.

    """
    return [
        f"{queue}: {record} had its effect {count} times"
        for record, count in Counter(effects).items()
        if count > len(ids.get(record, ("",)))
    ]


def disordered(
    queue: str,
    effects: Sequence[Record],
    free: Iterable[Record] = (),
    overtakers: Mapping[Record, int] = NOTHING,
) -> list[str]:
    """Return a fault for each record whose first effect came after that of a later one of its key.

    Args:
        queue: the queue.
        effects: in their order.
        free: records that may come later, since their queue does not keep the order of retries.
        overtakers: by record, the number of the last record of its key that may come before it.

    """
    faults, latest, unbound = [], dict[str, int](), set(free)
    for record in dict.fromkeys(effects):
        if record in unbound:
            continue
        if record.n < latest.get(record.key, 0) > overtakers.get(record, 0):
            faults.append(f"{queue}: {record} came after {record.key}{latest[record.key]}")
        latest[record.key] = max(record.n, latest.get(record.key, 0))
    return faults


def mistimed(ticks: Sequence[Record], now: int, seconds: int) -> list[str]:
    """Return a fault for each tick whose moment is no moment of the schedule, or is not over.

    Args:
        ticks: what had an effect.
        now: the time at the end.
        seconds: between two moments.

    """
    return [
        f"ticks: {tick} is no moment of the schedule"
        for tick in ticks
        if tick.n % seconds or tick.n > now
    ]


def gaps(ticks: Sequence[Record], moments: Iterable[int]) -> list[str]:
    """Return a fault for each moment that was not fired."""
    fired = {tick.n for tick in ticks}
    return [f"ticks: {moment} was not fired" for moment in moments if moment not in fired]


def wandering(queue: str, handled_by: Mapping[tuple[str, str], set[str]]) -> list[str]:
    """Return a fault for each key that several shards of one ring have handled."""
    return [
        f"{queue}: key {key} was handled by {' and '.join(sorted(consumers))}"
        for (name, key), consumers in handled_by.items()
        if name == queue and len(consumers) > 1
    ]
