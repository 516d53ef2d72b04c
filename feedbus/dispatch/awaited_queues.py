"""Count the records that wait for the deletion of queues of older generations.

A change of shards creates new queues, a new generation. The queues of the older generations can
still contain earlier records of a key. So a record of this key in a newer queue waits until all
these older queues are deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import KeysView


class AwaitedQueues:
    """Counts, for each queue of an older generation, the records that wait for it.

    WaitingRecords, the waiting records of one consumer, has one AwaitedQueues object.

    Attributes:
        record_count: how many records wait for the deletion of one or more queues.

    """

    def __init__(self) -> None:
        """Start without records."""
        self.record_count = 0
        self._record_counts: Counter[str] = Counter()

    @property
    def queues(self) -> KeysView[str]:
        """The names, on the broker, of the older queues for which records wait."""
        return self._record_counts.keys()

    def update(self, queues: frozenset[str], change: int) -> None:
        """Add one to the counts of these queues, or subtract one.

        Args:
            queues: the names of the queues that one record waits for. If there are none, nothing is
                counted.
            change: 1 if the record begins to wait, -1 if the record no longer waits.

        """
        if queues:
            self.record_count += change
            for queue in queues:
                self._record_counts[queue] += change
                if not self._record_counts[queue]:
                    del self._record_counts[queue]

    def clear(self) -> None:
        """Set all counts to 0, because the waiting records are forgotten."""
        self.record_count = 0
        self._record_counts.clear()
