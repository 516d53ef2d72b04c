"""The queues that a consumer reads: its own queue, and its share of the queues of old rings.

If the shards of an exchange change, the exchange gets a new ring with new queues, a new
*generation*. The consumers empty the old queues, and delete them. A *fence* is a message that marks
the end of an old queue.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from feedbus import broker
from feedbus.broker import external_objects
from feedbus.broker_names import Names
from feedbus.errors import BrokerOutage, UsageError
from feedbus.generations import (
    old_queue_shares,
    predecessors,
    removed_queues,
    ring_state,
    state_queues,
    switch,
)
from feedbus.generations.held_messages import may_refuse
from feedbus.generations.predecessors import Predecessors
from feedbus.generations.ring_state import RingState
from feedbus.topology import Consumer, Generation, Topology
from feedbus.wire.amqp_protocols import Connection

# While a consumer waits until other consumers have emptied old queues, it checks these queues again
# and again. After this number of checks, it also reads the state of the ring.
CHECKS_PER_STATE = 10
QUEUE_REMOVED = "its queue was removed from the topology"


@dataclass(frozen=True, slots=True)
class ReadableQueue:
    """A queue on the broker that a consumer must read, and how the consumer reads it.

    ConsumerQueues creates these objects. They are used as long as the connection.

    Attributes:
        queue: the name of the queue on the broker.
        exclusive: whether to subscribe exclusively. Then the broker refuses other consumers of the
            queue.
        needs_fence: True if the queue can be an old queue whose fence is missing, because the fence
            has expired, or because the queue was full and refused it. Then the consumer finds out
            whether the queue is old. If it is, the consumer puts a fence into it as soon as the
            switch is complete.
        generation_number: the number of the queue's generation.
        only_without_reader: whether the consumer subscribes only if the queue has no other reader.
            It is True for old queues, and for a queue that was removed from the topology. Such a
            queue is deleted at its end, and only its single reader can prove that it is empty.

    """

    queue: str
    exclusive: bool = False
    needs_fence: bool = False
    generation_number: int = 0
    only_without_reader: bool = False


class ConsumerQueues:
    """Determines which queues one consumer reads, and in which order.

    Each queue of an old generation is assigned to one of the current consumers. This consumer reads
    the old queue up to its fence, and deletes it. No record in a consumer's own queue may overtake
    an earlier record of its key in an old queue:

    - Usually, a consumer reads its share of the old queues together with its own queue. A record in
      the own queue waits until the old queues that can have earlier records of its key are deleted.
    - In some cases, for example with `block_on_dead`, the consumer reads its own queue only after
      all old queues are deleted. The description of predecessors.are_known() lists these cases.

    The runner creates one ConsumerQueues object for each connection.
    """

    def __init__(
        self,
        topology: Topology,
        consumer: Consumer,
        states: Mapping[str, RingState],
        pause: Callable[[], bool],
    ) -> None:
        """Create the object from the state of the ring of the consumer's exchange, if it has one.

        Args:
            topology: the topology as the file declares it now.
            consumer: the reader of the queues.
            states: maps the name of each x-consistent-hash exchange to the state of its ring on the
                broker.
            pause: a function that waits a short time. It is called between two checks of the
                broker, for example whether other consumers have deleted their old queues. It
                returns False if the run is over.

        """
        self._topology = topology
        self._names = Names(topology)
        self._consumer = consumer
        state = states.get(consumer.queue.exchange)
        self._state = state if state is None else _state_to_use(state, consumer.name)
        # Usually, `feedbus apply` puts a fence into each queue of a replaced ring. It puts none
        # into a queue that is full and has no consumer. So if this consumer's own queue becomes an
        # old queue before the consumer subscribes, its fence can be missing. There are two cases:
        # - A switch that is not complete removes this consumer's shard. Then `_state` is the state
        #   before the switch: see _state_to_use().
        # - The queue refuses messages when it is full, and a later switch replaces the ring before
        #   the consumer subscribes.
        self._needs_fence = self._state is not None and (
            self._state != state or may_refuse(topology, self._state.current)
        )
        self._pause = pause

    def removal_reason(self, connection: Connection) -> str | None:
        """Return why this consumer must end, because its queue was removed; else None.

        The runner calls this each time it has connected to the broker.

        Args:
            connection: the connection of the consumer.

        Returns:
            A text for the log, or None.

        Raises:
            BrokerOutage: the queue is missing on the broker, but was not removed from the topology.

        """
        if self._state is None:
            hashed = self._topology.on_ring(self._consumer.queue)
            if hashed or not broker.queue_exists(connection, self._names.queue(self._consumer)):
                if self._is_removed(connection):
                    return QUEUE_REMOVED
                if self._consumer.queue.external_name:
                    raise BrokerOutage(external_objects.missing_queue(self._consumer.queue))
                msg = (
                    f"broker: there is no queue {self._names.queue(self._consumer)} for"
                    f" {self._consumer.name}; `feedbus apply` declares it"
                )
                raise BrokerOutage(msg)
        elif self._consumer.name not in dict(self._state.current.members):
            return "its shard was removed from the topology"
        elif not broker.queue_exists(connection, self._own_queue) and self._is_removed(connection):
            return QUEUE_REMOVED
        return None

    @property
    def _own_queue(self) -> str:
        """The name of the consumer's own queue on the broker."""
        if self._state is None:
            return self._names.queue(self._consumer)
        return self._names.member(self._state.current, self._consumer.name)

    def _is_removed(self, connection: Connection) -> bool:
        """Whether the topology no longer has the consumer's own queue."""
        return removed_queues.is_marked(connection, self._names, self._own_queue)

    def lists_to_read(self, connection: Connection) -> Iterator[Sequence[ReadableQueue]]:
        """Yield lists of queues; the consumer reads one list after the other.

        The consumer reads all queues of a list at the same time. When no queue of the list is left
        to read, the consumer asks for the next list.

        Args:
            connection: the connection of the consumer.

        """
        if self._state is None:
            # If the queue was deleted and declared again with other arguments, its earlier messages
            # are in the queue `before`, which is read first (queue_replacement.py).
            before = self._names.before(self._consumer)
            yield from self._unread_queues(connection, [ReadableQueue(before)])
            if broker.queue_exists(connection, before):
                return  # pause() has returned False: the run is over
            yield [ReadableQueue(self._own_queue)]
            yield from self._removed_queue(connection)
            return
        current = self._state.current
        own_queue = ReadableQueue(
            self._own_queue,
            self._must_be_exclusive(current),
            needs_fence=self._needs_fence,
            generation_number=current.number,
        )
        if self.reads_all_at_once:
            # The newest queue comes first: a record in this queue waits only for old records of its
            # own key, so many of its records can be handled immediately.
            old = [each for old in reversed(self._state.draining) for each in self._old_queues(old)]
            yield [own_queue, *(replace(each, only_without_reader=True) for each in old)]
            return
        for generation in self._state.draining:
            yield from self._unread_queues(connection, self._old_queues(generation))
            if not self._await_drained(connection, generation):
                return
        yield [own_queue]

    @property
    def reads_all_at_once(self) -> bool:
        """Whether the queues of all generations are read at the same time.

        The result is True if the exchange has old generations, and if a record need not wait for
        all old queues (predecessors.are_known()).
        """
        return (
            self._state is not None
            and bool(self._state.draining)
            and predecessors.are_known(self._topology, self._consumer.queue)
        )

    @property
    def earlier_tables(self) -> Sequence[str]:
        """The names of `[queues.NAME]` tables that were renamed or removed, and have old queues.

        Such a table is no longer on the exchange of this consumer. If the queue of the consumer
        sets `once = true`, message ids are searched in the inbox under these names, too: a message
        of an old queue can have been handled, but not acknowledged, under the earlier name.
        """
        if self._state is None:
            return ()
        return old_queue_shares.earlier_tables(self._state.current, self._state.draining)

    def predecessors(self, connection: Connection) -> Predecessors | None:
        """Return the old queues for which records wait; None if no record waits for a queue.

        The runner calls this when it begins to track the old queues (old_queue_tracking.py).

        Args:
            connection: used to find out which old queues exist.

        """
        if self._state is None or not self.reads_all_at_once:
            return None
        old = [each for old in self._state.draining for each in self._names.members(old)]
        existing_queues = [queue for queue in old if broker.queue_exists(connection, queue)]
        return Predecessors(self._names, self._state, existing_queues)

    def forget_drained(self, connection: Connection) -> bool:
        """Remove the old generations from the state of the ring, after their queues were deleted.

        Args:
            connection: the connection of the consumer.

        Returns:
            True if the old generations were removed. False if another process changes the state at
            this moment: then the caller calls this again later.

        """
        assert self._state is not None  # noqa: S101 -- for the type checker
        return all(self._forget(connection, each) for each in self._state.draining)

    @property
    def index(self) -> int:
        """The index, from 0, of this consumer among the members of its current ring.

        The consumer must be a member.
        """
        members = () if self._state is None else self._state.current.members
        return [name for name, _ in members].index(self._consumer.name)

    def is_announced(self, connection: Connection, notice: bytes | str) -> bool:
        """Whether a notice announces a newer ring with a queue that this consumer must read now.

        A notice is a message that `feedbus apply` puts into the waiting queues after a switch. Its
        body contains the generation of the newer ring. If the result is True, the runner connects
        again, and reads the queue of the newer ring together with the old queues.

        Args:
            connection: used to read the state of the ring if the body of the notice is not valid.
            notice: the body of the notice.

        """
        if self._state is None:
            return False
        current = ring_state.decode_generation(self._state.current.exchange, notice)
        if current is None:
            return self.has_switched(connection)
        return current.number > self._state.current.number and self._reads_queue_of(current)

    def has_switched(self, connection: Connection) -> bool:
        """Whether the broker has a newer ring with a queue that this consumer must read now.

        The runner calls this from time to time while it reads old queues.

        Args:
            connection: used to read the state of the ring.

        """
        if self._state is None:
            return False
        state = state_queues.states(connection, self._topology).get(self._state.current.exchange)
        if state is None or state.current == self._state.current:
            return False
        return self._reads_queue_of(state.current)

    def _reads_queue_of(self, generation: Generation) -> bool:
        """Whether this consumer reads a queue of this generation together with old queues."""
        has_queue = self._consumer.name in dict(generation.members)
        return has_queue and predecessors.are_known(self._topology, self._consumer.queue)

    def _old_queues(self, generation: Generation) -> list[ReadableQueue]:
        """Return this consumer's share of the queues of an old generation."""
        exclusive = self._must_be_exclusive(generation)
        return [
            ReadableQueue(queue, exclusive, needs_fence=True, generation_number=generation.number)
            for queue in self._share(generation)
        ]

    def _unread_queues(
        self, connection: Connection, sources: Sequence[ReadableQueue]
    ) -> Iterator[Sequence[ReadableQueue]]:
        """Wait until these old queues are deleted; yield them whenever one of them has no reader.

        The wait also ends if the run ends or the ring changes.

        Only the single reader of a queue can prove that the queue is empty. So the caller reads
        only the queues that have no reader (`only_without_reader`).

        This consumer does not wait until all queues are without readers, because it could wait
        forever. Example: queue A is full and has no reader, and another consumer reads queue B. A
        switch waits until queue A has room for held messages. Queue B gets its fence only after the
        switch, so its reader does not stop before. If this consumer waited for the reader of queue
        B, no consumer would read queue A.

        Args:
            connection: a connection to the topology's broker.
            sources: the old queues.

        """
        for check in itertools.count(1):
            readers = [broker.count_consumers(connection, each.queue) for each in sources]
            if 0 in readers:
                yield [replace(each, only_without_reader=True) for each in sources]
            elif all(count is None for count in readers):
                return
            if not self._pause_between_checks(connection, check):
                return

    def _removed_queue(self, connection: Connection) -> Iterator[Sequence[ReadableQueue]]:
        """If the own queue was removed from the topology, yield it whenever it has no reader.

        The queue is yielded again until it is deleted on the broker. Consumers that subscribed
        before the removal may still read the queue together. Each one that receives the fence
        returns it to the queue and stops reading. The last one deletes the queue. If the last one
        ends before that, another consumer reads the queue again.
        """
        own_queue = ReadableQueue(self._own_queue, only_without_reader=True)
        while self._is_removed(connection):
            readers = broker.count_consumers(connection, own_queue.queue)
            if readers is None:
                return
            if readers == 0:
                yield [own_queue]
            if not self._pause():
                return

    def _must_be_exclusive(self, generation: Generation) -> bool:
        """Return whether a consumer must subscribe exclusively to a generation's queues.

        The result is False in these cases:

        - The queues have a single active consumer. Then the broker itself lets only one consumer
          read at a time, and RabbitMQ refuses exclusive subscriptions.
        - The queues were declared with other arguments than the topology has now. Then they may
          have a single active consumer.
        - Several processes read each queue.
        """
        queue = self._consumer.queue
        same_arguments = generation.shape == self._topology.generation(generation.exchange).shape
        return same_arguments and not queue.single_active_consumer and queue.processes == 1

    def _await_deletion(self, connection: Connection, queue: str) -> bool:
        """Wait until a queue is deleted; return False if the run ends or the ring changes first.

        If the ring changes, the old queues are divided among the consumers of the new ring. So the
        runner connects again, and this consumer reads the queues that are then assigned to it.
        """
        checks = itertools.count(1)
        while broker.queue_exists(connection, queue):
            if not self._pause_between_checks(connection, next(checks)):
                return False
        return True

    def _pause_between_checks(self, connection: Connection, check: int) -> bool:
        """Pause after a check of a queue; return False if the run ends or the ring has changed.

        Args:
            connection: used to read the state of the ring, to find out whether the ring has
                changed.
            check: the number of the check, from 1. The state is read after every tenth check
                (CHECKS_PER_STATE).

        """
        return self._pause() and (
            check % CHECKS_PER_STATE != 0 or not self._ring_has_changed(connection)
        )

    def _ring_has_changed(self, connection: Connection) -> bool:
        if self._state is None:
            return False
        current = state_queues.states(connection, self._topology).get(self._state.current.exchange)
        return current is not None and current.current != self._state.current

    def _share(self, generation: Generation) -> list[str]:
        """Return this consumer's share of a generation's queues; it depends only on the state."""
        if self._state is None:
            return []
        readers = old_queue_shares.readers(self._state.current, generation)
        return [
            self._names.member(generation, member)
            for member, reader in readers.items()
            if reader == self._consumer.name
        ]

    def _await_drained(self, connection: Connection, generation: Generation) -> bool:
        """Wait until all queues of a generation are deleted; then remove the generation.

        Returns:
            False if the run ends, or the ring changes, before all these queues are deleted.

        """
        for queue in self._names.members(generation):
            if not self._await_deletion(connection, queue):
                return False
        while not self._forget(connection, generation):
            if not self._pause():
                return False
        return True

    def _forget(self, connection: Connection, generation: Generation) -> bool:
        """Remove a generation from the state; return False if another process has the lock."""
        while self._is_in_state(connection, generation):
            try:
                with broker.locked(connection, self._topology, wait_seconds=0.0):
                    channel = connection.channel()
                    switch.forget_drained(channel, self._topology, generation)
                    channel.close()
            except UsageError:  # a switch is in progress, or another consumer has the lock
                return False
        return True

    def _is_in_state(self, connection: Connection, generation: Generation) -> bool:
        """Whether the state has this old generation; True if the state cannot be read now.

        If it cannot be read, the caller calls switch.forget_drained(), which reads the ledger.
        """
        channel = connection.channel()
        state = state_queues.read(channel, self._topology, generation.exchange)
        channel.close()
        return state is None or generation in state.draining


def _state_to_use(state: RingState, consumer: str) -> RingState:
    """Return the state that a consumer uses: the broker's state, or the state before the switch.

    Suppose that a switch removes the shard of a consumer, and waits for room in the queue of this
    shard. Another consumer will get the queue, but does not read it before the switch is complete.
    So until then, the consumer of the removed shard continues to read the queue. It uses the state
    before the switch, in which the shard exists.
    """
    if state.switch_complete or consumer in dict(state.current.members) or not state.draining:
        return state
    *older, newest = state.draining
    if consumer not in dict(newest.members):
        return state
    return replace(state, current=newest, draining=tuple(older), switch_complete=True)
