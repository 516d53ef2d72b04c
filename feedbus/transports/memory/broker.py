"""Brokers in memory, found by their names, and the backends of their connections."""

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
from feedbus.transports.sqlite.backend_interfaces import NEWS
from feedbus.transports.sqlite.connection import Connection
from feedbus.transports.sqlite.connection_backend import Backend
from feedbus.transports.sqlite.read_only_view import BrokerRows, read_rows
from feedbus.transports.sqlite.schema import create_tables
from feedbus.transports.sqlite.transactions import FileUnavailable, Tables


class MemoryBroker:
    """One broker in memory; its messages exist as long as this object exists.

    Attributes:
        connection_type: the class of its connections; a simulation uses one with network faults.

    """

    connection_type: type[Connection] = Connection

    def __init__(
        self,
        name: str,
        *,
        clock: Clock | None = None,
        seed: int | None = None,
        prepared: bytes | None = None,
    ) -> None:
        """Create an empty broker, or a copy of another one.

        Args:
            name: the name under which connections find the broker.
            clock: the clock for expiry and for waiting; by default, the machine's clock.
            seed: the seed of its random names; None for different names in each run.
            prepared: the result of serialized() of the broker to copy; None for an empty broker.

        """
        self.name = name
        self.clock: Clock = clock or SystemClock()
        self.random = random.Random(seed)  # noqa: S311 -- names and pauses, no secrets
        self.wake_up_sockets: dict[int, socket.socket] = {}
        self.live_ids: set[int] = set()  # the ids of the open connections
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
        """Return the backend of a new connection.

        Raises:
            FileUnavailable: this process was forked after the broker was created.

        """
        if os.getpid() != self._pid:
            msg = (
                f"memory broker {self.name} belongs to process {self._pid}, from which this process"
                " was forked: use a broker file (sqlite:///…) where several processes connect"
            )
            raise FileUnavailable(msg)
        return Backend(
            self.tables,
            self.clock,
            self.random,
            WakeUpSocketPairs(self),
            LiveConnections(self),
            NoMaintenance(),
        )

    def close(self) -> None:
        """Delete everything in the broker; open connections cannot be used any more."""
        with self.tables.use:
            self.tables.database.close()

    def serialized(self) -> bytes:
        """Return the content of the broker, for the argument `prepared` of a new broker."""
        with self.tables.use:
            return self.tables.database.serialize()

    def survey(self) -> BrokerRows:
        """Return the exchanges, queues and bindings of the broker as rows."""
        with self.tables.use:
            return read_rows(self.tables.database)

    def message_count(self) -> int:
        """Return how many messages the queues contain, including unacknowledged ones."""
        counts = "SELECT (SELECT count(*) FROM ready) + (SELECT count(*) FROM unacked)"
        ((count,),) = self.tables.read(counts)
        return int(count)

    def headers(self, is_selected: Callable[[str], bool]) -> list[dict[str, Any]]:
        """Return the headers of each ready message in the queues whose names are selected."""
        rows = self.tables.read(
            "SELECT name, properties FROM ready JOIN queues ON queues.id = queue"
            " JOIN messages ON messages.id = message"
        )
        return [
            json.loads(properties).get("application_headers") or {}
            for name, properties in rows
            if is_selected(name)
        ]

    def expiries(self) -> list[tuple[str, int]]:
        """Return the names of queues, and when their first message expires.

        The times are in ms of the broker's time. Queues whose first message never expires are not
        in the list.
        """
        return self.tables.read(
            "SELECT name, expires_ms FROM queues JOIN ready ON queue = queues.id WHERE expiring"
            " AND expires_ms IS NOT NULL"
            " AND message = (SELECT min(message) FROM ready WHERE queue = queues.id)"
        )


class ClockTime:
    """The time of a broker, from a clock such as a virtual one."""

    def __init__(self, clock: Clock) -> None:
        """Create the object with a clock; it starts at the clock's wall time."""
        self._clock = clock
        self._offset_ms = clock.wall_nanoseconds() // 1_000_000 - self._monotonic_ms()

    def _monotonic_ms(self) -> int:
        return round(self._clock.monotonic() * 1000)

    def now_ms(self) -> int:
        """Return the time in milliseconds, by which messages expire."""
        return self._monotonic_ms() + self._offset_ms

    def current_datetime(self) -> datetime:
        """Return the clock's wall time, in UTC."""
        return datetime.fromtimestamp(self._clock.wall_nanoseconds() / NANOSECONDS, UTC)

    def note(self, database: sqlite3.Connection, now_ms: int) -> None:
        """Do nothing: the time of a broker in memory is not stored."""


class WakeUpSocketPairs:
    """Wakes connections through one pair of sockets for each connection."""

    def __init__(self, broker: MemoryBroker) -> None:
        """Create the object; wake-ups arrive after listen() was called."""
        self._broker = broker
        self.receiver: socket.socket | None = None
        self._sender: socket.socket | None = None

    def listen(self, connection_id: int) -> None:
        """Start to receive the wake-ups for the connection with this id."""
        self.receiver, self._sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.receiver.setblocking(False)
        self._sender.setblocking(False)
        self._broker.wake_up_sockets[connection_id] = self._sender

    def wake(self, connection_ids: Iterable[int], meaning: bytes = NEWS) -> None:
        """Wake the connections with these ids; ignore closed and already woken connections.

        The meaning is NEWS or FAREWELL.
        """
        for connection_id in connection_ids:
            wake_up_socket = self._broker.wake_up_sockets.get(connection_id)
            if wake_up_socket is not None:
                with suppress(OSError):
                    wake_up_socket.send(meaning)

    def read(self) -> set[bytes]:
        """Read the wake-ups that have arrived; return their meanings, such as NEWS."""
        heard = set()
        with suppress(OSError):
            while self.receiver is not None and (meaning := self.receiver.recv(16)):
                heard.add(meaning)
        return heard

    def close(self, connection_id: int | None) -> None:
        """Close both sockets of this connection, and unregister the connection.

        Args:
            connection_id: the id of the connection; None if it was not registered.

        """
        if connection_id is not None:
            self._broker.wake_up_sockets.pop(connection_id, None)
        self.drop()

    def drop(self) -> None:
        """Close both sockets."""
        for end in (self.receiver, self._sender):
            if end is not None:
                end.close()
        self.receiver = self._sender = None


class LiveConnections:
    """Keeps the ids of the broker's live connections in a set."""

    def __init__(self, broker: MemoryBroker) -> None:
        """Create the object; this connection is not recorded yet."""
        self._broker = broker
        self._own: int | None = None

    def begin(self, connection_id: int) -> None:
        """Register this connection as a live connection."""
        self._own = connection_id
        self._broker.live_ids.add(connection_id)

    def end(self) -> None:
        """Unregister this connection; a second call does nothing."""
        self._broker.live_ids.discard(self._own or 0)

    def drop(self) -> None:
        """Do nothing: a forked child has its own copy of the set."""

    def is_live(self, connection_id: int) -> bool:
        """Return whether the connection with this id is live."""
        return connection_id in self._broker.live_ids

    def sweep(self, connection_id: int) -> None:
        """Do nothing: a dead connection leaves no files."""


class NoMaintenance:
    """Maintenance that does nothing, because a broker in memory needs none."""

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
    """Register a broker, so that connections find it by its name; return the broker.

    Raises:
        ValueError: a broker of that name exists.

    """
    with _registration:
        if broker.name in _brokers:
            msg = (
                f"a broker in memory named '{broker.name}' exists already: remove it, or use"
                f" another"
                " name"
            )
            raise ValueError(msg)
        _brokers[broker.name] = broker
    return broker


def find(name: str) -> MemoryBroker:
    """Return the broker with a name; create an empty broker if there is none."""
    with _registration:
        if name not in _brokers:
            _brokers[name] = MemoryBroker(name)
        return _brokers[name]


def remove(name: str) -> None:
    """Close and unregister a broker; ignore an unknown name."""
    with _registration:
        broker = _brokers.pop(name, None)
    if broker is not None:
        broker.close()
