"""Leftover rows of the outbox: committed rows whose messages were not sent.

They must be sent before later rows of the same keys, because messages of a key stay in order.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from feedbus.clock import Clock
from feedbus.store.key_locks import Key
from feedbus.store.protocol import OutboxRow, Store
from feedbus.store.tables import now

# Another process is usually still sending its rows that are younger than this.
MIN_AGE_SECONDS = 1.0
POLL_SECONDS = 0.05  # the time between two queries while such new rows exist
LOCK_SECONDS = 5.0  # the time limit of the wait for the lock of the relay
PAGE_ROWS = 1_000  # the rows of one query for the keys of new rows
# The most leftover rows that are sent before a new row. If there are more, the relay sends them.
MAX_ROWS = 10_000


class LeftoverRows:
    """Knows whether the outbox can contain leftover rows, which must be sent before new rows.

    A process that starts does not know whether another process has left rows, so it queries once.
    After that, it queries only if one of its own rows was not sent, and after query_again().
    """

    def __init__(self, store: Store, project: str, clock: Clock) -> None:
        """Create the object; at first it is not known whether there are leftover rows.

        Args:
            store: the store with the outbox.
            project: the project of the rows.
            clock: the clock for the times in the store's rows, and for waiting.

        """
        self._store = store
        self._lock_name = f"relay.{project}"
        self.clock = clock
        self._state_lock = threading.Lock()
        self._rows_by_sender: dict[int, Sequence[int]] = {}
        self._last_foreign_row = 0  # the id of the last row of another process at the first query
        self._last_leftover_row = (
            0  # the id of the last row that may be left over; 0 if there is none
        )
        self._must_query = True  # whether rows of other processes may be left, too

    @property
    def may_exist(self) -> bool:
        """Whether the outbox can contain leftover rows."""
        return self._must_query or self._last_leftover_row != 0

    def add(self, row: int) -> None:
        """Register that rows with this id or a lower one may be left in the outbox."""
        with self._state_lock:
            self._last_leftover_row = max(self._last_leftover_row, row)

    def register_sender(self, sender: object, rows: Sequence[int]) -> None:
        """Register that this process sends rows now, so they are not leftover rows.

        Args:
            sender: identifies this call for remove_sender().
            rows: the ids of the rows.
        """
        self._rows_by_sender[id(sender)] = rows

    def remove_sender(self, sender: object) -> None:
        """End the effect of register_sender(): this process does not send these rows any more.

        Rows that are still in the outbox are leftover rows from now on.

        Args:
            sender: the argument of register_sender().
        """
        self._rows_by_sender.pop(id(sender), None)

    def query_again(self) -> None:
        """Make the next may_contain() look for rows of other processes, too."""
        with self._state_lock:
            self._must_query = True

    def may_contain(self, first_row: int) -> bool:
        """Query the outbox; return whether it contains leftover rows before a new row.

        Args:
            first_row: the id of the first new row that is to be sent.

        """
        with self._state_lock:
            if self._must_query:
                self._must_query = False
                self._last_foreign_row = first_row - 1
                self._last_leftover_row = max(self._last_leftover_row, first_row - 1)
            last_row = self._last_leftover_row
        oldest = self._store.outbox.pending(1, up_to=last_row)
        if not oldest:
            with self._state_lock:
                self._last_leftover_row = (
                    0 if self._last_leftover_row == last_row else self._last_leftover_row
                )
        return bool(oldest) and oldest[0].id < first_row

    @contextmanager
    def hold_earlier(self, first_row: int, last_row: int) -> Iterator[Sequence[OutboxRow] | None]:
        """Yield the leftover rows that have keys of the new rows; they must be sent first.

        Yield None if the new rows must stay in the outbox, too: there are too many leftover rows,
        or the relay of another process publishes them now.

        While the block runs, it holds the lock of the relay if there are leftover rows.

        Args:
            first_row: the id of the first new row.
            last_row: the id of the last new row.

        """
        if not self.may_exist or not self.may_contain(first_row):
            yield ()
            return
        read_earlier = partial(
            self._read_earlier,
            min(self._last_leftover_row, first_row - 1),
            self._keys(first_row, last_row),
        )
        while any(map(self._is_too_new, rows := read_earlier())):
            self.clock.sleep(POLL_SECONDS)
        if not rows:
            yield ()
            return
        with self._store.exclusive(self._lock_name, wait_seconds=LOCK_SECONDS) as acquired:
            rows = read_earlier() if acquired else []
            yield rows if acquired and len(rows) < MAX_ROWS else None

    def _read_earlier(self, up_to: int, keys: Collection[Key]) -> list[OutboxRow]:
        rows = self._store.outbox.pending(MAX_ROWS, up_to=up_to, keys=keys)
        sending = set().union(*list(self._rows_by_sender.values()))
        return [row for row in rows if row.id not in sending]

    def _keys(self, first_row: int, last_row: int) -> set[Key]:
        """Return the exchanges and routing keys of the rows from one id to another."""
        keys, after = set[Key](), first_row - 1
        while rows := self._store.outbox.pending(PAGE_ROWS, after=after, up_to=last_row):
            keys.update((row.exchange, row.key) for row in rows)
            after = rows[-1].id
        return keys

    def _is_too_new(self, row: OutboxRow) -> bool:
        """Whether a row is so new that the process that added it may be sending it now."""
        age = (now(self.clock) - row.created_at) / 1_000_000
        return row.id <= self._last_foreign_row and 0 <= age < MIN_AGE_SECONDS
