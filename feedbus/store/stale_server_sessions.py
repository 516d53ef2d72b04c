"""End sessions on PostgreSQL whose connections feedbus has dropped, to release their locks.

After an outage, feedbus drops a connection: it closes the connection on its own side. The server
does not notice the end of the connection if the network transmits nothing, or if a proxy stays
connected to the server. Then the session of the connection stays `idle in transaction` and keeps
its locks. So the next connection that this process opens ends the session.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from feedbus.logs import EventLog
from feedbus.printable import one_line

events = EventLog(__name__)

Query = Callable[[str], Sequence[Sequence[Any]]]

STARTED = "(extract(epoch FROM backend_start) * 1000000)::bigint"
OWN_SESSION = f"SELECT pid, {STARTED} FROM pg_stat_activity WHERE pid = pg_backend_pid()"  # noqa: S608 -- no input in it


@dataclass(frozen=True, slots=True)
class ServerSession:
    """A session on the server; the process id and the start time together identify a session.

    Attributes:
        pid: the id of the process on the server.
        started_at: when the session began, in microseconds since 1970.
        opened_by: the id of the process of feedbus that opened the connection. Only this process
            may end the session. A forked process has a copy of this object, but its parent process
            may still use the session.

    """

    pid: int
    started_at: int
    opened_by: int


def session_of(query: Query, backend_pid: object) -> ServerSession | None:
    """Return the session of a connection, or None if the server does not show it.

    The result is also None behind a connection pooler: there, each transaction can use another
    session, and the query finds another process id.

    Args:
        query: executes a statement on the connection, and returns the rows.
        backend_pid: the process id that the server sent when the connection was opened.

    """
    try:
        rows = query(OWN_SESSION)
    except Exception:  # noqa: BLE001 -- not every server that speaks the protocol has this view
        return None
    if not rows or rows[0][0] != backend_pid:
        return None
    return ServerSession(rows[0][0], rows[0][1], os.getpid())


class StaleServerSessions:
    """Ends sessions on the server that are still open after feedbus has dropped the connection.

    Each database or engine has one StaleServerSessions object. When it opens its next connection,
    this connection ends the sessions.
    """

    def __init__(self) -> None:
        """Create the object; no session is registered."""
        self._lock = threading.Lock()
        self._sessions: set[ServerSession] = set()

    def add(self, session: ServerSession | None) -> None:
        """Register a session on the server whose connection feedbus has dropped; end() ends it.

        Args:
            session: the session, from session_of(). None if the session is not known; the method
                then does nothing.

        """
        if session is not None and session.opened_by == os.getpid():
            with self._lock:
                self._sessions.add(session)

    def end(self, query: Query) -> None:
        """End the registered sessions that still exist on the server.

        A failure is logged, and the next call tries again.

        Args:
            query: executes a statement on a new connection, and returns the rows.

        """
        with self._lock:
            sessions = [each for each in self._sessions if each.opened_by == os.getpid()]
        if not sessions:
            return
        pairs = ", ".join(f"({each.pid}, {each.started_at})" for each in sessions)
        try:
            ended = query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"  # noqa: S608 -- numbers
                f" WHERE (pid, {STARTED}) IN ({pairs})"
            )
        except Exception as error:  # noqa: BLE001 -- of any driver; the connection itself may be good
            events.warning(
                "session_left",
                "feedbus could not end a session on PostgreSQL whose connection it had dropped; if"
                " it is idle in transaction, end it with pg_terminate_backend()",
                sessions=", ".join(str(each.pid) for each in sessions),
                error=one_line(error),
            )
            return
        with self._lock:
            self._sessions.difference_update(sessions)
        if ended:
            events.info(
                "sessions_ended",
                "PostgreSQL has ended sessions whose connections feedbus had dropped; their locks"
                " are released",
                sessions=len(ended),
            )
