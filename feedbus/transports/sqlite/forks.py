"""Forks: a child process does not use the connections of its parent, and opens its own.

SQLite counts the locks on a file separately in each process. In a child that inherits an open file,
SQLite assumes that the child holds its parent's locks. Each connection that the child opens to the
same file then uses locks that do not exist. Therefore a fork waits until no thread uses a broker
file. The child closes the inherited file before it opens a connection of its own.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Inherited(Protocol):
    """A connection to a broker file; a forked child process inherits its open descriptors."""

    def hold(self) -> None:
        """Wait until no other thread uses the file, and then block the other threads.

        It is called before a fork.
        """

    def resume(self) -> None:
        """Allow other threads to use the file again; called in the parent after a fork."""

    def close_in_child(self) -> None:
        """Close the child's copies of the descriptors; called in the forked child.

        The parent keeps its own descriptors.
        """


_open: weakref.WeakSet[Inherited] = weakref.WeakSet()
_on_hold: list[Inherited] = []


def note_open(connection: Inherited) -> None:
    """Register a new connection, so that forked children close their copy of it."""
    _open.add(connection)


def note_closed(connection: Inherited) -> None:
    """Unregister a connection, because it is closed."""
    _open.discard(connection)


def _hold_all() -> None:
    for connection in list(_open):
        connection.hold()
        _on_hold.append(connection)


def _resume_all() -> None:
    while _on_hold:
        _on_hold.pop().resume()


def _disown_all() -> None:
    while _on_hold:
        _on_hold.pop().close_in_child()
    _open.clear()


os.register_at_fork(before=_hold_all, after_in_parent=_resume_all, after_in_child=_disown_all)
