"""A client-side deadline for every statement on PostgreSQL, for a server that does not answer.

The server ends a statement after its statement_timeout. But if the network transmits nothing, the
client never gets the server's error. The client's tcp_user_timeout has no effect if a proxy
acknowledges the packets instead of the server. So one thread in a process shuts down the socket of
a connection whose statement exceeds the deadline. libpq then reports a lost connection.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import psycopg2
from psycopg2 import extensions

from feedbus.store.stale_server_sessions import ServerSession

CHECK_SECONDS = 0.5  # the time between two checks of the connections
# Added to the server's statement_timeout, so that usually the server ends the statement first.
MARGIN_SECONDS = 5.0
# Before its next statement, a connection is checked if it was idle for longer than this.
PROBE_IDLE_SECONDS = 10.0
PROBE_SECONDS = 5.0  # the time limit of this check
SETTING = "statement_timeout"
UNIT_SECONDS = {"us": 1e-6, "ms": 1e-3, "": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
TIMEOUT = re.compile(rf"{SETTING}\s*=\s*'?(\d+)\s*(us|ms|s|min|h|d)?\b")


class Connection(extensions.connection):
    """A connection of psycopg2 whose calls raise an error if the server does not answer in time.

    The time limit is the server's statement_timeout plus 5 s; without a statement_timeout, there is
    no limit.

    Attributes:
        server_session: the session of the connection on the server; None if it is not known.
        due: the deadline of the current call, in seconds of time.monotonic(); without a call, or
            without a deadline, it is infinite.
        used_at: the end of the latest call, in seconds of time.monotonic().
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Open the connection with psycopg2's arguments, within libpq's connect_timeout."""
        super().__init__(*arguments, **options)
        self.server_session: ServerSession | None = None
        self.due = math.inf
        self.used_at = time.monotonic()
        self._gave_up = False  # whether the socket was shut down
        written = TIMEOUT.findall(self.info.dsn_parameters.get("options", ""))
        self._limit_seconds = _limit_seconds(*written[-1]) if written else math.inf
        _deadlines.add(self)

    def cursor(self, name: str | None = None, *arguments: Any, **options: Any) -> Any:
        """Return a cursor with a deadline for each call that waits for the server.

        Args:
            name: the name of a cursor on the server; None for an ordinary cursor.
            arguments: further arguments of psycopg2.
            options: further options of psycopg2.
        """
        options.setdefault("cursor_factory", Cursor if name is None else NamedCursor)
        return super().cursor(name, *arguments, **options)

    def commit(self) -> None:
        """Commit the transaction; raise OperationalError if the server does not answer in time."""
        self.within_deadline(super().commit)

    def rollback(self) -> None:
        """Roll back the transaction.

        Raise OperationalError if the server does not answer in time.
        """
        self.within_deadline(super().rollback)

    def within_deadline(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of psycopg2 that waits for the server, and return its result.

        If the connection was idle for more than 10 s, it is first checked with a deadline of 5 s.

        Args:
            function: the function, such as the `execute` of a cursor.
            arguments: the arguments of the call.

        Raises:
            OperationalError: the server did not answer in time, and the connection is closed.
        """
        now = time.monotonic()
        if now - self.used_at > PROBE_IDLE_SECONDS:
            self._probe()
        return self._limited(self._limit_seconds, function, *arguments)

    def read_limit(self) -> None:
        """Read the server's statement_timeout; the deadlines of later calls depend on it.

        A cursor calls the method after a statement that may have changed the setting.
        """
        with super().cursor() as cursor:
            self._limited(PROBE_SECONDS, cursor.execute, f"SHOW {SETTING}")
            text = cursor.fetchone()[0]
        number, unit = re.fullmatch(r"(\d+)(\D*)", text).groups()  # type: ignore[union-attr]  # SHOW returns such a text
        self._limit_seconds = _limit_seconds(number, unit)

    def give_up(self) -> None:
        """Shut down the socket, so that the call that waits for the server raises an error.

        The thread of Deadlines calls this.
        """
        self._gave_up = True
        with (
            contextlib.suppress(OSError, psycopg2.Error),
            socket.socket(fileno=os.dup(self.fileno())) as handle,
        ):
            handle.shutdown(socket.SHUT_RDWR)

    def _probe(self) -> None:
        with super().cursor() as cursor:
            self._limited(PROBE_SECONDS, cursor.execute, "SELECT 1")

    def _limited(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of psycopg2 that waits for the server, and return its result.

        Raises:
            OperationalError: the server did not answer within the given seconds, and the connection
                is closed.

        """
        self.due = time.monotonic() + seconds
        _deadlines.wake()
        try:
            return function(*arguments)
        except psycopg2.Error as error:
            if not self._gave_up:
                raise
            msg = (
                f"no answer within {seconds:g} s; feedbus has closed the connection, and connects"
                " again at the next use"
            )
            raise psycopg2.OperationalError(msg) from error
        finally:
            self.due = math.inf
            self.used_at = time.monotonic()


class Cursor(extensions.cursor):
    """A cursor of a Connection, with a deadline for each statement.

    A fetch needs no deadline, because its rows are on the client.
    """

    connection: Connection

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002 -- psycopg2's name
        """Execute a statement; raise OperationalError if the server does not answer in time.

        Args:
            query: the statement.
            vars: the values of its parameters, as in psycopg2.
        """
        self.connection.within_deadline(super().execute, query, vars)
        if SETTING in str(query):
            self.connection.read_limit()

    def executemany(self, query: Any, vars_list: Any) -> None:
        """Execute a statement for each item of a list of parameters, within the deadline.

        Args:
            query: the statement.
            vars_list: the values of the parameters for each execution, as in psycopg2.
        """
        self.connection.within_deadline(super().executemany, query, vars_list)

    def callproc(self, procname: Any, parameters: Any = None) -> None:
        """Call a stored procedure, within the deadline.

        Args:
            procname: the name of the procedure.
            parameters: the parameters of the call.
        """
        self.connection.within_deadline(super().callproc, procname, parameters)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        """Copy rows to or from a file by COPY, within the deadline.

        Args:
            sql: the COPY statement.
            file: the open file to read from or to write to.
            size: how many bytes are read from the file at a time.
        """
        self.connection.within_deadline(super().copy_expert, sql, file, size)


class NamedCursor(Cursor):
    """A cursor on the server; each fetch is a request to the server, so it has a deadline."""

    def fetchone(self) -> Any:
        """Fetch a row from the server, within the deadline."""
        return self.connection.within_deadline(super().fetchone)

    def fetchmany(self, size: int | None = None) -> Any:
        """Fetch some rows from the server, within the deadline.

        Args:
            size: how many rows; None for the attribute `arraysize`.
        """
        return self.connection.within_deadline(super().fetchmany, size or self.arraysize)

    def fetchall(self) -> Any:
        """Fetch all remaining rows from the server, within the deadline."""
        return self.connection.within_deadline(super().fetchall)

    def close(self) -> None:
        """Close the cursor on the server, within the deadline."""
        self.connection.within_deadline(super().close)


class Deadlines:
    """Calls give_up() for each connection of this process whose call exceeds its deadline.

    A process has one Deadlines object. One thread checks all connections, every 0.5 s while one of
    them has a deadline.
    """

    def __init__(self) -> None:
        """Create the object without connections."""
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._has_deadlines = threading.Event()  # set while a connection can have a deadline
        self._pid = 0  # the process that the thread runs in; a fork has no such thread

    def add(self, connection: Connection) -> None:
        """Check a connection from now on; call this in the process that opens it."""
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._connections = weakref.WeakSet()
                threading.Thread(target=self._watch, name="store deadlines", daemon=True).start()
            self._connections.add(connection)

    def wake(self) -> None:
        """Make the thread check the connections; called when one of them gets a deadline."""
        if not self._has_deadlines.is_set():
            self._has_deadlines.set()

    def _watch(self) -> None:
        while True:
            self._has_deadlines.wait()  # idle while no statement runs
            time.sleep(CHECK_SECONDS)
            now = time.monotonic()
            for connection in self._with_deadline():
                if connection.due < now:
                    connection.give_up()
            if not self._with_deadline():
                self._has_deadlines.clear()
                if self._with_deadline():  # a call has begun just before clear()
                    self._has_deadlines.set()

    def _with_deadline(self) -> list[Connection]:
        with self._lock:
            return [each for each in self._connections if each.due < math.inf]


def _limit_seconds(number: str, unit: str) -> float:
    """Return the time limit of a call, in seconds, from the server's statement_timeout.

    The result is infinite if statement_timeout is 0, which means that there is no timeout.

    Args:
        number: the number in the value of statement_timeout, such as "30" of "30s".
        unit: the unit in this value, such as "s". Without a unit, the number is in milliseconds.
    """
    seconds = int(number) * UNIT_SECONDS[unit.strip()]
    return seconds + MARGIN_SECONDS if seconds else math.inf


_deadlines = Deadlines()
