"""A model of how a queue is read to its end and deleted, with few enough states to try all.

A switch has left one queue: nothing is placed there any more but what the switch appends. Messages
that were placed before may be on their way still. Two readers subscribe, are delivered messages,
settle them in order and may die. The queue's leader may be away, when nothing is put or delivered
and the broker counts nothing and nobody. A foreign fence may lie anywhere.

Time is in the model as far as the protocol relies on it: between two probes all that was on its
way arrives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tests.chaos.exploring import explore_from

FENCE = "F"
PREFETCH = 2
NEEDED = 2

Item = int | str  # a message, a fence, or a probe by its name


@dataclass(frozen=True, slots=True)
class Reader:
    """One reader of the queue."""

    subscribed: bool = False
    held: tuple[Item, ...] = ()
    awaited: str = ""
    quiet: int = 0


@dataclass(frozen=True, slots=True)
class World:
    """The state of the model; the queue is None when it is deleted."""

    queue: tuple[Item, ...] | None = ()
    flying: tuple[int, ...] = ()
    switch: tuple[Item, ...] = ()  # what it puts before it settles the state
    settled: bool = False
    readers: tuple[Reader, ...] = (Reader(), Reader())
    done: frozenset[int] = frozenset()
    leader: bool = True
    elections: int = 0
    deaths: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Deletion:
    """The protocol, or one that lacks what is named in without."""

    without: frozenset[str] = field(default_factory=frozenset)

    def next(self, world: World) -> Iterator[World]:
        """Yield every state that can follow."""
        if world.leader:
            yield from self._arrive(world)
            yield from self._switch(world)
        if world.leader and world.elections:
            yield replace(world, leader=False, elections=world.elections - 1)
        if not world.leader:
            yield replace(world, leader=True)
        for place, reader in enumerate(world.readers):
            yield from self._read(world, place, reader)

    def _arrive(self, world: World) -> Iterator[World]:
        if not world.flying:
            return
        message, *rest = world.flying
        arrived = replace(world, flying=tuple(rest))
        if world.queue is None:
            yield replace(arrived, fault=f"{message} is lost: it came after the deletion")
        else:
            yield replace(arrived, queue=(*world.queue, message))

    def _switch(self, world: World) -> Iterator[World]:
        if world.settled:
            return
        if not world.switch:
            yield replace(world, settled=True)
            return
        item, *rest = world.switch
        put = replace(world, switch=tuple(rest))
        if world.queue is not None:
            yield replace(put, queue=(*world.queue, item))
        elif isinstance(item, int):
            yield replace(put, fault=f"{item} is lost: it was appended after the deletion")
        else:
            yield put

    def _read(self, world: World, place: int, reader: Reader) -> Iterator[World]:
        if world.queue is None:
            if reader != Reader():
                yield _with(world, place, Reader())
            return
        others = sum(each.subscribed for each in world.readers) - reader.subscribed
        if not reader.subscribed:
            # A consumer that begins to drain waits until no other consumer reads; an earlier reader
            # does not wait.
            if world.leader and not others:
                yield _with(world, place, Reader(subscribed=True))
            return
        if world.leader and world.queue and len(reader.held) < PREFETCH:
            head, *rest = world.queue
            delivered = replace(reader, held=(*reader.held, head))
            yield _with(replace(world, queue=tuple(rest)), place, delivered)
        if reader.held:
            yield from self._take(world, place, reader, others)
        if world.deaths:
            yield _leave(replace(world, deaths=world.deaths - 1), place, reader)

    def _take(self, world: World, place: int, reader: Reader, others: int) -> Iterator[World]:
        """Take the first delivery: the leader is needed for all but its effect."""
        head, *rest = reader.held
        after = replace(reader, held=tuple(rest))
        if isinstance(head, int):
            done = replace(world, done=world.done | {head})
            yield _with(done, place, replace(after, quiet=0))
            return
        if "probes" in self.without:
            yield from self._delete_by_count(world, place, reader)
            return
        own = head == reader.awaited
        if not own and not reader.awaited:
            if not world.settled and "state" not in self.without:
                return  # it waits
            if others and "alone" not in self.without:
                yield _leave(world, place, reader)
                return
        quiet = reader.quiet + own
        proved = quiet >= (1 if "second probe" in self.without else NEEDED)
        if own and proved and not rest and self._counts_nothing(world, others):
            yield _delete(world)
        elif world.leader and (own or not reader.awaited):
            yield from self._put_probe(world, place, replace(after, quiet=quiet))
        elif world.leader:
            yield _with(world, place, after)

    def _put_probe(self, world: World, place: int, reader: Reader) -> Iterator[World]:
        """Put a probe behind all; after the first, all that was on its way has arrived by then."""
        if "fence kept" in self.without and world.deaths:  # settled, and then killed
            yield _leave(replace(world, deaths=world.deaths - 1), place, reader)
        if world.flying and reader.quiet and "pause" not in self.without:
            return
        probe = f"P{place}{'b' if reader.awaited.endswith('a') else 'a'}"
        assert world.queue is not None
        put = replace(world, queue=(*world.queue, probe))
        yield _with(put, place, replace(reader, awaited=probe))

    def _counts_nothing(self, world: World, others: int) -> bool:
        if "alone" in self.without:
            return world.leader and not world.queue
        return world.leader and not world.queue and not others

    def _delete_by_count(self, world: World, place: int, reader: Reader) -> Iterator[World]:
        """Delete at a fence where the broker counts nothing, as it does without a leader."""
        if not world.settled:
            return
        if not world.leader or not world.queue:
            yield _delete(world)
        else:
            yield _with(world, place, replace(reader, held=reader.held[1:]))


def _with(world: World, place: int, reader: Reader) -> World:
    readers = list(world.readers)
    readers[place] = reader
    return replace(world, readers=tuple(readers))


def _leave(world: World, place: int, reader: Reader) -> World:
    """End a subscription: what it was delivered is back in its place."""
    assert world.queue is not None
    return _with(replace(world, queue=(*reader.held, *world.queue)), place, Reader())


def _delete(world: World) -> World:
    held = [item for reader in world.readers for item in reader.held]
    lost = {item for item in (*(world.queue or ()), *held) if isinstance(item, int)} - world.done
    fault = f"{sorted(lost)} is lost with the queue" if lost else ""
    return replace(world, queue=None, fault=fault)


def explore(start: World, protocol: Deletion) -> tuple[int, str]:
    """Explore all states from a start; return their number and the first fault, if any."""
    everything = {
        item
        for item in (*(start.queue or ()), *start.flying, *start.switch)
        if isinstance(item, int)
    }

    def unfinished(world: World) -> str:
        done = world.queue is None and world.done == everything
        return "" if done else f"stuck: {world}"

    return explore_from(start, protocol.next, unfinished)
