"""Which queues a consumer reads, and when: those of rings that pass first, then its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from feedbus import broker
from feedbus.broker import generations
from feedbus.broker.generations import State
from feedbus.broker.names import Names
from feedbus.errors import UsageError
from feedbus.topology import Consumer, Generation, Topology

BARRIER_POLL_SECONDS = 0.1


class Drain:
    """The order in which one consumer goes through the generations of its exchange.

    A passing generation's queues are dealt out among the consumers of today; each empties and
    deletes its own, and waits until all of them are gone: only then may a key that has moved be
    handled by its new shard.
    """

    def __init__(
        self,
        topology: Topology,
        consumer: Consumer,
        states: Mapping[str, State],
        ended: Callable[[], bool],
    ) -> None:
        """Go by the state of the consumer's exchange, where that is a hash exchange.

        Args:
            topology: of today.
            consumer: whose queues these are.
            states: by exchange, as the broker has them.
            ended: whether the run is over, so that waiting for others makes no sense.

        Raises:
            UsageError: the current ring has no such consumer.

        """
        self._topology = topology
        self._names = Names(topology)
        self._consumer = consumer
        self._ended = ended
        self._state = states.get(consumer.queue.exchange)
        self._passing: Generation | None = None
        if self._state and consumer.name not in dict(self._state.current.members):
            msg = (
                f"{consumer.name} is not on the broker's current ring of "
                f"{consumer.queue.exchange}; feedbus up makes the topology's ring current"
            )
            raise UsageError(msg)

    def queues(self, connection: Any) -> Iterator[Sequence[str]]:
        """Go through lists of queues to consume, each until done; the last is never done."""
        if self._state is None:
            yield [self._names.queue(self._consumer)]
            return
        for generation in self._state.draining:
            self._passing = generation
            share = [
                queue for queue in self._share(generation) if broker.queue_exists(connection, queue)
            ]
            if share:
                yield share
            self._await_others(connection, generation)
            if self._ended():
                return
        self._passing = None
        yield [self._names.member(self._state.current, self._consumer.name)]

    def done(self, channel: Any, queues: Sequence[str]) -> bool:
        """Whether these queues are drained; deletes each that is. Nothing may be in hand."""
        if self._passing is None:
            return False
        if not all(_drained(channel, queue) for queue in queues):
            return False
        for queue in queues:
            channel.queue_delete(queue, if_empty=True)
        return True

    def _share(self, generation: Generation) -> list[str]:
        """Return this consumer's share of a generation's queues: the same ones at every start."""
        if self._state is None:
            return []
        today = [name for name, _ in self._state.current.members]
        mine = today.index(self._consumer.name)
        return [
            self._names.member(generation, member)
            for place, (member, _) in enumerate(generation.members)
            if place % len(today) == mine
        ]

    def _await_others(self, connection: Any, generation: Generation) -> None:
        """Wait until every queue of a generation is gone, then have it forgotten."""
        names = [self._names.member(generation, member) for member, _ in generation.members]
        while any(broker.queue_exists(connection, name) for name in names):
            if self._ended():
                return
            time.sleep(BARRIER_POLL_SECONDS)
        with broker.locked(connection, self._topology):
            channel = connection.channel()
            generations.drained(channel, self._topology, generation)
            channel.close()


def _drained(channel: Any, queue: str) -> bool:
    """Whether nothing is left: another consumer might still have deliveries in hand."""
    told = channel.queue_declare(queue, passive=True)
    return bool(told.message_count == 0 and told.consumer_count <= 1)
