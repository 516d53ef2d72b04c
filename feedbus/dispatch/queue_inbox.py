"""The inbox of one queue: the ids of the messages that the queue has handled."""

from __future__ import annotations

from collections.abc import Sequence

from feedbus.store import Inbox


class QueueInbox:
    """The ids of the messages that one queue with `once = true` has handled.

    The table of a queue with shards can be renamed in topology.toml. Then the consumers of the new
    table also read the old queues. A message in an old queue may have been handled, but not
    acknowledged. Then the store has its id under the earlier name of the table. So while there are
    old queues, ids are searched and stored under the earlier names, too.

    The dispatch of a consumer has one QueueInbox object.

    Attributes:
        earlier_names: the earlier names of the table. Usually, there are none.

    """

    def __init__(self, inbox: Inbox, queue: str) -> None:
        """Create the object without earlier names.

        Args:
            inbox: the inbox of the store.
            queue: the name of the queue in topology.toml.

        """
        self._inbox = inbox
        self._queue = queue
        self.earlier_names: Sequence[str] = ()

    def seen(self, ids: Sequence[str]) -> set[str]:
        """Return which of the given message ids were handled before."""
        found = set(self._inbox.seen(self._queue, ids))
        for name in self.earlier_names:
            found.update(self._inbox.seen(name, ids))
        return found

    def add_new(self, ids: Sequence[str]) -> Sequence[str]:
        """Store message ids in the caller's transaction; return the ids that were not handled.

        The ids are also stored under the earlier names. So if another process has a transaction
        with one of the ids, this method waits for the end of that transaction.
        """
        new = self._inbox.add_new(self._queue, ids)
        for name in self.earlier_names:
            new = self._inbox.add_new(name, new)
        return new

    def remove(self, ids: Sequence[str]) -> None:
        """Delete ids of failed records that add_new() has stored in the same transaction.

        Such records can be handled again, so their ids must not stay in the inbox.
        """
        for name in (self._queue, *self.earlier_names):
            self._inbox.remove(name, ids)
