"""Brokers in memory, found by their names, and the backends of their connections."""

from __future__ import annotations

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
from feedbus.transports.sqlite.table_json import table_from_json
from feedbus.transports.sqlite.transactions import FileUnavailable, Tables


class MemoryBroker:
    """One broker in memory; its messages exist as long as this object exists.

    Tests, simulations and `feedbus.inline` use it instead of a broker file.

    Args:
        name: the name of the broker, for `find()` and for URLs such as `memory://tests`.
        clock: the clock by which messages expire and connections wait. It can be virtual. None for
            the system's clock.
        seed: the seed of the random numbers. The connections use these numbers for unique names and
            for short random waits. With a seed, the numbers are the same in each run. None for
            different numbers in each run.
        prepared: the content of another broker, from `serialized()`; None for an empty broker.

    Attributes:
        connection_type: the class of the broker's connections. The simulation sets another class,
            whose connections have network faults.
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
            clock: the clock for expiry and for waiting; None for the system's clock.
            seed: the seed of the random numbers; None for different numbers in each run.
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
        """Return the backend of a new connection; the transport calls it for each Kombu connection.

        All backends share the tables of this broker.

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
        """Delete everything in the broker; open connections cannot be used any more.

        remove() calls it, after it has unregistered the broker.
        """
        with self.tables.use:
            self.tables.database.close()

    def serialized(self) -> bytes:
        """Return the content of the broker, for the argument `prepared` of a new broker."""
        with self.tables.use:
            return self.tables.database.serialize()

    def survey(self) -> BrokerRows:
        """Return the exchanges, queues and bindings of the broker as rows, for an inventory."""
        with self.tables.use:
            return read_rows(self.tables.database)

    def message_count(self) -> int:
        """Return how many messages the queues contain, including unacknowledged ones."""
        counts = "SELECT (SELECT count(*) FROM ready) + (SELECT count(*) FROM unacked)"
        ((count,),) = self.tables.read(counts)
        return int(count)

    def headers(self, is_selected: Callable[[str], bool]) -> list[dict[str, Any]]:
        """Return the application headers of each ready message in the selected queues.

        Args:
            is_selected: called with the name of a queue; returns whether its messages are included.
        """
        rows = self.tables.read(
            "SELECT name, properties FROM ready JOIN queues ON queues.id = queue"
            " JOIN messages ON messages.id = message"
        )
        return [
            table_from_json(properties).get("application_headers") or {}
            for name, properties in rows
            if is_selected(name)
        ]

    def expiries(self) -> list[tuple[str, int]]:
        """Return for each queue its name and the time at which its first ready message expires.

        The times are in milliseconds of the broker's time. Queues whose first message never expires
        are not in the list. The inline system reads the list to find how far its clock must move.
        """
        return self.tables.read(
            "SELECT name, expires_ms FROM queues JOIN ready ON queue = queues.id WHERE expiring"
            " AND expires_ms IS NOT NULL"
            " AND message = (SELECT min(message) FROM ready WHERE queue = queues.id)"
        )


class ClockTime:
    """The time of one broker in memory; it is computed from a clock, which can be a virtual one."""

    def __init__(self, clock: Clock) -> None:
        """Create the object; the broker's time begins with the present wall time of the clock."""
        self._clock = clock
        self._offset_ms = clock.wall_nanoseconds() // 1_000_000 - self._monotonic_ms()

    def _monotonic_ms(self) -> int:
        return round(self._clock.monotonic() * 1000)

    def now_ms(self) -> int:
        """Return the broker's time in milliseconds, by which messages expire.

        It never goes backwards.
        """
        return self._monotonic_ms() + self._offset_ms

    def current_datetime(self) -> datetime:
        """Return the clock's wall time, in UTC."""
        return datetime.fromtimestamp(self._clock.wall_nanoseconds() / NANOSECONDS, UTC)

    def note(self, database: sqlite3.Connection, now_ms: int) -> None:
        """Do nothing: the time of a broker in memory is not stored."""


class WakeUpSocketPairs:
    """Wakes other connections of a broker in memory, and receives the wake-ups for one connection.

    Each connection has one WakeUpSocketPairs object. A connection that consumes has a pair of
    sockets: other connections write to one, and the connection reads from the other.

    Args:
        broker: has the writing sockets of all connections.

    Attributes:
        receiver: the socket from which the connection reads its wake-ups. A selector can wait for
            it. None before `listen()`.
    """

    def __init__(self, broker: MemoryBroker) -> None:
        """Create the object; wake-ups arrive after listen() was called."""
        self._broker = broker
        self.receiver: socket.socket | None = None
        self._sender: socket.socket | None = None

    def listen(self, connection_id: int) -> None:
        """Make the sockets of this connection, so that it receives wake-ups under this id."""
        self.receiver, self._sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.receiver.setblocking(False)
        self._sender.setblocking(False)
        self._broker.wake_up_sockets[connection_id] = self._sender

    def wake(self, connection_ids: Iterable[int], meaning: bytes = NEWS) -> None:
        """Wake the connections with these ids; ignore closed and already woken connections.

        Args:
            connection_ids: the ids of the connections.
            meaning: NEWS if their queues may have messages; FAREWELL if another connection has
                ended.
        """
        for connection_id in connection_ids:
            wake_up_socket = self._broker.wake_up_sockets.get(connection_id)
            if wake_up_socket is not None:
                with suppress(OSError):
                    wake_up_socket.send(meaning)

    def read(self) -> set[bytes]:
        """Read the wake-ups that have arrived, without waiting; return their different meanings.

        NEWS: the queues of this connection may have messages. FAREWELL: another connection has
        ended.
        """
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
        """Close both sockets of this connection; a second call does nothing.

        A forked child calls it for its copies of the sockets.
        """
        for end in (self.receiver, self._sender):
            if end is not None:
                end.close()
        self.receiver = self._sender = None


class LiveConnections:
    """Registers one connection in the broker's set of live connections, and reads the set.

    Each connection to the broker has one object.
    """

    def __init__(self, broker: MemoryBroker) -> None:
        """Create the object for a connection that is not registered yet."""
        self._broker = broker
        self._own: int | None = None

    def begin(self, connection_id: int) -> None:
        """Register the connection that has this object as live, under the given id."""
        self._own = connection_id
        self._broker.live_ids.add(connection_id)

    def end(self) -> None:
        """Unregister the connection that begin() has registered; a second call does nothing."""
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
        """Return None: run() need never be called."""
        return None

    def run(self) -> None:
        """Do nothing."""


_brokers: dict[str, MemoryBroker] = {}
_registration = threading.Lock()


def create(broker: MemoryBroker) -> MemoryBroker:
    """Register a broker, so that connections find it by its name; return the same broker.

    Raises:
        ValueError: a broker of that name is registered already.
    """
    with _registration:
        if broker.name in _brokers:
            msg = (
                f"a broker in memory named '{broker.name}' exists already: remove it, or use"
                " another name"
            )
            raise ValueError(msg)
        _brokers[broker.name] = broker
    return broker


def find(name: str) -> MemoryBroker:
    """Return the broker with a name; create and register an empty broker if there is none."""
    with _registration:
        if name not in _brokers:
            _brokers[name] = MemoryBroker(name)
        return _brokers[name]


def remove(name: str) -> None:
    """Unregister the broker with this name, and delete its content; ignore an unknown name."""
    with _registration:
        broker = _brokers.pop(name, None)
    if broker is not None:
        broker.close()
