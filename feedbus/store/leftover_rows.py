"""Leftover rows of the outbox: committed rows whose messages were not sent.

Messages of a key must stay in order. So before a process sends new rows, it sends the leftover rows
of the same keys. The relay, a thread of the operations process, sends all leftover rows. A process
that sends leftover rows holds the lock of the relay, so that no other process sends the same rows
at the same time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from feedbus.clock import Clock
from feedbus.errors import FeedbusError, StoreOutage
from feedbus.store.key_locks import Key
from feedbus.store.protocol import OutboxRow, Store
from feedbus.store.tables import now

# While a row of another process is younger than this, that process is usually still sending it.
MIN_AGE_SECONDS = 1.0
POLL_SECONDS = 0.05  # the time between two queries while there are such young rows
LOCK_SECONDS = 5.0  # the time limit of the wait for the lock of the relay
PAGE_ROWS = 1_000  # a query for the keys of the new rows reads at most this many rows
# If so many leftover rows must be sent before new rows, the new rows are left to the relay, too.
MAX_ROWS = 10_000


class LeftoverRows:
    """Knows whether the outbox can contain leftover rows, which must be sent before new rows.

    A leftover row is a committed row whose message was not sent. A process that starts does not
    know whether another process has left rows, so it queries the outbox once. Later it queries the
    outbox only if one of its own rows was not sent, or after query_again(). A process has one
    LeftoverRows object for each part that sends rows: a bus, the dispatch of a queue, or a relay.
    """

    def __init__(self, store: Store, project: str, clock: Clock) -> None:
        """Create the object; at first it is not known whether there are leftover rows.

        Args:
            store: the store with the outbox.
            project: the name of the project; the name of the relay's lock contains it.
            clock: the clock for the times in the store's rows, and for waiting.

        """
        self._store = store
        self._lock_name = f"relay.{project}"
        self.clock = clock
        self._state_lock = threading.Lock()
        # The ids of the rows that senders of this process will send, by the id() of the sender.
        self._rows_by_sender: dict[int, Sequence[int]] = {}
        # The monotonic time of each call of add(), with the ids of its rows. No sender sends these
        # rows now, so hold_earlier() does not wait until they are old enough. After MIN_AGE_SECONDS
        # they are old enough, and the entry is deleted.
        self._recently_left: deque[tuple[float, frozenset[int]]] = deque()
        # The last id of a row that may be a leftover row; 0 if there is none.
        self._last_leftover_row = 0
        # How often leftover rows were registered. may_contain() compares this number before and
        # after its query.
        self._registrations = 0
        # Whether the next may_contain() must include rows of other processes.
        self._must_query = True

    @property
    def may_exist(self) -> bool:
        """Whether the outbox can contain leftover rows; this does not query the outbox."""
        return self._must_query or self._last_leftover_row != 0

    def add(self, rows: Sequence[int]) -> None:
        """Register that the messages of these rows were not sent, so they may be leftover rows.

        A sender calls this when it could not send its rows. From now on, may_contain() searches the
        outbox up to the last of these rows.

        Args:
            rows: the ids of the rows of the sender, ascending; at least one.
        """
        with self._state_lock:
            self._register_locked(rows[-1])
            present = self.clock.monotonic()
            while self._recently_left and self._recently_left[0][0] < present - MIN_AGE_SECONDS:
                self._recently_left.popleft()
            self._recently_left.append((present, frozenset(rows)))

    def _register_locked(self, row: int) -> None:
        self._last_leftover_row = max(self._last_leftover_row, row)
        self._registrations += 1

    def register_sender(self, sender: object, rows: Sequence[int]) -> None:
        """Register that a sender will send rows; until remove_sender(), they are not leftover rows.

        Args:
            sender: an object that identifies these rows for remove_sender().
            rows: the ids of the rows.
        """
        self._rows_by_sender[id(sender)] = rows

    def remove_sender(self, sender: object) -> None:
        """End the effect of register_sender(): this process does not send these rows any more.

        If some of them are still in the outbox, they are leftover rows from now on.

        Args:
            sender: the object that was given to register_sender().
        """
        self._rows_by_sender.pop(id(sender), None)

    def query_again(self) -> None:
        """Make the next may_contain() include rows of other processes.

        A consumer calls this when another process may have handled messages of its queue until now:
        for example when it begins to read the queue, or when a message is already in the inbox.
        """
        with self._state_lock:
            self._must_query = True

    def may_contain(self, first_row: int) -> bool:
        """Query the outbox; return whether it may contain leftover rows before a new row.

        The result can also be True if other threads of this process are sending the earlier rows.

        Args:
            first_row: the id of the first new row that is to be sent.

        """
        with self._state_lock:
            if self._must_query:
                # Each earlier row may be a leftover row of another process.
                self._must_query = False
                self._register_locked(first_row - 1)
            last_row, registrations = self._last_leftover_row, self._registrations
        oldest = self._store.outbox.pending(1, up_to=last_row)
        if not oldest:
            with self._state_lock:
                # If a row was registered during the query, it may still be in the outbox, so
                # `_last_leftover_row` is kept. This is also true for a row with a lower id than
                # `last_row`: PostgreSQL can commit the lower of two ids after the query.
                if self._registrations == registrations:
                    self._last_leftover_row = 0
        return bool(oldest) and oldest[0].id < first_row

    @contextmanager
    def hold_earlier(self, first_row: int, last_row: int) -> Iterator[Sequence[OutboxRow] | None]:
        """Yield the leftover rows with the keys of the new rows; the caller sends them first.

        If there are leftover rows, the block holds the lock of the relay, so that no relay sends
        them at the same time. If a row of another process is younger than 1 s, that process may
        still be sending it. Then the function first waits until the row is gone or old enough.

        Yield None if the new rows must stay in the outbox, too, for one of these reasons:

        - There are too many leftover rows: 10,000 or more.
        - Another process, such as a relay, holds the lock for longer than 5 s.

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
        while self.find_in_flight(rows := read_earlier()):
            self.clock.sleep(POLL_SECONDS)
        if not rows:
            yield ()
            return
        failure: FeedbusError | None = None
        with self._store.exclusive(self._lock_name, wait_seconds=LOCK_SECONDS) as acquired:
            # During the wait for the lock, a relay can have sent some of the rows.
            rows = read_earlier() if acquired else []
            try:
                yield rows if acquired and len(rows) < MAX_ROWS else None
            except StoreOutage:
                raise
            except FeedbusError as error:
                # It is raised after the block: on PostgreSQL, the block is a transaction, and an
                # error inside it would undo the removal of the rows that were sent.
                failure = error
        if failure is not None:
            raise failure

    def _read_earlier(self, up_to: int, keys: Collection[Key]) -> list[OutboxRow]:
        own_ids = set().union(*list(self._rows_by_sender.values()))  # this process sends these rows
        # The limit includes the own rows, so that up to MAX_ROWS other rows are found.
        rows = self._store.outbox.pending(MAX_ROWS + len(own_ids), up_to=up_to, keys=keys)
        return [row for row in rows if row.id not in own_ids]

    def _keys(self, first_row: int, last_row: int) -> set[Key]:
        """Return the exchanges and routing keys of the rows from one id to another."""
        keys, after = set[Key](), first_row - 1
        while rows := self._store.outbox.pending(PAGE_ROWS, after=after, up_to=last_row):
            keys.update((row.exchange, row.key) for row in rows)
            after = rows[-1].id
        return keys

    def find_in_flight(self, rows: Sequence[OutboxRow]) -> set[int]:
        """Return the ids of rows that are so young that another process may still send them.

        Rows that this process has given to add() are not in flight. A row can have a time in the
        future, if the clock was set back. Such a row does not count as young: the caller would wait
        until the row is old enough, which could be long.

        Args:
            rows: rows of the outbox.

        """
        present = now(self.clock)
        young_ids = {
            row.id for row in rows if 0 <= present - row.created_at < MIN_AGE_SECONDS * 1_000_000
        }
        with self._state_lock:
            return young_ids.difference(*(ids for _, ids in self._recently_left))
