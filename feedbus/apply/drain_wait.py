"""Wait until the old generations, the replaced queues and the removed queues are empty.

An old generation consists of the queues of a ring that a newer ring has replaced. A *fence* is a
message that marks the end of a queue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from feedbus import broker
from feedbus.broker_names import Names, Role, has_role
from feedbus.generations import removed_queues, state_queues
from feedbus.topology import Topology
from feedbus.wire.amqp_protocols import Connection

CHECK_SECONDS = 0.25
# How long --no-wait waits for consumers to delete queues that have only a fence.
DELETION_SECONDS = 3.0
FENCE_SECONDS = 5.0  # between two fences in a removed queue that its consumer has not deleted


class LeavingQueues:
    """The queues that the topology no longer has, while their consumers empty them.

    The broker counts only the messages that are ready. A consumer may have received other messages
    that it has not handled yet. So a count of 0 does not prove that the queue is empty. Only the
    consumer can prove that the queue is empty, when it receives a fence. Then the consumer deletes
    the queue. This object puts the fence into the queue when the queue has no ready messages. At
    this moment, a queue with `max_length` has room for the fence, too.

    apply() makes one object.
    """

    def __init__(self, connection: Connection, topology: Topology, queues: Iterable[str]) -> None:
        """Create the object for queues that `feedbus apply` has unbound.

        Args:
            connection: a connection to the broker.
            topology: the topology as the file declares it now.
            queues: the names of the queues on the broker.

        """
        self._connection = connection
        self._clock = broker.clock(topology)
        self._queues = tuple(queues)
        self._fence_due_at = dict.fromkeys(
            filter(removed_queues.ends_with_fence, queues), -math.inf
        )

    def messages_left(self) -> list[int | None]:
        """Count the ready messages of each queue, and put a fence into each queue that needs one.

        There are three kinds of queues:

        - The queue of a consumer gets a fence when it has no ready messages. It is drained when the
          consumer has deleted it. The fence may expire before the consumer receives it. So after
          FENCE_SECONDS, the queue gets another fence.
        - An auxiliary queue, such as a retry queue, gets no fence. It is drained when it has no
          messages.
        - A queue named `before` has the messages of a queue that an earlier `feedbus apply` has
          replaced, and a fence. It is drained when its consumer has deleted it.

        Returns:
            For each queue the number of its ready messages, or None if the queue is drained.

        """
        return [self._messages_left(queue) for queue in self._queues]

    def _messages_left(self, queue: str) -> int | None:
        count = broker.count_messages(self._connection, queue)
        if count == 0 and queue in self._fence_due_at:
            now = self._clock.monotonic()
            if now >= self._fence_due_at[queue]:
                removed_queues.put_fence(self._connection, queue)
                self._fence_due_at[queue] = now + FENCE_SECONDS
        elif count == 0 and not has_role(queue, {Role.BEFORE}):
            return None
        return count


def await_drained(
    connection: Connection,
    topology: Topology,
    leaving: LeavingQueues,
    progress: Callable[[int], None],
) -> None:
    """Wait until old generations, removed queues and replaced queues are empty.

    `feedbus apply` calls this, unless the option --no-wait is given. There is no time limit.

    Args:
        connection: a connection to the broker.
        topology: the topology as the file declares it now.
        leaving: the removed queues that are to be deleted when they are empty.
        progress: called at each check with the number of messages that are left.

    """
    clock = broker.clock(topology)
    while (left := _messages_left(connection, topology, leaving)) is not None:
        progress(sum(left))
        clock.sleep(CHECK_SECONDS)
    progress(0)


def is_drained(
    connection: Connection,
    topology: Topology,
    leaving: LeavingQueues,
    progress: Callable[[int], None],
) -> bool:
    """Return whether old generations, removed queues and replaced queues are drained.

    `feedbus apply --no-wait` calls this. If no queue has more than one message, these messages can
    all be fences. Then the function waits a short time, in which the consumers delete the queues.

    Args:
        connection: a connection to the broker.
        topology: the topology as the file declares it now.
        leaving: the removed queues that are to be deleted when they are empty.
        progress: called once with the number of messages that are left, if the result is False.

    """
    clock = broker.clock(topology)
    end = clock.monotonic() + DELETION_SECONDS
    while (left := _messages_left(connection, topology, leaving)) is not None:
        if max(left, default=0) > 1 or clock.monotonic() > end:
            progress(sum(left))
            return False
        clock.sleep(CHECK_SECONDS)
    return True


def _messages_left(
    connection: Connection, topology: Topology, leaving: LeavingQueues
) -> list[int] | None:
    """Count the messages of each queue that drains; return None if all these queues are drained.

    A queue that drains gets no new messages, and its consumer empties it. Three kinds of queues are
    drained only when the consumer has deleted them: the queues of old generations, the removed
    queues, and the queues named `before`, which have the messages of replaced queues. An auxiliary
    queue of a removed queue, such as a retry queue, is drained when it has no messages.

    The caller calls this until the result is None.

    Args:
        connection: a connection to the broker.
        topology: the topology as the file declares it now.
        leaving: the removed queues that are to be deleted when they are empty.

    """
    counts = [
        broker.count_messages(connection, queue) for queue in _queues_to_drain(connection, topology)
    ]
    counts += leaving.messages_left()
    left = [count for count in counts if count is not None]
    if not left:
        # A consumer deletes the last queue of a generation before it removes the generation from
        # the state. So the state is read, too.
        states = state_queues.exact_states(connection, topology).values()
        if not any(state.draining for state in states):
            return None
    return left


def _queues_to_drain(connection: Connection, topology: Topology) -> Iterator[str]:
    """Yield the queues that consumers empty and then delete.

    These are the queues of old generations, and the queues with the messages of replaced queues.
    """
    names = Names(topology)
    for state in state_queues.exact_states(connection, topology).values():
        for old in state.draining:
            yield from names.members(old)
    for consumer in topology.consumers.values():
        if not topology.on_ring(consumer.queue):
            yield names.before(consumer)
