"""What a connection needs of its surroundings: the ports below the broker's tables.

A broker file has one implementation (`backend`), for many processes. A broker in memory has
another (`feedbus.transports.memory`), for the connections of one process. All above is the same.
"""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

NEWS, FAREWELL = b"news", b"farewell"  # what the sender of a word wants looked at


class Time(Protocol):
    """The broker's time."""

    def now_ms(self) -> int:
        """Return the milliseconds by which everything expires; they never go back."""

    def moment(self) -> datetime:
        """Return the wall clock's time, in UTC."""

    def note(self, database: sqlite3.Connection, now_ms: int) -> None:
        """Keep the time of a write, within its transaction."""


class Bell(Protocol):
    """Wakes other connections by their ids, and is rung by them."""

    receiver: socket.socket | None

    def listen(self, owner: int) -> None:
        """Receive what is sent to a connection."""

    def ring(self, owners: Iterable[int], meaning: bytes = NEWS) -> None:
        """Wake connections."""

    def silence(self) -> set[bytes]:
        """Take what has arrived, and return what it means."""

    def close(self, owner: int | None) -> None:
        """Let nobody ring here any more; a second time does nothing."""

    def drop(self) -> None:
        """Close what a forked child has inherited, and change nothing for its parent."""


class Liveness(Protocol):
    """Shows that this connection lives, and whether others do."""

    def begin(self, owner: int) -> None:
        """Show that a connection lives, which is this one."""

    def end(self) -> None:
        """Show it no more; a second time does nothing."""

    def drop(self) -> None:
        """Close what a forked child has inherited, and change nothing for its parent."""

    def lives(self, owner: int) -> bool:
        """Return whether a connection lives."""

    def sweep(self, owner: int) -> None:
        """Remove what a dead connection has left."""


class Upkeep(Protocol):
    """What is done while nobody uses the broker."""

    def postpone(self) -> None:
        """Note that this connection has used the broker."""

    def seconds(self) -> float | None:
        """Return the seconds until run() is to be called, None when there is nothing to do."""

    def run(self) -> None:
        """Do it, if it is worth it."""
