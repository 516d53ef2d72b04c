"""The records whose keys are not blocked by a message that another process has sent.

With `block_on_dead`, a consumer sends a dead letter, and then the *blocking message*, which blocks
the key. When the broker has confirmed both, the consumer acknowledges the record. Suppose that the
process or its connection ends before that, and that the blocking message is delayed. Then another
process reads the queue, and the blocking message arrives in the waiting queue of this process. The
message must not block the key if the process knows that the key is unblocked, or if the process
decides on the record itself. There are three cases, in which the id of the record is kept here:

- The broker has delivered the record again. Then the record succeeds, for example, or becomes a
  dead letter again, with another blocking message.
- An operator has requeued the dead letter.
- The dead letter was deleted, and a request to release its key has arrived.

If the blocking message arrives before that, it blocks the key as usual. Then it is found when one
of these cases happens.

The ids are kept when the connection ends. Then the broker delivers the blocking messages of this
process again, before the consumer has begun to read. So a blocking message that arrives before that
is not obsolete.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

MAX_IDS = 50_000  # how many ids are kept: the latest ones


class ObsoleteBlocks:
    """The records whose keys a late blocking message of another process must not block.

    A *blocking message* in the waiting queue blocks the key of a dead letter (`block_on_dead`). If
    the process that sends it ends, the message can arrive after the next process has received the
    record again, or after an operator has requeued or dropped the dead letter. Then the message is
    obsolete, and the next process ignores it.

    After a change of shards, a blocking message is moved to the waiting queue of another
    generation. There it is new, but not obsolete. So the object keeps each id of a record together
    with the name of one waiting queue.

    WaitingDeliveries has one ObsoleteBlocks object. Without `block_on_dead`, it stays empty.
    """

    def __init__(self) -> None:
        """Start without ids."""
        self._ids: OrderedDict[tuple[str, str], None] = OrderedDict()  # the latest ones last

    def add(self, waiting_queue: str, message_ids: Iterable[str]) -> None:
        """Add records whose blocking messages are obsolete if they arrive from now on.

        Args:
            waiting_queue: the waiting queue in which these blocking messages can arrive.
            message_ids: the ids of the records.

        """
        for each in message_ids:
            self._ids[waiting_queue, each] = None
            self._ids.move_to_end((waiting_queue, each))
        while len(self._ids) > MAX_IDS:
            self._ids.popitem(last=False)

    def contain(self, waiting_queue: str, message_id: str) -> bool:
        """Whether a blocking message of another process is obsolete.

        The caller ignores the result for messages that this process has sent itself.

        Args:
            waiting_queue: the waiting queue that has delivered the message.
            message_id: the id of the record that has become a dead letter.

        """
        return (waiting_queue, message_id) in self._ids
