"""Forks: a child process does not use the connections of its parent, and opens its own.

SQLite counts a file's locks by process. A child that inherits an open file believes that it holds
its parent's locks. This is then also true for each connection that it opens to the same file.
Therefore a fork waits until no thread uses an inherited file, and the child closes it before it
opens a connection of its own.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Inherited(Protocol):
    """An open file that forked child processes inherit."""

    def hold(self) -> None:
        """Wait until no other thread uses the file, and block all threads from using it."""

    def resume(self) -> None:
        """Allow other threads to use the file again."""

    def close_in_child(self) -> None:
        """Close the copies in a child process, without an effect on the parent."""


_open: weakref.WeakSet[Inherited] = weakref.WeakSet()
_on_hold: list[Inherited] = []


def note_open(connection: Inherited) -> None:
    """Register a connection, so that forked children close their copy of it."""
    _open.add(connection)


def note_closed(connection: Inherited) -> None:
    """Unregister a connection."""
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
