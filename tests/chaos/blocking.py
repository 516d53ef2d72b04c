"""A model of dead letters that block their keys, with few enough states to try all.

One key, whose records come to one queue. The handler rejects the first record a given number of
times. A consumer then sends the dead letter, and the message that blocks the key. It acknowledges
the record when both have arrived. It may be killed between any two steps. What it has sent may then
be lost, or arrive as late as possible. Meanwhile the next consumer reads. At every moment an
operator may requeue or drop the dead letters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tests.chaos.exploring import explore_from

NOBODY, READY, SENDING = "", "ready", "sending"
DEAD, RECORD, BLOCK = "dead letter", "record", "block"
REQUEUED, RELEASE = "requeued", "release"
OWN = "own"  # a message of the consumer's own queue

Message = tuple[str, int, int]  # kind, number, place
NOTHING: Message = ("", 0, 0)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Known:
    """A waiting record, or a dead letter that blocks the key, as the consumer knows it."""

    place: int
    number: int
    is_block: bool
    has_arrived: bool

    @property
    def message(self) -> Message:
        """Return its message in the waiting queue."""
        return (BLOCK if self.is_block else RECORD), self.number, self.place


@dataclass(frozen=True, slots=True)
class World:
    """The state of a model.

    Attributes:
        queue: the numbers in the consumer's own queue.
        rejections: how often the first record will still be rejected.
        deaths: the number of consumers that may still be killed.
        waiting: the messages in the waiting queue that are not delivered.
        held: the messages of the waiting queue that the consumer has received.
        dead: the numbers of the dead letters.
        late: what killed consumers have sent and what has not arrived; for each of them, in order.
        redelivered: records of the own queue that a killed consumer had.
        doing: what the consumer does.
        sent: what it has sent and what has not arrived.
        settled: the message that it acknowledges then.
        known: its waiting records, in order.
        requests: the requests to release keys that it keeps.
        void: the records whose messages from earlier consumers block no key: those that were
            delivered to it again, and those whose dead letters were dropped.
        read: the records that waited when it began.
        effects: the records that had an effect.
        dropped: the records whose dead letters were dropped.
        fault: the error that was found.

    """

    queue: tuple[int, ...]
    rejections: int
    deaths: int = 1
    waiting: tuple[Message, ...] = ()
    held: tuple[Message, ...] = ()
    dead: tuple[int, ...] = ()
    late: tuple[tuple[Message, ...], ...] = ()
    redelivered: frozenset[int] = frozenset()
    doing: str = NOBODY
    sent: tuple[Message, ...] = ()
    settled: Message = NOTHING
    known: tuple[Known, ...] = ()
    requests: tuple[Message, ...] = ()
    void: frozenset[int] = frozenset()
    read: frozenset[int] = frozenset()
    effects: frozenset[int] = frozenset()
    dropped: frozenset[int] = frozenset()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Blocking:
    """The protocol, or one that lacks what is named in without.

    Attributes:
        without: the parts that it lacks.
        by_exchange: whether dead letters are requeued through the exchange.
        limit: how many records wait at most before the consumer holds.

    """

    without: frozenset[str] = field(default_factory=frozenset)
    by_exchange: bool = False
    limit: int = 9

    def next(self, world: World) -> Iterator[World]:
        """Yield every state that can follow."""
        for number in dict.fromkeys(world.dead):
            left = replace(world, dead=without(world.dead, number))
            if self.by_exchange:
                yield replace(left, queue=(*world.queue, number))
            else:
                yield arrive(left, (REQUEUED, number, 0))
            dropped = replace(left, dropped=world.dropped | {number})
            yield arrive(dropped, (RELEASE, number, 0))
        for index, (first, *others) in enumerate(world.late):
            rest = world.late[:index] + (tuple(others),) * bool(others) + world.late[index + 1 :]
            yield arrive(replace(world, late=rest), first)
        if world.doing == NOBODY:
            yield self._begin(world)
            return
        if world.deaths:
            yield from kill(world)
        if world.sent:
            yield arrive(replace(world, sent=world.sent[1:]), world.sent[0])
        elif world.doing == SENDING:
            yield settle(world)
        else:
            yield from self._go_on(world)

    def _begin(self, world: World) -> World:
        """Read all that waits; release keys only then."""
        arrived, begun = world.waiting, replace(world, doing=READY, waiting=(), held=world.waiting)
        for message in (each for each in arrived if each[0] != RELEASE):
            begun = self._receive(begun, message)
        for message in (each for each in arrived if each[0] == RELEASE):
            begun = self._release(begun, message)
        read = frozenset(each.number for each in begun.known if not each.is_block)
        return replace(begun, read=read)

    def _go_on(self, world: World) -> Iterator[World]:
        if world.waiting:
            first, *others = world.waiting
            received = replace(world, waiting=tuple(others), held=(*world.held, first))
            if first[0] == RELEASE:
                yield self._release(received, first)
            else:
                yield self._receive(received, first)
        requeued = [each for each in world.held if each[0] == REQUEUED]
        if requeued:
            yield self._handle(world, requeued[0])
        elif world.known and world.known[0].has_arrived and not world.known[0].is_block:
            head = world.known[0].message
            # A killed consumer had the record, if it waited when this one began.
            was_waiting = head[1] in world.read
            yield run(self._void(world, *head[:2]) if was_waiting else world, head)
        if world.queue and not requeued and len(world.known) < self.limit:
            yield self._handle(world, (OWN, world.queue[0], 0))

    def _void(self, world: World, kind: str, number: int) -> World:
        """Note that messages which earlier consumers have sent for a record block no key."""
        if f"noting {kind}" in self.without:
            return world
        return replace(world, void=world.void | {number})

    def _release(self, world: World, request: Message) -> World:
        return release(self._void(world, *request[:2]), request)

    def _receive(self, world: World, message: Message) -> World:
        """Receive a message of the waiting queue that is no request."""
        kind, number, place = message
        if kind == REQUEUED:
            return world
        mark = (place, number)
        known = next((each for each in world.known if (each.place, each.number) == mark), None)
        if known is None:
            if kind == BLOCK and number in world.void:
                return acknowledge(world, message)
            return keep(world, Known(place, number, kind == BLOCK, has_arrived=True))
        if kind == BLOCK and not known.is_block:
            return acknowledge(world, message)
        if known.has_arrived:  # the record of a dead letter takes its place
            world = acknowledge(world, known.message)
        world = keep(world, Known(place, number, kind == BLOCK, has_arrived=True))
        for request in world.requests:
            world = release(replace(world, requests=without(world.requests, request)), request)
        return world

    def _handle(self, world: World, message: Message) -> World:
        """Handle a message of the own queue, or a requeued dead letter."""
        kind, number, _ = message
        if kind == REQUEUED or number in world.redelivered:
            world = self._void(world, kind, number)
        if not world.known:
            return run(world, message)
        blocks = (each for each in world.known if each.is_block and each.number == number)
        block = next(blocks, None)
        if kind == OWN and block is None and number in world.redelivered & world.read:
            return settle(replace(world, settled=message))
        place = block.place if block is not None else next_place(world)
        if block is None:
            world = keep(world, Known(place, number, is_block=False, has_arrived=False))
        return send(world, message, (RECORD, number, place))


def arrive(world: World, message: Message) -> World:
    """Let a message arrive at the broker."""
    if message[0] == DEAD:
        return replace(world, dead=(*world.dead, message[1]))
    return replace(world, waiting=(*world.waiting, message))


def kill(world: World) -> Iterator[World]:
    """Kill the consumer: what it has sent is lost, or arrives late."""
    killed = replace(
        world,
        deaths=world.deaths - 1,
        doing=NOBODY,
        redelivered=world.redelivered.union(world.queue),
        waiting=world.held + world.waiting,
        held=(),
        sent=(),
        settled=NOTHING,
        known=(),
        requests=(),
        void=frozenset(),
        read=frozenset(),
    )
    yield killed
    if world.sent:
        yield replace(killed, late=(*killed.late, world.sent))


def run(world: World, message: Message) -> World:
    """Call the handler with the record of a message."""
    kind, number, place = message
    if number == 1 and world.rejections:
        place = place if kind == RECORD else next_place(world)
        world = keep(world, Known(place, number, is_block=True, has_arrived=False))
        world = replace(world, rejections=world.rejections - 1)
        return send(world, message, (DEAD, number, 0), (BLOCK, number, place))
    effects = world.effects | {number}
    fault = "" if {*range(1, number)} <= effects | world.dropped else f"{number} before 1"
    return send(replace(world, effects=effects, fault=fault), message)


def send(world: World, settled: Message, *messages: Message) -> World:
    """Send messages, and then acknowledge the message that has caused them."""
    return replace(world, doing=SENDING, sent=messages, settled=settled)


def settle(world: World) -> World:
    """Acknowledge the message whose results have arrived."""
    message = world.settled
    kind, number, place = message
    world = replace(world, doing=READY, settled=NOTHING)
    if kind == OWN:
        queue = without(world.queue, number)
        return replace(world, queue=queue, redelivered=world.redelivered.intersection(queue))
    known = tuple(each for each in world.known if each.message != (RECORD, number, place))
    return acknowledge(replace(world, known=known), message)


def acknowledge(world: World, message: Message) -> World:
    """Acknowledge a message of the waiting queue."""
    return replace(world, held=without(world.held, message))


def release(world: World, request: Message) -> World:
    """Release the key that a dead letter blocks; keep the request until its message arrives."""
    blocks = [each for each in world.known if each.is_block and each.number == request[1]]
    for each in (each for each in blocks if each.has_arrived):
        world = acknowledge(world, each.message)
        world = replace(world, known=without(world.known, each))
    if all(each.has_arrived for each in blocks):
        return acknowledge(world, request)
    return replace(world, requests=(*world.requests, request))


def keep(world: World, known: Known) -> World:
    """Keep a waiting record in the place of the one that has its place and number, if any."""
    mark = (known.place, known.number)
    others = [each for each in world.known if (each.place, each.number) != mark]
    kept = sorted([*others, known], key=lambda each: (each.place, each.number))
    return replace(world, known=tuple(kept))


def next_place(world: World) -> int:
    """Return the place of a record that begins to wait."""
    return max((each.place for each in world.known), default=0) + 1


def without(values: tuple[Value, ...], value: Value) -> tuple[Value, ...]:
    """Return values without one of them."""
    index = values.index(value)
    return values[:index] + values[index + 1 :]


def explore(start: World, blocking: Blocking) -> tuple[int, str]:
    """Explore all states from a start; return their number and the first fault, if any."""
    return explore_from(start, blocking.next, _unfinished)


def _unfinished(world: World) -> str:
    """Return the errors of a state in which nothing more can happen."""
    faults = {
        f"left: {world.queue}": world.queue,
        f"wait: {world.held}": world.held,
        f"had their effect: {sorted(world.effects)}": world.effects | world.dropped != {1, 2},
    }
    return "; ".join(said for said, wrong in faults.items() if wrong)
