"""Brokers in memory by their names, and what each of their connections works with."""

from __future__ import annotations

import json
import os
import random
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from feedbus.clock import NANOSECONDS, Clock, SystemClock
from feedbus.transports.sqlite.backend import Backend
from feedbus.transports.sqlite.ports import NEWS
from feedbus.transports.sqlite.schema import create_tables
from feedbus.transports.sqlite.survey import Survey, read_rows
from feedbus.transports.sqlite.tables import FileUnavailable, Tables


class MemoryBroker:
    """One broker in memory; its messages exist as long as this object."""

    def __init__(
        self,
        name: str,
        *,
        clock: Clock | None = None,
        seed: int | None = None,
        prepared: bytes | None = None,
    ) -> None:
        """Make a broker.

        Args:
            name: under which connections find it.
            clock: by which everything expires and everybody waits; the machine's by default.
            seed: of its random names; None for names that differ in each run.
            prepared: what `serialized` of a like broker returned; by default it is empty.

        """
        self.name = name
        self.clock: Clock = clock or SystemClock()
        self.random = random.Random(seed)  # noqa: S311 -- names and pauses, no secrets
        self.bells: dict[int, socket.socket] = {}
        self.living: set[int] = set()
        self._pid = os.getpid()
        database = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False, cached_statements=256
        )
        if prepared is None:
            create_tables(database)
        else:
            database.deserialize(prepared)
        time = ClockTime(self.clock)
        database.execute("UPDATE queues SET used_ms = ?", (time.now_ms(),))
        self.tables = Tables(f"memory broker {name}", database, time, shared=True)

    def open(self) -> Backend:
        """Return what a new connection works with.

        Raises:
            FileUnavailable: this process was forked after the broker was made.

        """
        if os.getpid() != self._pid:
            msg = (
                f"memory broker {self.name} belongs to process {self._pid}, of which this one is a"
                " fork: use a broker file (sqlite:///…) where several processes connect"
            )
            raise FileUnavailable(msg)
        return Backend(
            self.tables, self.clock, self.random, Pairs(self), Presence(self), NoUpkeep()
        )

    def close(self) -> None:
        """Drop all that the broker holds; connections that are open have no broker any more."""
        with self.tables.use:
            self.tables.database.close()

    def serialized(self) -> bytes:
        """Return all that the broker holds, for `prepared` of another one."""
        with self.tables.use:
            return self.tables.database.serialize()

    def survey(self) -> Survey:
        """Return what the broker holds as rows."""
        with self.tables.use:
            return read_rows(self.tables.database)

    def message_count(self) -> int:
        """Return how many messages the queues have, delivered ones included."""
        counts = "SELECT (SELECT count(*) FROM ready) + (SELECT count(*) FROM unacked)"
        ((count,),) = self.tables.read(counts)
        return int(count)

    def headers(self, of_queue: Callable[[str], bool]) -> list[dict[str, Any]]:
        """Return the headers of each message that waits in such queues."""
        rows = self.tables.read(
            "SELECT name, properties FROM ready JOIN queues ON queues.id = queue"
            " JOIN messages ON messages.id = message"
        )
        return [
            json.loads(properties).get("application_headers") or {}
            for name, properties in rows
            if of_queue(name)
        ]

    def expiries(self) -> list[tuple[str, int]]:
        """Return each queue whose first message expires, and when, by the broker's time in ms."""
        return self.tables.read(
            "SELECT name, expires_ms FROM queues JOIN ready ON queue = queues.id WHERE expiring"
            " AND expires_ms IS NOT NULL"
            " AND message = (SELECT min(message) FROM ready WHERE queue = queues.id)"
        )


class ClockTime:
    """The broker's time is that of a clock."""

    def __init__(self, clock: Clock) -> None:
        """Begin at the clock's wall time, and go on by its monotonic one."""
        self._clock = clock
        self._offset_ms = clock.wall_nanoseconds() // 1_000_000 - self._monotonic_ms()

    def _monotonic_ms(self) -> int:
        return round(self._clock.monotonic() * 1000)

    def now_ms(self) -> int:
        """Return the milliseconds by which everything expires."""
        return self._monotonic_ms() + self._offset_ms

    def moment(self) -> datetime:
        """Return the clock's wall time, in UTC."""
        return datetime.fromtimestamp(self._clock.wall_nanoseconds() / NANOSECONDS, UTC)

    def note(self, database: sqlite3.Connection, now_ms: int) -> None:
        """Do nothing: no later process goes on from it."""


class Pairs:
    """Wakes connections by a pair of sockets each, which a selector can wait for."""

    def __init__(self, broker: MemoryBroker) -> None:
        """Be silent until listen()."""
        self._broker = broker
        self.receiver: socket.socket | None = None
        self._sender: socket.socket | None = None

    def listen(self, owner: int) -> None:
        """Receive what is sent to a connection."""
        self.receiver, self._sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.receiver.setblocking(False)
        self._sender.setblocking(False)
        self._broker.bells[owner] = self._sender

    def ring(self, owners: Iterable[int], meaning: bytes = NEWS) -> None:
        """Wake connections; one that is gone, or has words waiting already, needs no other."""
        for owner in owners:
            bell = self._broker.bells.get(owner)
            if bell is not None:
                with suppress(OSError):
                    bell.send(meaning)

    def silence(self) -> set[bytes]:
        """Take what has arrived, and return what it means."""
        heard = set()
        with suppress(OSError):
            while self.receiver is not None and (meaning := self.receiver.recv(16)):
                heard.add(meaning)
        return heard

    def close(self, owner: int | None) -> None:
        """Close both sockets; a second time does nothing."""
        if owner is not None:
            self._broker.bells.pop(owner, None)
        self.drop()

    def drop(self) -> None:
        """Close both sockets."""
        for end in (self.receiver, self._sender):
            if end is not None:
                end.close()
        self.receiver = self._sender = None


class Presence:
    """The connections that live are a set of ids."""

    def __init__(self, broker: MemoryBroker) -> None:
        """Show nothing yet."""
        self._broker = broker
        self._own: int | None = None

    def begin(self, owner: int) -> None:
        """Show that this connection lives."""
        self._own = owner
        self._broker.living.add(owner)

    def end(self) -> None:
        """Show it no more; a second time does nothing."""
        self._broker.living.discard(self._own or 0)

    def drop(self) -> None:
        """Do nothing: a forked child has a copy of its own."""

    def lives(self, owner: int) -> bool:
        """Return whether a connection lives."""
        return owner in self._broker.living

    def sweep(self, owner: int) -> None:
        """Do nothing: the dead leave nothing."""


class NoUpkeep:
    """Memory needs no care while nobody uses it."""

    def postpone(self) -> None:
        """Do nothing."""

    def seconds(self) -> float | None:
        """Return None: there is nothing to do."""
        return None

    def run(self) -> None:
        """Do nothing."""


_brokers: dict[str, MemoryBroker] = {}
_registration = threading.Lock()


def create(broker: MemoryBroker) -> MemoryBroker:
    """Let connections find a broker by its name.

    Raises:
        ValueError: there is one of that name.

    """
    with _registration:
        if broker.name in _brokers:
            msg = f"there is a memory broker named '{broker.name}': remove it, or use another name"
            raise ValueError(msg)
        _brokers[broker.name] = broker
    return broker


def find(name: str) -> MemoryBroker:
    """Return the broker of a name; where there is none, an empty one on the machine's clock."""
    with _registration:
        if name not in _brokers:
            _brokers[name] = MemoryBroker(name)
        return _brokers[name]


def remove(name: str) -> None:
    """Close a broker and forget it, with all that it holds; one that is not there is no error."""
    with _registration:
        broker = _brokers.pop(name, None)
    if broker is not None:
        broker.close()
