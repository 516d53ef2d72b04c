"""Locks of keys, so that only one thread of a process sends outbox rows of a key at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

Key = tuple[str, str]  # an exchange of the topology, and a routing key


class KeyLocks:
    """A lock for each key of the outbox.

    Threads of a process get a lock in the order of their rows. A key is a pair of an exchange and a
    routing key. Two threads without these locks could break the order of a key: one thread sends an
    earlier row, the other thread sends a later row, and then the broker refuses the earlier row.
    Two threads could also send the same leftover row: a row that an earlier attempt did not send.
    """

    def __init__(self) -> None:
        """Create the locks; no key is locked."""
        self._condition = threading.Condition()
        self._keys_being_sent: set[Key] = set()
        self._registered_keys: dict[int, set[Key]] = {}

    def register(self, first_row: int, keys: Iterable[Key]) -> None:
        """Register rows before their commit, so that no other thread sends later rows first.

        Without the registration, another thread could commit and send a later row of a key before
        the thread of the earlier row calls hold(). With the registration, hold() of the other
        thread waits. The registration ends with hold() or withdraw().

        Args:
            first_row: the id of the first row of this thread; it identifies the registration.
            keys: the keys of all rows, each as (exchange, routing key).
        """
        with self._condition:
            self._registered_keys[first_row] = set(keys)

    def withdraw(self, first_row: int) -> None:
        """Remove the registration of rows that are not sent, so that no thread waits for them.

        Args:
            first_row: the id of the first row, as it was given to register().
        """
        with self._condition:
            if self._registered_keys.pop(first_row, None) is not None:
                self._condition.notify_all()

    @contextmanager
    def hold(self, first_row: int, keys: Iterable[Key]) -> Iterator[None]:
        """Hold the locks of keys in a `with` block, in which the rows of these keys are sent.

        Before the block, wait until no other thread holds one of these locks, and no other thread
        has registered earlier rows of these keys.

        Args:
            first_row: the id of the first row to send.
            keys: the keys of all rows to send, each as (exchange, routing key).
        """
        wanted_keys = set(keys)
        with self._condition:
            self._registered_keys[first_row] = wanted_keys
            try:
                self._condition.wait_for(lambda: self._is_free(first_row, wanted_keys))
                self._keys_being_sent |= wanted_keys
            finally:
                self._registered_keys.pop(first_row, None)
                # If the wait was interrupted (Ctrl-C), other threads no longer wait for these rows.
                self._condition.notify_all()
        try:
            yield
        finally:
            with self._condition:
                self._keys_being_sent -= wanted_keys
                self._condition.notify_all()

    def in_use(self) -> set[Key]:
        """Return the keys that threads have registered or hold, each as (exchange, routing key).

        The relay does not send rows of these keys: another thread is about to send such rows.
        """
        with self._condition:
            return self._keys_being_sent.union(*self._registered_keys.values())

    def _is_free(self, first_row: int, wanted: set[Key]) -> bool:
        return wanted.isdisjoint(self._keys_being_sent) and all(
            wanted.isdisjoint(keys)
            for other_first_row, keys in self._registered_keys.items()
            if other_first_row < first_row
        )
