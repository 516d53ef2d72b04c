"""Decide which records may run now: one record of each key at a time, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Keyed(Protocol):
    """An item with an ordering key; items whose key is None have no order."""

    @property
    def key(self) -> Hashable:
        """The ordering key; None for an item without order."""


Item = TypeVar("Item", bound=Keyed)


class Sequencer(Generic[Item]):
    """Decides which records of a consumer may run now: one record of each key at a time, in order.

    A record waits, then it is ready to run, then it runs. While a record of a key is ready or runs,
    the later records of the key wait. When a record has run, the caller calls one of these methods:

    - end(): the next record of the key becomes ready.
    - remove_key(): the record has failed and blocks its key. Its later records are removed, because
      the caller sends them to the waiting queue on the broker.
    - repeat(): the call ended with an outage. The record becomes ready again.

    The class does no I/O and uses no threads. The concurrent mode has one Sequencer object.
    """

    def __init__(self, max_running: int) -> None:
        """Create the sequencer; this number of records can run at the same time."""
        self._max_running = max_running
        self._ready: deque[Item] = deque()
        self._running: set[Item] = set()
        # For each key of which a record is ready or runs: the later records, which wait; None if
        # there are none.
        self._waiting: dict[Hashable, deque[Item] | None] = {}

    def __len__(self) -> int:
        """Count the records that wait, are ready or run."""
        waiting = sum(len(line) for line in self._waiting.values() if line is not None)
        return len(self._ready) + len(self._running) + waiting

    @property
    def running(self) -> set[Item]:
        """The records that run; the caller must not change the set."""
        return self._running

    @property
    def has_capacity(self) -> bool:
        """Whether fewer records are running or ready to run than may run at the same time.

        If this is true, further deliveries are decoded.
        """
        return len(self._ready) + len(self._running) < self._max_running

    def add(self, item: Item) -> None:
        """Add a record that arrived after all earlier ones.

        Args:
            item: the record, with its ordering key.

        """
        key = item.key
        if key is None:
            self._ready.append(item)
        elif key not in self._waiting:
            self._waiting[key] = None
            self._ready.append(item)
        else:
            line = self._waiting[key]
            if line is None:
                line = self._waiting[key] = deque()
            line.append(item)

    def take(self) -> list[Item]:
        """Return the ready records that may run now, and count them as running.

        After this call, at most `max_running` records run.
        """
        items: list[Item] = []
        while self._ready and len(self._running) < self._max_running:
            item = self._ready.popleft()
            self._running.add(item)
            items.append(item)
        return items

    def end(self, item: Item) -> None:
        """End a record, so that the next record of its key becomes ready.

        The caller does this when the record was handled, or has failed without blocking its key.

        Args:
            item: a running record.

        """
        self._running.remove(item)
        if item.key is None:
            return
        line = self._waiting[item.key]
        if line:
            self._ready.append(line.popleft())
        else:
            del self._waiting[item.key]

    def remove_key(self, item: Item) -> list[Item]:
        """End a record; remove and return the later records of its key.

        The caller does this when the record has failed and blocks its key. The caller sends the
        later records to the waiting queue.

        Args:
            item: a running record.

        """
        self._running.remove(item)
        return list(self._waiting.pop(item.key, None) or ())

    def repeat(self, item: Item) -> None:
        """Make a record ready again, before the later records of its key.

        The caller does this when the call of the record ended with an outage.

        Args:
            item: a running record.

        """
        self._running.remove(item)
        self._ready.appendleft(item)

    def forget_waiting(self) -> None:
        """Remove every record that does not run; called when the connection ends."""
        self._ready.clear()
        self._waiting = {item.key: None for item in self._running if item.key is not None}
