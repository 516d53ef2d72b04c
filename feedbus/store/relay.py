"""The relay publishes rows of the outbox, removes them, and deletes old rows of the inbox.

The outbox is the table of messages that were committed and are not published yet. The inbox is the
table of the ids of messages that were handled.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self

from feedbus.clock import SYSTEM, Clock
from feedbus.errors import Outage
from feedbus.generations import topology_setup
from feedbus.logs import EventLog
from feedbus.printable import one_line
from feedbus.store.key_locks import Key, KeyLocks
from feedbus.store.leftover_rows import LeftoverRows
from feedbus.store.outbox_publishing import (
    IN_FLIGHT_SECONDS,
    RelayBus,
    log_rows_left,
    publish_in_waves,
    publish_pending,
)
from feedbus.store.protocol import OutboxRow, Store
from feedbus.topology import KEEP_HANDLED_SECONDS, Topology

events = EventLog(__name__)

CHECK_SECONDS = 5.0  # the time between two attempts to publish leftover rows
RETRY_SECONDS = 1.0  # the time between two attempts after an error
# The thread waits for this time before each round, so that it removes many published rows together.
GATHER_SECONDS = 0.05
PRUNE_SECONDS = 60.0  # the time between two deletions of old rows of the inbox
PRUNED_ROWS = 1_000  # rows that are deleted from the inbox in one step
# The thread waits for this time between two steps, so that other transactions can write: in
# SQLite, only one transaction can write at a time.
PRUNE_PAUSE_SECONDS = 0.05


class Relay:
    """Publishes rows of the outbox: leftover rows in a thread, and new rows by publish().

    Leftover rows are committed rows whose messages were not sent, for example because the process
    has ended. The operations process uses only the thread. A program that puts rows into the outbox
    itself can use both: it calls publish() with the rows after its commit.

    During an outage of the broker, publish() raises no error. The rows stay in the outbox, and the
    thread publishes them when the broker answers again. Until then, publish() does not try to send
    new rows, but leaves them in the outbox. The thread also removes published rows, many together,
    and deletes rows of the inbox that are older than the option keep_handled of [store].

    Args:
        topology: the topology of the project.
        store: the store with the outbox.
        bus: publishes the messages.
        clock: gives the time, and waits.

    Example:
        with Relay(topology, store, bus) as relay:
            with store.transaction():
                row = store.outbox.put("orders", {"id": 1}, "chair")
            relay.publish([row])
    """

    def __init__(
        self, topology: Topology, store: Store, bus: RelayBus, clock: Clock = SYSTEM
    ) -> None:
        """Create the relay; its thread runs during the relay's `with` block.

        Args:
            topology: the topology of the system.
            store: the store with the outbox.
            bus: publishes the messages.
            clock: the clock for the times in the store's rows, and for waiting.

        """
        self._clock = clock
        self.store = store
        self._bus = bus
        self._topology = topology
        self._project = topology.name
        options = topology.store
        self._keep_seconds = options.keep_handled_seconds if options else KEEP_HANDLED_SECONDS
        self._is_set_up = False
        # Whether the last attempt of publish() failed. If so, publish() leaves new rows to the
        # thread.
        self._is_unavailable = False
        self._published_ids: list[int] = []  # the ids of published rows that are not removed yet
        self._leftover_rows = LeftoverRows(store, topology.name, clock)
        self._locks = KeyLocks()
        # The next times at which the thread publishes leftover rows and deletes old rows of the
        # inbox. The first round does both, because an earlier process may have left rows.
        self._check_at = self._prune_at = -math.inf
        self._logged_error = ""  # the last logged error, until a round of the thread succeeds
        self._wake_requested = threading.Event()
        self._stop_requested = threading.Event()
        self._thread = threading.Thread(target=self.run, name="relay")

    def publish(self, rows: Iterable[OutboxRow]) -> None:
        """Publish committed rows of the outbox, or leave them to the thread.

        If the broker or the store fails, no error is raised: the thread publishes the rows later.

        Args:
            rows: the rows that put() has returned, in the order of their ids.
        """
        rows = list(rows)
        if rows:
            with self._locks.hold(rows[0].id, ((row.exchange, row.key) for row in rows)):
                self._publish_locked(rows)
            self._wake_requested.set()

    def _publish_locked(self, rows: Sequence[OutboxRow]) -> None:
        sent_ids: set[int] = set()
        try:
            if not self._is_unavailable:
                sent_ids.update(self._publish(rows))
        except Exception as error:  # noqa: BLE001 -- the rows are published later, after any error
            self._is_unavailable = True
            self._bus.close()
            self._log_once(error)
        if any(row.id not in sent_ids for row in rows):
            self._leftover_rows.add([row.id for row in rows])

    def _publish(self, rows: Sequence[OutboxRow]) -> Iterator[int]:
        """Publish rows, and before them the leftover rows of their keys.

        Yields:
            The ids of the rows that the broker has accepted.

        """
        published_ids = set(self._published_ids)  # these rows can still be in the outbox
        with self._leftover_rows.hold_earlier(rows[0].id, rows[-1].id) as earlier:
            if earlier is None:
                return  # the new rows must stay in the outbox; see hold_earlier()
            leftover = [row for row in earlier if row.id not in published_ids]
            for row_id in publish_in_waves(self._bus, [*leftover, *rows]):
                self._published_ids.append(row_id)
                yield row_id

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until the thread has removed the published rows from the outbox and has ended."""
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """Request the end of run(), and return at once; run() first removes the published rows."""
        self._stop_requested.set()
        self._wake_requested.set()

    def run(self) -> None:
        """Do the work of the thread, in rounds, until stop() is called.

        The `with` block starts the thread. A round publishes leftover rows, removes published rows,
        and deletes old rows of the inbox. An error is logged, and the next round tries again after
        1 s.
        """
        while not self._stop_requested.is_set():
            wait_seconds = max(self._check_at - self._clock.monotonic(), 0.0)
            self._clock.wait(self._wake_requested, wait_seconds)
            self._clock.wait(self._stop_requested, GATHER_SECONDS)
            self._wake_requested.clear()
            try:
                self._work()
            except Exception as error:  # noqa: BLE001 -- the thread must continue
                self._log_once(error)
                self._check_at = -math.inf
                # This wait is not for _wake_requested, so publish() does not shorten it.
                self._clock.wait(self._stop_requested, RETRY_SECONDS)
            else:
                self._logged_error = ""
        try:
            self._remove_published()
        except Outage as error:
            log_rows_left(len(self._published_ids), error)

    def _log_once(self, error: Exception) -> None:
        """Log an error, unless it is the same as the previous one."""
        text = one_line(error)
        if self._logged_error != text:
            self._logged_error = text
            is_outage = isinstance(error, Outage) or self.store.is_outage(error)
            events.write(
                logging.WARNING if is_outage else logging.ERROR,
                "relay_waits",
                "messages cannot be published; they stay in the outbox, and feedbus tries again"
                f" every {RETRY_SECONDS:g} s",
                error=text,
            )

    def _work(self) -> None:
        """Do one round of the work of the thread.

        Each round removes published rows from the outbox. Every CHECK_SECONDS, and after publish()
        has failed, a round publishes leftover rows. Every PRUNE_SECONDS, a round deletes old rows
        of the inbox.
        """
        if not self._is_set_up:
            self.store.set_up()
            topology_setup.set_up_if_missing(self._topology)
            self._is_set_up = True
        self._remove_published()
        if self._is_unavailable or self._clock.monotonic() >= self._check_at:
            self._publish_leftover_rows()
            self._check_at = self._clock.monotonic() + CHECK_SECONDS
        if self._clock.monotonic() >= self._prune_at:
            self._prune()
            self._prune_at = self._clock.monotonic() + PRUNE_SECONDS

    def _publish_leftover_rows(self) -> None:
        # Usually rows younger than IN_FLIGHT_SECONDS are left out, because publish() may still be
        # sending them. After a failure, publish() sends nothing, and leaves its rows to this
        # thread. So the age of these rows does not matter then; see _leave_out_published().
        min_age_seconds = 0.0 if self._is_unavailable else IN_FLIGHT_SECONDS
        count = publish_pending(
            self.store,
            self._bus,
            self._project,
            older_than_seconds=min_age_seconds,
            choose=self._leave_out_published(),
        )
        if count or self._is_unavailable or self._logged_error:
            text = "messages of the outbox were published" if count else "the outbox is empty again"
            events.info("outbox_relayed", text, messages=count)
        self._is_unavailable = False

    def _leave_out_published(self) -> Callable[[Sequence[OutboxRow]], Sequence[OutboxRow]]:
        """Return a function that leaves out rows that were published or are being published.

        If the relay's thread also published such a row, the second message could arrive after later
        messages of its key.

        publish_pending() reads the rows in pages, and calls the function for each page. If
        publish() is publishing rows of a key at that time, in another thread, the function leaves
        out all rows of the key in this page and in later pages. The reason: publish() can fail, and
        leave its rows in the outbox. Then later rows of the key must not be published before them.
        A row that another process may be publishing holds back the later rows of its key, too.
        """
        busy: set[Key] = set()

        def choose(rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
            busy.update(self._locks.in_use())
            # The ids are read after the locks, because publish() first adds the ids of its rows to
            # `_published_ids`, and then releases the locks of their keys. In the other order, a
            # call of publish() that ends between the two reads would not be seen.
            published_ids = set(self._published_ids)
            # Without an outage, publish_pending() has left out the young rows.
            in_flight = self._leftover_rows.find_in_flight(rows) if self._is_unavailable else ()
            chosen: list[OutboxRow] = []
            for row in rows:
                if row.id in in_flight and row.id not in published_ids:
                    busy.add((row.exchange, row.key))
                elif (row.exchange, row.key) not in busy and row.id not in published_ids:
                    chosen.append(row)
            return chosen

        return choose

    def _remove_published(self) -> None:
        """Remove published rows; if that fails, keep their ids to try again later."""
        ids = list(self._published_ids)
        if ids:
            with self.store.transaction():
                self.store.outbox.remove(ids)
            del self._published_ids[: len(ids)]

    def _prune(self) -> None:
        """Delete old rows of the inbox, at most PRUNED_ROWS in each transaction.

        With larger transactions on SQLite, handlers would wait long until they can write. If
        another process is deleting old rows of the project's inbox, this method ends at once.
        """
        while not self._stop_requested.is_set():
            with (
                self.store.exclusive(f"prune.{self._project}") as acquired,
                self.store.transaction(),
            ):
                pruned = self.store.inbox.forget(self._keep_seconds, PRUNED_ROWS) if acquired else 0
            if pruned < PRUNED_ROWS:
                return
            self._clock.wait(self._stop_requested, PRUNE_PAUSE_SECONDS)
