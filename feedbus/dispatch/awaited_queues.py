"""The queues of older generations that waiting records wait for, with the number of records."""

from __future__ import annotations

from collections import Counter
from collections.abc import KeysView


class AwaitedQueues:
    """Counts the records that wait for each queue.

    Attributes:
        records: how many records wait for at least one queue.

    """

    def __init__(self) -> None:
        """Start without records."""
        self.records = 0
        self._records_of: Counter[str] = Counter()

    @property
    def queues(self) -> KeysView[str]:
        """The names of the queues that records wait for."""
        return self._records_of.keys()

    def count(self, queues: frozenset[str], change: int) -> None:
        """Add or remove one record that waits for these queues.

        Args:
            queues: the names of the queues; if there are none, the record is not counted.
            change: 1 to add the record, -1 to remove it.

        """
        if queues:
            self.records += change
            for queue in queues:
                self._records_of[queue] += change
                if not self._records_of[queue]:
                    del self._records_of[queue]

    def clear(self) -> None:
        """Remove all records."""
        self.records = 0
        self._records_of.clear()
