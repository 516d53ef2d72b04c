"""Locks of keys, so that only one thread of a process sends rows of a key at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

Key = tuple[str, str]  # an exchange of the topology, and a routing key


class KeyLocks:
    """A lock for each key of the outbox; threads get a lock in the order of their rows.

    Without the locks, a thread could send a row while an earlier row of its key is refused in
    another thread. It could also send a leftover row that another thread is sending at this moment.
    """

    def __init__(self) -> None:
        """Create the locks; no key is locked."""
        self._changed = threading.Condition()
        self._sending: set[Key] = set()
        self._waiting: dict[int, set[Key]] = {}

    def register(self, first: int, keys: Iterable[Key]) -> None:
        """Let threads with later rows of these keys wait, before the rows are committed.

        Without this, another thread could commit and send a later row of a key before the thread of
        the earlier row calls hold().
        """
        with self._changed:
            self._waiting[first] = set(keys)

    def withdraw(self, first: int) -> None:
        """Let no thread wait for rows that were registered and are not sent."""
        with self._changed:
            if self._waiting.pop(first, None) is not None:
                self._changed.notify_all()

    @contextmanager
    def hold(self, first: int, keys: Iterable[Key]) -> Iterator[None]:
        """Hold the locks of keys; wait for threads that send or have earlier rows of these keys.

        Args:
            first: the first row to send.
            keys: the keys of all rows to send.

        """
        wanted = set(keys)
        with self._changed:
            self._waiting[first] = wanted
            try:
                self._changed.wait_for(lambda: self._free(first, wanted))
                self._sending |= wanted
            finally:
                self._waiting.pop(first, None)
        try:
            yield
        finally:
            with self._changed:
                self._sending -= wanted
                self._changed.notify_all()

    def in_use(self) -> set[Key]:
        """Return the keys of all threads that send, or wait to send."""
        with self._changed:
            return self._sending.union(*self._waiting.values())

    def _free(self, first: int, wanted: set[Key]) -> bool:
        return wanted.isdisjoint(self._sending) and all(
            wanted.isdisjoint(keys) for row, keys in self._waiting.items() if row < first
        )
