"""A model of the switch of a ring, small enough to look at every way in which it may go.

One key, so that each generation has one queue that matters. A publisher sends numbered records, in
packs (several in one send, those that come back are sent anew as plain messages when the send is
over) or plain. A switch goes step by step, may die at any of them and is run again. Two consumers
go by what they last read of the state, which may be out of date, may die after an effect and before
its ack, and come back. What a step is in feedbus is one method of the broker, or several whose
order among each other does not matter.

Left out: the time that RabbitMQ takes from placing a message to putting it into a queue, and how
its reader knows that a queue is empty before it deletes it: deletion.py is a model of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tests.chaos.exploring import explore_from

FENCE = "F"
GONE = "gone"
IDLE = "idle"

Queue = tuple[object, ...] | str | None
Reported = tuple[int, tuple[int, ...], bool]  # current, draining, settled


@dataclass(frozen=True, slots=True)
class World:
    """The state of a model."""

    # each send is a run of ("pack" or "plain", number); the first is under way
    sends: tuple[tuple[tuple[str, int], ...], ...]
    goals: tuple[int, ...]
    queues: tuple[Queue, ...]
    keys: frozenset[int] = frozenset({0})
    entry: frozenset[int] = frozenset({0})
    returned: tuple[int, ...] = ()
    known: int = 0
    held: tuple[int, ...] = ()
    reported: Reported = (0, (), True)
    before: Reported = (0, (), True)
    step: str = IDLE
    views: tuple[Reported | None, ...] = (None, None)
    done: int = 0
    deaths: int = 1
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Protocol:
    """The protocol, or one that lacks what is named in without."""

    without: frozenset[str] = field(default_factory=frozenset)

    def next(self, world: World) -> Iterator[World]:
        """Yield every state that can follow."""
        yield from self._publish(world)
        yield from self._switch(world)
        for place in range(len(world.views)):
            yield from self._consume(world, place)
        yield from self._forget(world)

    def _digest(self, generation: int) -> int:
        """Return what a pack's key names: without turns, generation 2 is 0 over again."""
        return generation % 2 if "turns" in self.without else generation

    def _publish(self, world: World) -> Iterator[World]:
        if not world.sends:
            return
        if not world.sends[0]:
            again = tuple(("plain", number) for number in world.returned)
            left = (again, *world.sends[1:]) if again else world.sends[1:]
            known = self._pack_generation(world) if again else world.known
            yield replace(world, sends=left, returned=(), known=known)
            return
        (kind, number), *rest = world.sends[0]
        sent = replace(world, sends=(tuple(rest), *world.sends[1:]))
        if kind == "plain":
            yield self._enter(sent, number)
        elif self._digest(world.known) in {self._digest(key) for key in world.keys}:
            target = next(k for k in world.keys if self._digest(k) == self._digest(world.known))
            yield put(sent, target, number)
        else:
            yield replace(sent, returned=(*world.returned, number))

    def _pack_generation(self, world: World) -> int:
        """Return for which generation a publisher makes packs, after it has read the state."""
        current, draining, settled = world.reported
        return current if settled or "connected packs" in self.without else draining[-1]

    def _enter(self, world: World, number: int) -> World:
        if not world.entry:
            return world if "hold" in self.without else replace(world, held=(*world.held, number))
        if len(world.entry) > 1:
            return replace(world, fault=f"{number} goes to two rings")
        (target,) = world.entry
        return put(world, target, number)

    def _switch(self, world: World) -> Iterator[World]:
        if world.step == IDLE:
            yield from self._begin_switch(world)
            return
        if world.deaths:
            # Whoever runs it again may want what the file says by then.
            for goals in {world.goals, world.goals[1:] or world.goals}:
                yield replace(world, step=IDLE, deaths=world.deaths - 1, goals=goals)
        current, draining, _ = world.reported
        if world.step == "write":
            reported = (world.goals[0], (*draining, current), False)
            yield self._on(world, reported=reported, before=world.reported)
        elif world.step == "leave keys":
            yield self._on(world, keys=world.keys - set(draining))
        elif world.step == "leave entry":
            yield self._on(world, entry=world.entry - set(draining))
        elif world.step == "lead entry":
            yield self._on(world, entry=world.entry | {current})
        elif world.step == "lead keys":
            yield self._on(world, keys=world.keys | {current})
        else:
            yield from self._end_switch(world)

    def _begin_switch(self, world: World) -> Iterator[World]:
        current, draining, settled = world.reported
        if not settled and ("ending" not in self.without or world.goals[:1] == (current,)):
            yield replace(world, step=self._steps[1])
        elif world.goals and world.goals[0] <= current:
            # A settled switch may lack its fences, if the process that settled it was killed then.
            ended = replace(world, goals=world.goals[1:])
            yield replace(ended, step="fence") if draining else ended
        elif world.goals:
            yield replace(put(world, world.goals[0]), step="write")

    @property
    def _steps(self) -> list[str]:
        steps = ["write", "leave keys", "leave entry", "lead entry", "lead keys"]
        if "leaving first" in self.without:
            steps = ["write", "lead entry", "lead keys", "leave keys", "leave entry"]
        if "appending first" in self.without:
            return [*steps, "settle", "fence", "append"]
        return [*steps, "append", "settle", "fence"]

    def _on(self, world: World, **changes: Any) -> World:
        """Carry out a step and go to the next one."""
        following = [*self._steps, IDLE][self._steps.index(world.step) + 1]
        return replace(world, step=following, **changes)

    def _end_switch(self, world: World) -> Iterator[World]:
        current, draining, _ = world.reported
        if world.step == "append":
            if world.held:
                appended = put(world, draining[-1], world.held[0]) if draining else world
                yield replace(appended, held=world.held[1:])
                if world.deaths:  # after the publish and before the ack
                    yield replace(appended, step=IDLE, deaths=world.deaths - 1)
            else:
                yield self._on(world)
        elif world.step == "fence":
            for old in draining:
                if world.queues[old] != GONE and "fence" not in self.without:
                    world = put(world, old, FENCE)
            yield self._on(world)
        elif world.step == "settle":
            yield self._on(world, reported=(current, draining, True), before=world.reported)

    def _consume(self, world: World, place: int) -> Iterator[World]:
        view = world.views[place]
        if view is None:
            for reported in {world.reported, world.before}:
                yield self._fence_again(set_view(world, place, reported), reported)
            return
        current, draining, _ = view
        old = [each for each in draining if world.queues[each] != GONE]
        targets = {current} if not old else {old[0]}
        if "waiting" in self.without:
            targets.add(current)
        for target in sorted(targets):
            queue = world.queues[target]
            if queue == GONE or (not queue and world.reported[0] != current):
                yield set_view(world, place, None)
            elif isinstance(queue, tuple) and queue:
                yield from self._take(world, place, target, queue)
        if world.deaths:
            yield replace(set_view(world, place, None), deaths=world.deaths - 1)
        if "fence" in self.without and old and world.queues[old[0]] == ():
            yield remove(world, old[0], GONE)

    def _fence_again(self, world: World, reported: Reported) -> World:
        """A consumer that begins ends what passes once more, where nothing leads there now."""
        _, draining, settled = reported
        if settled and not {"fence", "fencing anew"} & self.without:
            for old in draining:
                queue = world.queues[old]
                if isinstance(queue, tuple) and queue[-1:] != (FENCE,):
                    world = put(world, old, FENCE)
        return world

    def _take(
        self, world: World, place: int, target: int, queue: tuple[object, ...]
    ) -> Iterator[World]:
        head, *rest = queue
        if head != FENCE:
            assert isinstance(head, int)
            effect = world
            if head > world.done:
                fault = "" if head == world.done + 1 else f"{head} after {world.done}"
                effect = replace(world, done=head, fault=fault)
            yield remove(effect, target, tuple(rest))
            if world.deaths:  # after the effect and before the ack
                yield replace(set_view(effect, place, None), deaths=world.deaths - 1)
        elif not world.reported[2] and target not in world.reported[1][:-1]:
            return  # it waits: more may be appended until the switch is settled
        elif rest:
            yield remove(world, target, tuple(rest))
        else:
            yield set_view(remove(world, target, GONE), place, None)
            if world.deaths and "fence kept" in self.without:  # settled, and then killed
                died = set_view(remove(world, target, ()), place, None)
                yield replace(died, deaths=world.deaths - 1)

    def _forget(self, world: World) -> Iterator[World]:
        current, draining, settled = world.reported
        for old in draining:
            if world.step == IDLE and world.queues[old] == GONE:
                left = tuple(each for each in draining if each != old)
                yield replace(world, reported=(current, left, settled), before=world.reported)


def put(world: World, generation: int, *items: object) -> World:
    """Put items into a generation's queue, which is declared if it was not."""
    queues = list(world.queues)
    queue = queues[generation]
    if queue == GONE:
        if set(items) - {FENCE}:
            return replace(world, fault=f"{items} is lost: generation {generation} is gone")
        return world
    queues[generation] = (*(queue or ()), *items)
    return replace(world, queues=tuple(queues))


def remove(world: World, generation: int, left: Queue) -> World:
    """Set the content of a generation's queue."""
    queues = list(world.queues)
    queues[generation] = left
    return replace(world, queues=tuple(queues))


def set_view(world: World, place: int, reported: Reported | None) -> World:
    """Set the state that a consumer has read."""
    views = list(world.views)
    views[place] = reported
    # Consumers are alike: which of them has read what makes no difference.
    return replace(world, views=tuple(sorted(views, key=repr)))


def begin(*sends: str, switches: int, deaths: int) -> World:
    """Return where it begins: each send is a run of P for a record in a pack and p for a plain one.

    A number is given to each record in turn.
    """
    numbers = iter(range(1, 100))
    kinds = {"P": "pack", "p": "plain"}
    return World(
        sends=tuple(tuple((kinds[each], next(numbers)) for each in send) for send in sends),
        goals=tuple(range(1, switches + 1)),
        queues=((), *[None] * switches),
        deaths=deaths,
    )


def explore(start: World, protocol: Protocol) -> tuple[int, str]:
    """Explore all states from a start; return their number and the first fault, if any."""
    count = sum(len(send) for send in start.sends)
    return explore_from(start, protocol.next, lambda world: _unfinished(world, count))


def _unfinished(world: World, count: int) -> str:
    """Return the errors of a state in which nothing more can happen."""
    _, draining, settled = world.reported
    faults = {
        f"{world.done} of {count} had their effect": world.done != count,
        f"held: {world.held}": bool(world.held),
        f"passing: {draining}": bool(draining),
        "the switch is not at its end": not settled or world.step != IDLE or bool(world.goals),
        f"left: {world.queues}": any(queue and queue != GONE for queue in world.queues),
    }
    return "; ".join(reported for reported, wrong in faults.items() if wrong)
