"""Decide which records may run now: one record of each key at a time, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Keyed(Protocol):
    """An item with an ordering key; items whose key is None have no order."""

    @property
    def key(self) -> Hashable:
        """The key."""


Item = TypeVar("Item", bound=Keyed)


class Sequencer(Generic[Item]):
    """Records that wait or run; this class does no I/O and uses no threads.

    When a record becomes ready to run, its key is blocked until end() is called with the record.
    If the record has failed and will run again, cut() removes the later records of its key.
    """

    def __init__(self, most: int) -> None:
        """Create the sequencer; this number of records can run at the same time."""
        self._most = most
        self._ready: deque[Item] = deque()
        self._running: set[Item] = set()
        # For each blocked key, the records that wait; None if no record waits.
        self._behind: dict[Hashable, deque[Item] | None] = {}

    def __len__(self) -> int:
        """Count the records that wait or run."""
        behind = sum(len(line) for line in self._behind.values() if line is not None)
        return len(self._ready) + len(self._running) + behind

    @property
    def running(self) -> set[Item]:
        """The records that run; the caller must not change the set."""
        return self._running

    @property
    def hungry(self) -> bool:
        """Whether more records may run than are running or ready to run."""
        return len(self._ready) + len(self._running) < self._most

    def add(self, item: Item) -> None:
        """Add a record that arrived after all others."""
        key = item.key
        if key is None:
            self._ready.append(item)
        elif key not in self._behind:
            self._behind[key] = None
            self._ready.append(item)
        else:
            line = self._behind[key]
            if line is None:
                line = self._behind[key] = deque()
            line.append(item)

    def take(self) -> list[Item]:
        """Return the records that may run now, and count them as running."""
        taken: list[Item] = []
        while self._ready and len(self._running) < self._most:
            item = self._ready.popleft()
            self._running.add(item)
            taken.append(item)
        return taken

    def end(self, item: Item) -> None:
        """End a record, so that the next record of its key may run."""
        self._running.remove(item)
        if item.key is None:
            return
        line = self._behind[item.key]
        if line:
            self._ready.append(line.popleft())
        else:
            del self._behind[item.key]

    def cut(self, item: Item) -> list[Item]:
        """End a record, and remove the later records of its key, so that they do not run."""
        self._running.remove(item)
        return list(self._behind.pop(item.key, None) or ())

    def again(self, item: Item) -> None:
        """Let a record run again, before the later records of its key."""
        self._running.remove(item)
        self._ready.appendleft(item)

    def forget_waiting(self) -> None:
        """Remove every record that does not run."""
        self._ready.clear()
        self._behind = {item.key: None for item in self._running if item.key is not None}
