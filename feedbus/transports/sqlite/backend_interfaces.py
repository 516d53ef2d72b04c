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
    """Returns the broker's time, and stores it."""

    def now_ms(self) -> int:
        """Return the time in milliseconds that determines when messages expire.

        The time never goes backwards.
        """

    def current_datetime(self) -> datetime:
        """Return the wall clock's time, in UTC."""

    def note(self, database: sqlite3.Connection, now_ms: int) -> None:
        """Store the time of a write, in the caller's transaction, for use after the next boot."""


class WakeUps(Protocol):
    """Wakes other connections by their ids, and receives wake-ups of others.

    Attributes:
        receiver: readable when a wake-up has arrived; None if no wake-ups are received.

    """

    receiver: socket.socket | None

    def listen(self, connection_id: int) -> None:
        """Start to receive the wake-ups for the connection with this id."""

    def wake(self, connection_ids: Iterable[int], meaning: bytes = NEWS) -> None:
        """Wake the connections with these ids; the meaning is NEWS or FAREWELL."""

    def read(self) -> set[bytes]:
        """Read the wake-ups that have arrived; return their meanings, such as NEWS."""

    def close(self, connection_id: int | None) -> None:
        """Stop receiving wake-ups for the id given to listen(); None if it was not called.

        A second call does nothing.
        """

    def drop(self) -> None:
        """Close the descriptors that a forked child has inherited; call it in the child."""


class Liveness(Protocol):
    """Shows that this connection is live, and checks whether other connections are live."""

    def begin(self, connection_id: int) -> None:
        """Show that this connection is live, under the given id."""

    def end(self) -> None:
        """Show that this connection has ended; a second call does nothing."""

    def drop(self) -> None:
        """Close the descriptors that a forked child has inherited; call it in the child."""

    def is_live(self, connection_id: int) -> bool:
        """Return whether the connection with this id is live."""

    def sweep(self, connection_id: int) -> None:
        """Remove the files of a dead connection."""


class Maintenance(Protocol):
    """Maintains the broker's file while no connection uses the broker."""

    def postpone(self) -> None:
        """Postpone run(), because this connection has used the broker."""

    def seconds(self) -> float | None:
        """Return in how many seconds run() must be called, or None if it need not be called."""

    def run(self) -> None:
        """Run the maintenance, such as a rewrite of the file, if its conditions are true."""
