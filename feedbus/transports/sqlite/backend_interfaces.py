"""The interfaces that a backend implements: time, wake-ups, liveness and maintenance.

A broker file has one implementation (`connection_backend`), for many processes. A broker in memory
has another (`feedbus.transports.memory`), for the connections of one process. The other modules are
the same for both.
"""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

# The meaning of a wake-up. NEWS: the receiver's queues may have messages. FAREWELL: another
# connection has ended, so the receiver must read again which connections are live.
NEWS, FAREWELL = b"news", b"farewell"


class Time(Protocol):
    """The time of a broker, as its connections read it.

    A broker file has a Time object for each connection. A broker in memory has one for all.
    """

    def now_ms(self) -> int:
        """Return the time in milliseconds that determines when messages expire.

        The time never goes backwards, except on a system without a clock since boot
        (broker_time.py).
        """

    def current_datetime(self) -> datetime:
        """Return the wall clock's time, in UTC."""

    def note(self, database: sqlite3.Connection, now_ms: int) -> None:
        """Store the broker's time, so that the time is not earlier after the next boot.

        Each write transaction calls it before its commit.

        Args:
            database: the database of the broker, with the open transaction.
            now_ms: the broker's time in milliseconds.
        """


class WakeUps(Protocol):
    """Wakes other connections by their ids, and receives the wake-ups for one connection.

    Attributes:
        receiver: the socket from which the connection reads its wake-ups. A selector can wait for
            it. None if the connection receives no wake-ups.
    """

    receiver: socket.socket | None

    def listen(self, connection_id: int) -> None:
        """Start to receive the wake-ups for the connection with this id."""

    def wake(self, connection_ids: Iterable[int], meaning: bytes = NEWS) -> None:
        """Wake the connections with these ids; ignore connections that are closed.

        Args:
            connection_ids: the ids of the connections.
            meaning: NEWS if their queues may have messages; FAREWELL if another connection has
                ended.
        """

    def read(self) -> set[bytes]:
        """Read the wake-ups that have arrived, without waiting; return their different meanings.

        NEWS: the queues of this connection may have messages. FAREWELL: another connection has
        ended.
        """

    def close(self, connection_id: int | None) -> None:
        """Stop receiving wake-ups; a second call does nothing.

        Args:
            connection_id: the id with which listen() was called; None if listen() was not called.
        """

    def drop(self) -> None:
        """Close the descriptors that a forked child has inherited; only the child calls it."""


class Liveness(Protocol):
    """Shows that one connection is live, and checks whether other connections are live.

    Live means that the connection is not closed, and its process has not ended.
    """

    def begin(self, connection_id: int) -> None:
        """Show that this connection is live, under the given id.

        It is called before others can see the id.
        """

    def end(self) -> None:
        """Show that this connection has ended; a second call does nothing."""

    def drop(self) -> None:
        """Close the descriptors that a forked child has inherited; only the child calls it."""

    def is_live(self, connection_id: int) -> bool:
        """Return whether the connection with this id is live."""

    def sweep(self, connection_id: int) -> None:
        """Remove the files that a dead connection with this id has left."""


class Maintenance(Protocol):
    """Maintains the broker's file while no connection uses the broker.

    Each connection has one Maintenance object.
    """

    def postpone(self) -> None:
        """Postpone the call of run(), because this connection has just used the broker.

        run() is called when the broker was not used for a while.
        """

    def seconds(self) -> float | None:
        """Return in how many seconds run() must be called, or None if it need not be called.

        A connection reads it before it waits for events.
        """

    def run(self) -> None:
        """Run the maintenance, such as a rewrite of the file, if it is worth its cost now.

        A connection that waits for events calls it when the seconds of seconds() are over.
        """
