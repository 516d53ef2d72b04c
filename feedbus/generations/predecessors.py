"""The queues of older generations that still exist, and which of them a key waits for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from feedbus.broker_names import Names
from feedbus.generations.ring_state import RingState
from feedbus.ring import Ring
from feedbus.topology import Queue, Topology

NO_QUEUES: frozenset[str] = frozenset()


def are_known(topology: Topology, queue: Queue) -> bool:
    """Whether a record can wait for the older queues that can have its key, and for no others.

    If the result is True, consumers read old queues together with new ones. Then a new record waits
    until the old queues that can have its key are deleted. The result is False in these cases:

    - The ring hashes another value than the routing key. So it is not known which older queue can
      have a key.
    - The queue has no `order_by`. So it has no waiting queue, in which a record could wait.
    - The queue has `block_on_dead`: a dead letter blocks its key by a message in a waiting queue.
      When the dead letter is requeued, it takes the position of that message. So both must be in
      queues of the same generation. This is not certain while a consumer reads the queues of
      several generations.

    Args:
        topology: the topology of the queue.
        queue: the queue, which is bound to a hash exchange.

    """
    if not topology.on_ring(queue) or not queue.order_by or queue.block_on_dead:
        return False
    return topology.exchanges[queue.exchange].hashes_routing_keys


class Predecessors:
    """The queues of older generations that exist, and which of them can have records of a key.

    A record waits until all queues that had its key in older generations are deleted. It waits for
    no other queue. A consumer has one Predecessors object while it tracks the old queues.
    """

    def __init__(self, names: Names, state: RingState, queues: Iterable[str]) -> None:
        """Create the object for one state of a ring.

        Args:
            names: builds the names of queues.
            state: the state of the ring.
            queues: the queues of the old generations in this state, without the deleted queues.

        """
        self.queues = set(queues)
        self._rings: list[tuple[int, dict[str, str], Ring | None]] = []
        for old in state.draining:
            if not old.members:
                continue
            members = {member: names.member(old, member) for member, _ in old.members}
            # In a disordered ring, each queue can have records of any key.
            ring = None if old.number in state.disordered_draining else Ring.of(old.members)
            self._rings.append((old.number, members, ring))

    def queues_before(self, generation_number: int, routing_key: str) -> frozenset[str]:
        """Return the existing queues of older generations that can have records of a key.

        It is called for each record of a newer queue: the record waits for these queues.

        Args:
            generation_number: the number of the generation of the record. Only queues of earlier
                generations are returned.
            routing_key: the key by which the rings select a shard.

        """
        queues = NO_QUEUES
        for older, members, ring in self._rings:
            if older >= generation_number:
                break
            owners = members.values() if ring is None else (members[ring.route(routing_key)],)
            queues = queues.union(each for each in owners if each in self.queues)
        return queues

    def forget_deleted(self, queues: Collection[str]) -> None:
        """Register that queues were deleted, so that no record waits for them any more.

        The consumer calls this when it has found that these queues are deleted.

        Args:
            queues: the names of the deleted queues on the broker.

        """
        self.queues.difference_update(queues)

    def by_generation(self) -> Iterator[list[str]]:
        """Yield the existing queues of each generation, the oldest generation first.

        A consumer checks in this order which queues are deleted.
        """
        for _, members, _ in self._rings:
            existing = [each for each in members.values() if each in self.queues]
            if existing:
                yield existing

    @property
    def oldest_generation_number(self) -> int | None:
        """The number of the oldest generation that still has a queue; None if no queue is left.

        While too many records wait for old queues, only deliveries of this generation are handled.
        """
        for number, members, _ in self._rings:
            if not self.queues.isdisjoint(members.values()):
                return number
        return None
