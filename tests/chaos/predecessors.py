"""A model of records that wait for the old queues of their key, over several generations.

One key, so that each generation has one queue that matters, with a waiting queue. Numbered records
are published to the queue of the current generation. At any moment the ring can be switched: the
old queue gets a fence, and the next generation is the current one. Every queue has its own
consumer. All of them work at the same time, and each can be killed between any two steps. A record
of a newer queue waits until its consumer knows that all older queues are deleted.

The steps of a switch are left out: protocol.py is a model of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tests.chaos.exploring import explore_from

FENCE = 0
PROBE = "probe"

Place = tuple[int, int]  # the generation, and a number
Waiting = tuple[Any, int, int]  # place, number, attempt; or PROBE, its kind, its consumer
Doing = tuple[Any, ...]
READY: Doing = ("ready",)
BEHIND_MOVED, AT_FENCE = 1, 2  # kinds of probes


@dataclass(frozen=True, slots=True)
class Consumer:
    """The consumer of one queue.

    Attributes:
        doing: the step that it does next.
        arrived: the messages of the waiting queue that it has received.
        line: the records that it knows to wait, in order.
        read: the numbers of the records that waited when it began.
        gone: the older generations whose queues are deleted, as far as it knows.
        probing: the queues that it found to be deleted, until its probe returns.
        complete: whether all waiting records have arrived since its queue is ending; None while
            the probe that shows this is not published.
        name: distinguishes its probes from those of an earlier consumer.

    """

    doing: Doing
    arrived: frozenset[Waiting] = frozenset()
    line: tuple[Waiting, ...] = ()
    read: frozenset[int] = frozenset()
    gone: frozenset[int] = frozenset()
    probing: frozenset[int] = frozenset()
    complete: bool | None = None
    name: int = 0


@dataclass(frozen=True, slots=True)
class World:
    """The state of all queues and consumers.

    Attributes:
        left: how many records are not published yet.
        failures: for each record, how often it will still fail.
        queues: the queue of each generation; None if it is deleted.
        waiting: the waiting queue of each generation.
        consumers: the consumer of each queue; None if it does not run.
        current: the generation to which records are published.
        redelivered: records that were delivered to a consumer that was killed.
        done: the highest number with an effect.
        deaths: the number of consumers that may still be killed.
        fault: the error that was found.

    """

    left: int
    failures: tuple[int, ...]
    queues: tuple[tuple[int, ...] | None, ...]
    waiting: tuple[tuple[Waiting, ...], ...]
    consumers: tuple[Consumer | None, ...]
    current: int = 0
    redelivered: frozenset[int] = frozenset()
    done: int = 0
    deaths: int = 1
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Predecessors:
    """The protocol, or one that lacks the parts named in without."""

    without: frozenset[str] = field(default_factory=frozenset)

    def next(self, world: World) -> Iterator[World]:
        """Yield every state that can follow."""
        if world.left:
            number = len(world.failures) - world.left + 1
            yield put(replace(world, left=world.left - 1), world.current, number)
        if world.current < len(world.queues) - 1:
            yield replace(put(world, world.current, FENCE), current=world.current + 1)
        for place in range(world.current + 1):
            if world.queues[place] is None:
                continue
            consumer = world.consumers[place]
            if consumer is None:
                yield at(world, place, self._begin(world, place))
                continue
            if world.deaths:
                queue = world.queues[place] or ()
                delivered = frozenset(queue[:1]) - {FENCE}
                killed = at(world, place, None)
                redelivered = world.redelivered | delivered
                yield replace(killed, deaths=world.deaths - 1, redelivered=redelivered)
            yield from self._go_on(world, place, consumer)

    def _begin(self, world: World, place: int) -> Consumer:
        """Check the older queues first, then read all waiting records; or the reverse."""
        if "checking first" in self.without:
            return self._read(world, place, Consumer(("check",), name=world.deaths))
        return Consumer(("read",), gone=self._gone(world, place), name=world.deaths)

    def _gone(self, world: World, place: int) -> frozenset[int]:
        """Return the older generations whose queues are deleted, or are treated as deleted."""
        return frozenset(
            older
            for older in range(place)
            if world.queues[older] is None
            or ("deletion" in self.without and world.queues[older] == (FENCE,))
            or ("transitive owners" in self.without and older < place - 1)
        )

    def _read(self, world: World, place: int, consumer: Consumer) -> Consumer:
        """Read all waiting records; of two messages of a record the later attempt counts."""
        found: dict[tuple[Place, int], Waiting] = {}
        messages = records(world.waiting[place])
        for each in messages:
            if each[:2] not in found or found[each[:2]][2] < each[2]:
                found[each[:2]] = each
        line = tuple(sorted(found.values()))
        read = frozenset(each[1] for each in line)
        return replace(consumer, line=line, arrived=frozenset(messages), read=read)

    def _go_on(self, world: World, place: int, consumer: Consumer) -> Iterator[World]:
        kind, *rest = consumer.doing
        ready = replace(consumer, doing=READY)
        if kind == "read":
            yield at(world, place, self._read(world, place, ready))
        elif kind == "check":
            yield at(world, place, replace(ready, gone=self._gone(world, place)))
        elif kind == "acknowledge":
            queue = world.queues[place]
            assert queue
            yield at(change(world, "queues", place, queue[1:]), place, ready)
        elif kind == "settle":
            yield at(self._settled(world, place, rest[0]), place, ready)
        elif kind == "empty":
            yield self._empty(world, place, consumer)
        else:
            yield from self._receive(world, place, consumer)
            yield from self._find_deleted(world, place, consumer)
            yield from self._run_waiting(world, place, consumer)
            queue = world.queues[place]
            if queue:
                yield from self._handle(world, place, consumer, queue[0])

    def _receive(self, world: World, place: int, consumer: Consumer) -> Iterator[World]:
        """Receive the next message of the waiting queue."""
        new = [each for each in world.waiting[place] if each not in consumer.arrived]
        if not new:
            return
        if new[0][0] == PROBE:
            messages = list(world.waiting[place])
            messages.remove(new[0])
            world = change(world, "waiting", place, tuple(messages))
            if new[0] == (PROBE, AT_FENCE, consumer.name):
                consumer = replace(consumer, complete=True)
            elif new[0] == (PROBE, BEHIND_MOVED, consumer.name):
                gone = consumer.gone | consumer.probing
                consumer = replace(consumer, gone=gone, probing=frozenset())
            yield at(world, place, consumer)
            return
        line = {each[:2]: each for each in (new[0], *consumer.line)}
        if line[new[0][:2]][2] < new[0][2]:
            line[new[0][:2]] = new[0]
        arrived = consumer.arrived | {new[0]}
        yield at(
            world, place, replace(consumer, arrived=arrived, line=tuple(sorted(line.values())))
        )

    def _find_deleted(self, world: World, place: int, consumer: Consumer) -> Iterator[World]:
        """Find older queues that are deleted, and put a probe behind the moved records."""
        found = self._gone(world, place) - consumer.gone
        if not found or consumer.probing:
            return
        if "probe" in self.without:
            yield at(world, place, replace(consumer, gone=consumer.gone | found))
            return
        yield self._probe(world, place, replace(consumer, probing=found), BEHIND_MOVED)

    def _probe(self, world: World, place: int, consumer: Consumer, kind: int) -> World:
        messages = (*world.waiting[place], (PROBE, kind, consumer.name))
        return at(change(world, "waiting", place, messages), place, consumer)

    def _is_free(self, place: int, consumer: Consumer) -> bool:
        return len(consumer.gone) == place

    def _run_waiting(self, world: World, place: int, consumer: Consumer) -> Iterator[World]:
        """Run the first record that waits; if it fails, a new message of it is published."""
        if not consumer.line or consumer.line[0] not in consumer.arrived:
            return
        if not self._is_free(place, consumer):
            return
        message = consumer.line[0]
        where, number, attempt = message
        rest = consumer.line[1:]
        if world.failures[number - 1]:
            again = (where, number, attempt + 1)
            world = change(fail(world, number), "waiting", place, (*world.waiting[place], again))
            rest = tuple(sorted((*rest, again)))
        else:
            world = effect(world, number)
        yield at(world, place, replace(consumer, line=rest, doing=("settle", message)))

    def _settled(self, world: World, place: int, done: Waiting) -> World:
        """Acknowledge a message, and the messages that it has replaced."""
        left = tuple(
            each
            for each in world.waiting[place]
            if each[0] == PROBE or each[:2] != done[:2] or each[2] > done[2]
        )
        return change(world, "waiting", place, left)

    def _handle(self, world: World, place: int, consumer: Consumer, number: int) -> Iterator[World]:
        """Handle the first message of the queue."""
        if number == FENCE:
            yield from self._pass_fence(world, place, consumer)
            return
        acknowledge = replace(consumer, doing=("acknowledge",))
        if number in world.redelivered and number in consumer.read:
            yield at(world, place, acknowledge)
        elif consumer.line or not self._is_free(place, consumer):
            yield self._wait(world, place, consumer, number, 0)
        elif world.failures[number - 1]:
            yield self._wait(fail(world, number), place, consumer, number, 1)
        else:
            yield at(effect(world, number), place, acknowledge)

    def _wait(
        self, world: World, place: int, consumer: Consumer, number: int, attempt: int
    ) -> World:
        """Send a record to the waiting queue, then acknowledge it in its queue."""
        turn = 0 if "generations in places" in self.without else place
        last = max((each[0][1] for each in consumer.line if each[0][0] == turn), default=0)
        message = ((turn, last + 1), number, attempt)
        line = tuple(sorted((*consumer.line, message)))
        waits = change(world, "waiting", place, (*world.waiting[place], message))
        return at(waits, place, replace(consumer, line=line, doing=("acknowledge",)))

    def _pass_fence(self, world: World, place: int, consumer: Consumer) -> Iterator[World]:
        """Move the waiting records to the current generation, or delete the queue."""
        if consumer.complete is None and "probe at the fence" not in self.without:
            yield self._probe(world, place, replace(consumer, complete=False), AT_FENCE)
            return
        if consumer.complete is False:
            return
        if consumer.line:
            between = range(place + 1, world.current)
            passable = "between" in self.without or all(world.queues[b] is None for b in between)
            if passable and consumer.arrived.issuperset(consumer.line):
                target = world.current
                moved = (*world.waiting[target], *consumer.line)
                emptying = replace(consumer, doing=("empty",))
                yield at(change(world, "waiting", target, moved), place, emptying)
            return
        gone = at(change(world, "queues", place, None), place, None)
        if records(world.waiting[place]):
            gone = replace(gone, fault=f"{world.waiting[place]} wait in a queue that is gone")
        yield change(gone, "waiting", place, ())

    def _empty(self, world: World, place: int, consumer: Consumer) -> World:
        """Acknowledge one of the messages that were moved, the last one first."""
        left = sorted(each for each in world.waiting[place] if each in consumer.line)
        if not left:
            rest = tuple(each for each in world.waiting[place] if each[0] == PROBE)
            empty = replace(consumer, line=(), arrived=frozenset(), doing=READY)
            return at(change(world, "waiting", place, rest), place, empty)
        messages = list(world.waiting[place])
        messages.remove(left[-1])
        return change(world, "waiting", place, tuple(messages))


def records(messages: tuple[Waiting, ...]) -> list[Waiting]:
    """Return the messages that are no probes."""
    return [each for each in messages if each[0] != PROBE]


def begin(*failures: int, generations: int, deaths: int) -> World:
    """Return the first state; each record fails a given number of times."""
    return World(
        left=len(failures),
        failures=failures,
        queues=((),) * generations,
        waiting=((),) * generations,
        consumers=(None,) * generations,
        deaths=deaths,
    )


def change(world: World, name: str, place: int, value: object) -> World:
    """Return a state in which one value of a tuple differs."""
    values = list(getattr(world, name))
    values[place] = value
    changed: dict[str, Any] = {name: tuple(values)}
    return replace(world, **changed)


def at(world: World, place: int, consumer: Consumer | None) -> World:
    """Return a state in which one consumer has another state."""
    return change(world, "consumers", place, consumer)


def put(world: World, place: int, number: int) -> World:
    """Put a message into a queue."""
    return change(world, "queues", place, (*(world.queues[place] or ()), number))


def fail(world: World, number: int) -> World:
    """Let a record fail once."""
    return change(world, "failures", number - 1, world.failures[number - 1] - 1)


def effect(world: World, number: int) -> World:
    """Let a record have its effect; a repetition has none."""
    fault = f"{number} after {world.done}" if number > world.done + 1 else world.fault
    return replace(world, done=max(world.done, number), fault=fault)


def explore(start: World, protocol: Predecessors) -> tuple[int, str]:
    """Explore all states from a start; return their number and the first fault, if any."""
    return explore_from(start, protocol.next, _unfinished)


def _unfinished(world: World) -> str:
    """Return the errors of a state in which nothing more can happen."""
    count = len(world.failures)
    faults = {
        f"{world.done} of {count} had their effect": world.done != count,
        f"left: {world.queues}": world.queues != (*[None] * (len(world.queues) - 1), ()),
        f"wait: {world.waiting}": any(map(records, world.waiting)),
    }
    return "; ".join(reported for reported, wrong in faults.items() if wrong)
