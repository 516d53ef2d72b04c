"""Transactions on the tables of a broker file: reads, and writes that wake other connections."""

from __future__ import annotations

import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from feedbus.transports.sqlite.backend_interfaces import Time
from feedbus.transports.sqlite.message_conversion import Content
from feedbus.transports.sqlite.routing import Queue, Routes, load_routes

BUSY_TIMEOUT_SECONDS = 10.0


class FileUnavailable(sqlite3.OperationalError):
    """The broker's tables cannot be used now; connections and channels raise it.

    The file is read-only, damaged or locked for too long, or the disk is full.
    """


class Transaction:
    """A running write transaction on the broker's tables; `Tables.write()` makes it.

    It collects new messages, changes of the queues' counts of ready messages, and the connections
    that must be woken after the commit. `write_added()` writes the messages. `write_state()` writes
    the counts, and the time of the next expiry check.

    Args:
        database: the database, in which the transaction has begun.
        time: the time of the broker.
    """

    def __init__(self, database: sqlite3.Connection, time: Time) -> None:
        """Create the object; the caller has begun the transaction, which holds the write lock.

        Args:
            database: the connection of SQLite on which the transaction runs.
            time: the broker's time.

        """
        self.database = database
        self.execute = database.execute
        self.now_ms = time.now_ms()
        self._time = time
        # Two counts of changes, the number of the next message, the time of the next expiry check.
        row = self.execute("SELECT topology, owners, next_message, armed_ms FROM state").fetchone()
        self.topology, self.owners, self.next_message, self.armed_ms = self._before = row
        self.routes: Routes
        self.topology_changed = False  # exchanges, queues, bindings
        self.owners_changed = False  # owners, consumers
        # Queues whose consumers must be woken, because the queue has new or returned messages.
        self.queues_with_new_messages: dict[int, Queue] = {}
        # Queues whose limits and expiry times must be checked.
        self.queues_to_check: dict[int, Queue] = {}
        # Owners (registered connections) that must be woken for another reason than new messages.
        self.owners_to_wake: set[int] = set()
        self.everyone = False  # whether to wake all owners
        self._depths: dict[int, int] = defaultdict(int)
        self._messages: list[tuple[int, str, str, str, bytes]] = []
        self._ready: list[tuple[int, int, int | None]] = []

    def add(self, queue: Queue, content: Content, expires_ms: int | None) -> None:
        """Put a new message into a queue, behind all messages of the same or a higher priority.

        Args:
            queue: the queue.
            content: the message.
            expires_ms: when it expires, in ms of the broker's time; None if it does not.

        """
        row_id = queue.row_id(self.next_message, content.priority)
        self.next_message += 1
        self._messages.append(
            (row_id, content.exchange, content.routing_key, content.properties, content.body)
        )
        self._ready.append((queue.id, row_id, expires_ms))
        self._depths[queue.id] += 1
        self.queues_with_new_messages[queue.id] = queue
        if queue.max_length is not None or queue.may_have_ttl:
            self.queues_to_check[queue.id] = queue

    def write_added(self) -> None:
        """Write the messages that add() collected, so that later SQL statements see them."""
        if self._messages:
            self.database.executemany("INSERT INTO messages VALUES (?,?,?,?,?)", self._messages)
            self.database.executemany("INSERT INTO ready VALUES (?,?,0,?)", self._ready)
            self._messages.clear()
            self._ready.clear()

    def count(self, queue: int, change: int) -> None:
        """Change a queue's count of ready messages by a number, which may be negative.

        Args:
            queue: the id of the queue.
            change: the number that is added to the count.
        """
        self._depths[queue] += change

    def depth(self, queue: int) -> int:
        """Return how many messages are ready in a queue, with the changes of this transaction.

        Args:
            queue: the id of the queue.
        """
        row = self.execute("SELECT depth FROM queues WHERE id = ?", (queue,)).fetchone()
        return (row[0] if row else 0) + self._depths.get(queue, 0)

    def current_datetime(self) -> datetime:
        """Return the wall clock's time, in UTC."""
        return self._time.current_datetime()

    def write_state(self) -> None:
        """Write the numbers of ready messages that have changed, and the row of the table `state`.

        The call is the last step before the commit. The row contains two counts of changes,
        `topology` and `owners`. When another connection finds that a count has changed, it reads
        again the data that it keeps in memory.
        """
        changed = [(change, queue) for queue, change in self._depths.items() if change]
        if changed:
            self.database.executemany("UPDATE queues SET depth = depth + ? WHERE id = ?", changed)
        self.topology += self.topology_changed
        self.owners += self.owners_changed
        after = (self.topology, self.owners, self.next_message, self.armed_ms)
        if after != self._before:
            self.execute(
                "UPDATE state SET topology = ?, owners = ?, next_message = ?, armed_ms = ?", after
            )


class Tables:
    """The database of a broker, as one connection uses it: reads, and write transactions.

    It keeps the latest routes in memory. It turns errors of SQLite into FileUnavailable.

    Args:
        name: the broker in texts of errors, such as "broker file /var/lib/app/broker.db".
        database: the connection to the database.
        time: the time of the broker.
        busy_timeout_seconds: how long the database waits for the lock of another process. It is
            only written into the texts of errors.
        shared: whether several connections use this object, as for a broker in memory. Then close()
            does nothing.
    """

    def __init__(
        self,
        name: str,
        database: sqlite3.Connection,
        time: Time,
        *,
        busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
        shared: bool = False,
    ) -> None:
        """Create the object for an open database.

        Args:
            name: the name of the broker in errors.
            database: a database with the tables of `schema`.
            time: the time that is used for all expiry.
            busy_timeout_seconds: how long the database waits for the lock of another process.
            shared: whether other connections of this process use the same database object, as for
                a broker in memory. Then close() leaves it open, and writes go to no disk.

        """
        self.name = name
        self.database = database
        self.shared = shared
        self._time = time
        self._busy_timeout_seconds = busy_timeout_seconds
        self._durable = False
        self._routes: Routes | None = None
        # One thread at a time uses the database, and no thread uses it during a fork.
        self.use = threading.RLock()

    def now_ms(self) -> int:
        """Return the broker's time in milliseconds, by which messages expire."""
        return self._time.now_ms()

    def read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run one query outside any transaction; return its rows.

        Args:
            statement: the SQL statement.
            values: the values of its placeholders.

        Raises:
            FileUnavailable: the tables cannot be read.

        """
        try:
            with self.use:
                return self.database.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise unavailable(self.name, error, self._busy_timeout_seconds) from error

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Transaction]:
        """Run the body of a `with` statement in a write transaction, and commit it.

        If the body raises an exception, the transaction is rolled back.

        Args:
            durable: whether the write must survive a power cut, not only the death of processes.

        Raises:
            FileUnavailable: the tables cannot be written.
        """
        try:
            with self.use:
                if durable != self._durable and not self.shared:  # memory needs no durable writes
                    self.database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                    self._durable = durable
                self.database.execute("BEGIN IMMEDIATE")
                try:
                    transaction = Transaction(self.database, self._time)
                    transaction.routes = self._current_routes(transaction.topology)
                    yield transaction
                    transaction.write_added()
                    transaction.write_state()
                    self._time.note(self.database, transaction.now_ms)
                    self.database.execute("COMMIT")
                except BaseException:
                    if self.database.in_transaction:
                        self.database.execute("ROLLBACK")
                    raise
        except sqlite3.DatabaseError as error:
            raise unavailable(self.name, error, self._busy_timeout_seconds) from error

    def _current_routes(self, version: int) -> Routes:
        if self._routes is None or self._routes.version != version:
            self._routes = load_routes(self.database, version)
        return self._routes

    def close(self) -> None:
        """Close the database, unless others use it; a second call does nothing."""
        if not self.shared:
            self.database.close()


def unavailable(name: str, error: Exception, busy_timeout_seconds: float) -> FileUnavailable:
    """Return a FileUnavailable that says to operators what has failed and what to do.

    Args:
        name: the broker in the text, such as "broker file /var/lib/app/broker.db".
        error: the error of SQLite or of the operating system.
        busy_timeout_seconds: how long the connection waited for a lock.
    """
    if isinstance(error, FileUnavailable):
        return error
    text = str(error)
    if "locked" in text or "busy" in text:
        reason = (
            f"another process has kept it locked for {busy_timeout_seconds:g} seconds;"
            " find the process that hangs, and end it"
        )
    elif "full" in text or getattr(error, "errno", None) == 28:  # noqa: PLR2004 -- ENOSPC
        reason = "the disk is full; free some space"
    elif "readonly" in text or getattr(error, "errno", None) in {1, 13, 30}:
        reason = f"it cannot be written ({text}); check its permissions and its file system"
    else:
        reason = text
    return FileUnavailable(f"{name}: {reason}")
