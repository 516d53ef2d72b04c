"""Which queues a consumer reads, and when: those of rings that pass first, then its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from feedbus import broker
from feedbus.broker import generations
from feedbus.broker.generations import State
from feedbus.broker.names import Names
from feedbus.topology import Consumer, Generation, Topology


class Drain:
    """The order in which one consumer goes through the generations of its exchange.

    A passing generation's queues are dealt out among the consumers of today. Each is read to the
    fence that ends it, then deleted; only when all of them are gone may a key that has moved be
    handled by its new shard.
    """

    def __init__(
        self,
        topology: Topology,
        consumer: Consumer,
        states: Mapping[str, State],
        pause: Callable[[], bool],
    ) -> None:
        """Go by the state of the consumer's exchange, where that is a hash exchange.

        Args:
            topology: of today.
            consumer: whose queues these are.
            states: by exchange, as the broker has them.
            pause: lets a moment pass while others drain; False when the run is over.

        """
        self._topology = topology
        self._names = Names(topology)
        self._consumer = consumer
        self._state = states.get(consumer.queue.exchange)
        self._pause = pause

    @property
    def passed(self) -> bool:
        """Whether the consumer is on no ring that is current: its shard is no more."""
        return self._state is not None and self._consumer.name not in dict(
            self._state.current.members
        )

    def queues(self, connection: Any) -> Iterator[Sequence[str]]:
        """Go through lists of queues, each to be read until all are fenced or gone."""
        if self._state is None:
            yield [self._names.queue(self._consumer)]
            return
        for generation in self._state.draining:
            share = [
                queue for queue in self._share(generation) if broker.queue_exists(connection, queue)
            ]
            if share:
                yield share
            if not self._await_others(connection, generation):
                return
        yield [self._names.member(self._state.current, self._consumer.name)]

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

    def _await_others(self, connection: Any, generation: Generation) -> bool:
        """Wait until every queue of a generation is gone, then have it forgotten."""
        for member, _ in generation.members:
            while broker.queue_exists(connection, self._names.member(generation, member)):
                if not self._pause():
                    return False
        with broker.locked(connection, self._topology):
            channel = connection.channel()
            generations.drained(channel, self._topology, generation)
            channel.close()
        return True
