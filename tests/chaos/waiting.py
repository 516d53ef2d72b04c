"""A model of retries in order, with few enough states to try all.

One key, whose numbered records come to the queue of one shard; each fails a given number of times.
The consumer handles them as feedbus does: a failed record and the later ones are put into the
waiting queue before they are acknowledged. It has only what it has received, and while its buffer
is full it receives nothing. It may be killed between any two steps. At some moment the ring is
switched: later records go to another queue with its own waiting queue. The consumer of that queue
begins when the first queue is deleted.

Another key may have one record, which waits from the beginning. It can have the place of a record
of the first key, since it may have waited beside another queue, and can run in one batch with it.

Left out: how one consumer at a time reads a waiting queue: the broker sees to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tests.chaos.exploring import explore_from

FENCE = 0
NOBODY = ""
READY = "ready"
OTHER = 99  # the record of the other key
ROOM = 1  # so many messages of the queue fill the buffer

Waiting = tuple[int, int, int]  # place, number, attempt
Pair = tuple[tuple[Any, ...], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class World:
    """The state of a model.

    Attributes:
        left: how many records are not published yet.
        failures: for each record, how often it will still fail.
        queues: the queues of the two shards, with numbers; None if deleted.
        waiting: the two waiting queues.
        switched: whether publishing goes to the second queue.
        redelivered: records that were delivered to a consumer that was killed.
        doing: the current step of the consumer; "" while there is none.
        held: how many messages of its queue the consumer has received and not acknowledged.
        arrived: the messages of its waiting queue that it has received.
        line: the waiting records that it knows, in order.
        read: the records that waited when it began.
        done: the highest number with an effect.
        other: how often the record of the other key will still fail; -1 after its effect.
        deaths: the number of consumers that may still be killed.
        fault: the error that was found.

    """

    left: int
    failures: tuple[int, ...]
    queues: tuple[tuple[int, ...] | None, tuple[int, ...] | None] = ((), ())
    waiting: tuple[tuple[Waiting, ...], tuple[Waiting, ...]] = ((), ())
    switched: bool = False
    redelivered: frozenset[int] = frozenset()
    doing: str = NOBODY
    held: int = 0
    arrived: frozenset[Waiting] = frozenset()
    line: tuple[Waiting, ...] = ()
    read: frozenset[int] = frozenset()
    done: int = 0
    other: int = -1
    deaths: int = 1
    fault: str = ""

    @property
    def at(self) -> int:
        """The generation that is read now."""
        return 1 if self.queues[0] is None else 0

    @property
    def at_fence(self) -> bool:
        """Whether the next message of the consumer is the fence."""
        return self.held > 0 and (self.queues[self.at] or ())[:1] == (FENCE,)

    @property
    def blocked(self) -> bool:
        """Whether a record of the first key waits."""
        return any(number != OTHER for _, number, _ in self.line)

    @property
    def due(self) -> tuple[Waiting, ...]:
        """The first record that waits of each key, if its message was received."""
        heads = {each[1] == OTHER: each for each in reversed(self.line)}
        return tuple(each for each in heads.values() if each in self.arrived)

    def fails(self, number: int) -> bool:
        """Whether a record fails now."""
        return (self.other if number == OTHER else self.failures[number - 1]) > 0


@dataclass(frozen=True, slots=True)
class Retries:
    """The protocol, or one that lacks what is named in without.

    Attributes:
        without: the parts that it lacks.
        movable: whether waiting records can be sent to the next ring. If that ring places records
            by a header, the waiting records must be handled before the queue ends.

    """

    without: frozenset[str] = field(default_factory=frozenset)
    movable: bool = True

    def next(self, world: World) -> Iterator[World]:
        """Yield every state that can follow."""
        if world.left:
            number = len(world.failures) - world.left + 1
            yield put(replace(world, left=world.left - 1), int(world.switched), number)
        if not world.switched:
            yield put(replace(world, switched=True), 0, FENCE)
        if world.doing == NOBODY:
            yield self._begin(world)
            return
        if world.deaths:
            known = frozenset((world.queues[world.at] or ())[: world.held])
            yield replace(
                world,
                doing=NOBODY,
                deaths=world.deaths - 1,
                redelivered=world.redelivered | known,
                held=0,
                arrived=frozenset(),
                line=(),
                read=frozenset(),
            )
        yield from self._go_on(world)

    def _begin(self, world: World) -> World:
        """Read all waiting records; of two messages of a record, the later attempt counts."""
        if "reading first" in self.without:
            return replace(world, doing=READY)
        found: dict[tuple[int, int], Waiting] = {}
        for each in world.waiting[world.at]:
            place, number, attempt = each
            mark = (place, number) if "places" not in self.without else (len(found), number)
            if mark not in found or found[mark][2] < attempt:
                found[mark] = each
        line = tuple(sorted(found.values()))
        read = frozenset(each[1] for each in line)
        arrived = frozenset(world.waiting[world.at])
        return replace(world, doing=READY, line=line, arrived=arrived, read=read)

    def _go_on(self, world: World) -> Iterator[World]:
        kind, _, rest = world.doing.partition(" ")
        if kind == "acknowledge":
            yield take(replace(world, doing=READY), int(rest))
        elif kind == "settle":
            yield self._settle(replace(world, doing=READY), *map(decoded, rest.split()))
        elif kind == "empty":
            yield self._empty(world)
        elif kind == "publish":
            yield self._publish(world, *map(int, rest.split()))
        else:
            may_run = not world.at_fence or "running at the fence" not in self.without
            if may_run and world.due:
                yield self._run_waiting(world, world.due)
                yield from (self._run_waiting(world, (each,)) for each in world.due)
            queue = world.queues[world.at]
            if queue and world.held:
                yield self._handle(world, queue[0])
            at_fence = world.at_fence and "receiving at the fence" not in self.without
            if world.held < ROOM or at_fence:
                yield from self._receive(world)

    def _empty(self, world: World) -> World:
        """Acknowledge one of the moved messages, the last one first."""
        left = sorted(world.waiting[0])
        if left:
            left.pop(-1 if "emptying from the end" not in self.without else 0)
            return replace(world, waiting=(tuple(left), world.waiting[1]))
        return replace(world, line=(), arrived=frozenset(), doing=READY)

    def _receive(self, world: World) -> Iterator[World]:
        """Receive the next message of the queue, or of the waiting queue."""
        if world.held < min(ROOM, len(world.queues[world.at] or ())):
            yield replace(world, held=world.held + 1)
        new = [each for each in world.waiting[world.at] if each not in world.arrived]
        if new:
            # It did not know of this one only where it has not read first.
            line = world.line if new[0] in world.line else tuple(sorted((*world.line, new[0])))
            yield replace(world, arrived=world.arrived | {new[0]}, line=line)

    def _handle(self, world: World, number: int) -> World:
        if number == FENCE:
            return self._pass_fence(world)
        repeated = number in world.redelivered and number in world.read
        if repeated:
            return take(world, number)
        if world.blocked and "blocking" not in self.without:
            return self._wait(world, number, 0)
        if world.fails(number):
            return self._wait(fail(world, number), number, 1)
        return replace(effect(world, number), doing=f"acknowledge {number}")

    def _wait(self, world: World, number: int, attempt: int) -> World:
        """Send a record to the waiting queue, and acknowledge its first message."""
        place = max((each[0] for each in world.line), default=0) + 1
        if "publishing first" in self.without:
            return replace(take(world, number), doing=f"publish {place} {number} {attempt}")
        sent = self._publish(world, place, number, attempt)
        return replace(sent, doing=f"acknowledge {number}")

    def _publish(self, world: World, place: int, number: int, attempt: int) -> World:
        message = (place, number, attempt)
        line = tuple(sorted((*world.line, message)))
        return replace(wait(world, world.at, message), line=line, doing=READY)

    def _run_waiting(self, world: World, batch: tuple[Waiting, ...]) -> World:
        """Run records of different keys: those behind them follow. What fails is sent anew."""
        failed = []
        for place, number, attempt in batch:
            if not world.fails(number):
                world = effect(world, number)
                continue
            last = max(each[0] for each in world.line)
            kept = place if "keeping places" not in self.without else last + 1
            again = (kept, number, attempt + 1)
            line = tuple(sorted({*world.line, again} - {(place, number, attempt)}))
            world = replace(wait(fail(world, number), world.at, again), line=line)
            failed.append((place, number, attempt))
        return replace(world, doing=f"settle {encoded(batch)} {encoded(failed)}")

    def _settle(
        self, world: World, batch: tuple[Waiting, ...], failed: tuple[Waiting, ...]
    ) -> World:
        """Acknowledge the messages of a batch; records that did not fail no longer wait."""
        apart = "distinguishing queues" not in self.without
        marks = [each if apart else each[0] for each in failed]
        line = list(world.line)
        for record in batch:
            mark = record if apart else record[0]
            if mark in marks:
                marks.remove(mark)
            else:
                line = [each for each in line if each[:2] != record[:2]]
        left = tuple(each for each in world.waiting[world.at] if not replaced(each, batch))
        return replace(
            world,
            waiting=pair(world.waiting, world.at, left),
            arrived=world.arrived.intersection(left),
            line=tuple(line),
        )

    def _pass_fence(self, world: World) -> World:
        """End the queue; before that, the waiting records were received and moved."""
        if world.line and "moving" not in self.without:
            if not self.movable or not world.arrived.issuperset(world.line):
                return world
            moved = replace(world, waiting=(world.waiting[0], (*world.waiting[1], *world.line)))
            return replace(moved, doing="empty")
        gone = replace(world, queues=(None, world.queues[1]), doing=NOBODY, redelivered=frozenset())
        gone = replace(gone, held=0, arrived=frozenset())
        if world.waiting[0]:
            return replace(gone, fault=f"{world.waiting[0]} wait in a queue that is gone")
        return replace(gone, line=(), read=frozenset())


def pair(both: Pair, at: int, changed: tuple[Any, ...]) -> Any:
    """Return a pair with one of its values changed."""
    return (changed, both[1]) if at == 0 else (both[0], changed)


def put(world: World, at: int, number: int) -> World:
    """Put a record into a queue."""
    queues: Any = world.queues
    return replace(world, queues=pair(queues, at, (*queues[at], number)))


def take(world: World, number: int) -> World:
    """Acknowledge the first record of the queue."""
    queue = world.queues[world.at]
    assert queue, number
    queues: Any = world.queues
    return replace(world, queues=pair(queues, world.at, queue[1:]), held=world.held - 1)


def wait(world: World, at: int, message: Waiting) -> World:
    """Put a message into a waiting queue."""
    return replace(world, waiting=pair(world.waiting, at, (*world.waiting[at], message)))


def encoded(records: Iterable[Waiting]) -> str:
    """Write records as one word."""
    return ";".join(",".join(map(str, each)) for each in records) or "-"


def decoded(word: str) -> Any:
    """Read what encoded() has written."""
    return tuple(tuple(map(int, each.split(","))) for each in word.split(";") if each != "-")


def replaced(message: Waiting, batch: tuple[Waiting, ...]) -> bool:
    """Whether a message is one of a batch, or one that was known to stand for the same record."""
    return any(message[:2] == each[:2] and message[2] <= each[2] for each in batch)


def fail(world: World, number: int) -> World:
    """Let a record fail once."""
    if number == OTHER:
        return replace(world, other=world.other - 1)
    failures = list(world.failures)
    failures[number - 1] -= 1
    return replace(world, failures=tuple(failures))


def effect(world: World, number: int) -> World:
    """Let a record have its effect; a repeat has none."""
    if number == OTHER:
        return replace(world, other=-1)
    fault = f"{number} after {world.done}" if number > world.done + 1 else world.fault
    return replace(world, done=max(world.done, number), fault=fault)


def explore(start: World, retries: Retries) -> tuple[int, str]:
    """Explore all states from a start; return their number and the first fault, if any."""
    return explore_from(start, retries.next, _unfinished)


def _unfinished(world: World) -> str:
    """Return the errors of a state in which nothing more can happen."""
    faults = {
        f"{world.done} of {len(world.failures)} had their effect": world.done
        != len(world.failures),
        f"left: {world.queues}": world.queues != (None, ()),
        f"wait: {world.waiting}": any(world.waiting),
        "the other key's record had no effect": world.other >= 0,
    }
    return "; ".join(said for said, wrong in faults.items() if wrong)
