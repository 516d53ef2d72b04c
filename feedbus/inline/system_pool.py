"""A pool of InlineSystem objects: a free system is used again, because its creation is slow."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator

from feedbus.inline.loaded_projects import Project
from feedbus.inline.system import InlineSystem
from feedbus.store import Store


class InlinePool:
    """Lends InlineSystem objects of one project, and uses a returned system again.

    A program uses the pool if it needs an empty system many times, for example for each test. The
    pool has as many systems as were used at the same time.

    Args:
        project: the topology and its handlers.
        store: the store of all systems of the pool.
    """

    def __init__(self, project: Project, store: Store) -> None:
        """Create an empty pool; system() creates a system if none is free.

        Args:
            project: the project whose topology each system runs.
            store: the store in whose transactions messages are handled; it stays open.

        """
        self._project, self._store = project, store
        self._idle: list[InlineSystem] = []
        self._end = weakref.finalize(self, _close_all, self._idle)
        # Close nothing at the end of a process: a forked process would do it, too, but cannot close
        # the systems of its parent process.
        self._end.atexit = False

    @contextlib.contextmanager
    def system(self) -> Iterator[InlineSystem]:
        """Yield an empty system for the duration of a `with` block.

        If the block raises an exception, or messages are left at its end, the system is closed.
        Otherwise, it is used again.
        """
        try:
            system = self._idle.pop()
        except IndexError:
            system = InlineSystem(self._project, self._store)
        reusable = False
        try:
            yield system
            reusable = system.is_empty()
        finally:
            if reusable:
                self._idle.append(system)
            else:
                system.close()

    def close(self) -> None:
        """Close the free systems; garbage collection of the pool does the same."""
        _close_all(self._idle)


def _close_all(idle: list[InlineSystem]) -> None:
    while idle:
        idle.pop().close()
