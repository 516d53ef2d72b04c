"""The queues of older generations that waiting records wait for, with the number of records.

After a change of shards, an older queue can still contain earlier records of a key. A record of
this key in a newer queue waits until the older queue is deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import KeysView


class AwaitedQueues:
    """Counts, for each queue of an older generation, the records that wait for it.

    WaitingRecords, the waiting records of one consumer, has one AwaitedQueues object.

    Attributes:
        record_count: how many records wait for at least one queue.

    """

    def __init__(self) -> None:
        """Start without records."""
        self.record_count = 0
        self._record_counts: Counter[str] = Counter()

    @property
    def queues(self) -> KeysView[str]:
        """The names of the older queues, on the broker, that records wait for."""
        return self._record_counts.keys()

    def update(self, queues: frozenset[str], change: int) -> None:
        """Count one more or one fewer record that waits for these queues.

        Args:
            queues: the names of the queues. If there are none, nothing is counted.
            change: 1 if a record begins to wait, -1 if it no longer waits.

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
