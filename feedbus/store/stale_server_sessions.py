"""End sessions on PostgreSQL whose connections were dropped, so that their locks are released.

If the network drops everything, or a proxy stays connected, the server does not notice that a
connection was closed. Its session stays `idle in transaction` and keeps its locks. So the next
connection that this process opens ends the session.
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
    """A session on the server; its number and its start time together identify it.

    Attributes:
        number: the process id of the session on the server.
        started_at: when the session began, in microseconds since 1970.
        process: the id of the process that has opened the session. A forked process must not end
            the session.

    """

    number: int
    started_at: int
    process: int


def session_of(query: Query, number: object) -> ServerSession | None:
    """Return the session of a connection, or None if the server does not show it.

    Args:
        query: executes a statement on the connection.
        number: the process id that the server sent when the connection was opened. Behind a
            connection pooler, the query finds another id, because each transaction can use another
            session; then the result is None.

    """
    try:
        rows = query(OWN_SESSION)
    except Exception:  # noqa: BLE001 -- not every server that speaks the protocol has this view
        return None
    if not rows or rows[0][0] != number:
        return None
    return ServerSession(rows[0][0], rows[0][1], os.getpid())


class StaleServerSessions:
    """The sessions whose connections feedbus has dropped; the server may not have ended them."""

    def __init__(self) -> None:
        """Create the object without sessions."""
        self._lock = threading.Lock()
        self._sessions: set[ServerSession] = set()

    def add(self, session: ServerSession | None) -> None:
        """Register that the connection of a session was dropped."""
        if session is not None and session.process == os.getpid():
            with self._lock:
                self._sessions.add(session)

    def end(self, query: Query) -> None:
        """End the sessions that still exist; query executes a statement on a new connection."""
        with self._lock:
            sessions = [each for each in self._sessions if each.process == os.getpid()]
        if not sessions:
            return
        pairs = ", ".join(f"({each.number}, {each.started_at})" for each in sessions)
        try:
            found = query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"  # noqa: S608 -- numbers
                f" WHERE (pid, {STARTED}) IN ({pairs})"
            )
        except Exception as error:  # noqa: BLE001 -- of any driver; the connection itself may be good
            events.warning(
                "session_left",
                "feedbus could not end a session on PostgreSQL whose connection it had dropped; if"
                " it is idle in transaction, end it with pg_terminate_backend()",
                sessions=", ".join(str(each.number) for each in sessions),
                error=one_line(error),
            )
            return
        with self._lock:
            self._sessions.difference_update(sessions)
        if found:
            events.info(
                "sessions_ended",
                "PostgreSQL has ended sessions whose connections feedbus had dropped; their locks"
                " are released",
                sessions=len(found),
            )
