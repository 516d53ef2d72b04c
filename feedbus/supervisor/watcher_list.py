"""The watchers of an arbiter, in the order of the topology."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from feedbus.supervisor.forkserver_client import ForkServer
from feedbus.supervisor.watcher import ProcessWatcher

WORTH_FORKING = 4  # for fewer watchers, a fork server takes longer than separate starts
# If watchers are replaced, they stop at the same time. The replacements of the watchers that have
# stopped within this time start together. Another replacement starts when its watcher has stopped.
TOGETHER_SECONDS = 2.0


class WatcherList:
    """The watchers that feedbus has added to a circus arbiter; a Supervision has one list."""

    def __init__(
        self,
        arbiter: Any,
        watchers: Iterable[ProcessWatcher],
        start_fork_server: Callable[[], ForkServer | None],
    ) -> None:
        """Create the list; the watchers are not registered with the arbiter yet.

        Args:
            arbiter: the arbiter of circus.
            watchers: the watchers in the order of the topology.
            start_fork_server: starts a fork server; returns None if this system does not allow it.

        """
        self._arbiter = arbiter
        self._watchers = list(watchers)
        self._start_fork_server = start_fork_server

    def __iter__(self) -> Iterator[ProcessWatcher]:
        """Yield every watcher, in order."""
        return iter(tuple(self._watchers))

    async def start_all(self, fork_server: ForkServer | None) -> None:
        """Register every watcher at the arbiter, and start its processes.

        Args:
            fork_server: forks the processes; with None, a new Python is started for each.

        """
        for watcher in self._watchers:
            self._register(watcher)
        await self._start(self._watchers, fork_server)

    @staticmethod
    async def _start(chosen: Iterable[ProcessWatcher], fork_server: ForkServer | None) -> None:
        with fork_server or contextlib.nullcontext():
            for watcher in chosen:
                watcher.fork_server = fork_server
                await watcher.start()
                watcher.fork_server = None

    def add(self, watchers: Iterable[ProcessWatcher]) -> None:
        """Register watchers at the arbiter and at the end of the list, without starting them."""
        for watcher in watchers:
            self._watchers.append(watcher)
            self._register(watcher)

    async def remove(self, watcher: ProcessWatcher) -> None:
        """Remove a watcher from the list, stop it, and remove it from the arbiter."""
        self._watchers = [one for one in self._watchers if one is not watcher]
        await watcher.stop()
        if watcher in self._arbiter.watchers:
            self._arbiter.watchers.remove(watcher)
            self._arbiter._watchers_names.pop(watcher.name.lower(), None)  # noqa: SLF001 -- rm_watcher refuses while another command works

    def _register(self, watcher: ProcessWatcher) -> None:
        arbiter = self._arbiter
        watcher.initialize(arbiter.evpub_socket, arbiter.sockets, arbiter)
        arbiter.watchers.append(watcher)
        arbiter._watchers_names[watcher.name.lower()] = watcher  # noqa: SLF001 -- add_watcher makes plain ones

    async def replace(
        self,
        pairs: Sequence[tuple[ProcessWatcher, ProcessWatcher | None]],
        to_start: Sequence[ProcessWatcher],
    ) -> None:
        """Stop watchers; start each replacement when the processes of the old watcher have ended.

        `feedbus apply` and the restart of watchers use the method.

        Args:
            pairs: watchers to stop, each with its replacement, or with None if it is only removed.
                If both are the same watcher, it is restarted.
            to_start: further watchers to start.

        """
        count = len(to_start) + sum(after is not None for _, after in pairs)
        # The fork server imports modules while processes end.
        fork_server = self._start_fork_server() if count >= WORTH_FORKING else None
        endings = {asyncio.ensure_future(self._clear(*pair)): pair[1] for pair in pairs}
        with fork_server or contextlib.nullcontext():
            ended: set[Any] = set()
            if endings:
                ended, _ = await asyncio.wait(endings, timeout=TOGETHER_SECONDS)
            replacements = [endings[one] for one in endings if one in ended]
            now = [one for one in replacements if one is not None]
            await self._start([*now, *to_start], fork_server)

        async def follow_later(ending: Any, after: ProcessWatcher | None) -> None:
            await ending
            if after is not None:
                await after.start()

        late = [(one, after) for one, after in endings.items() if one not in ended]
        # gather() also raises the errors of tasks that have ended.
        await asyncio.gather(*ended, *(follow_later(one, after) for one, after in late))

    async def _clear(self, before: ProcessWatcher, after: ProcessWatcher | None) -> None:
        """Stop and remove a watcher, and add another one if `after` is set."""
        if before is after:
            await before.stop()
            return
        await self.remove(before)
        if after is not None:
            self.add([after])

    def sort(self, names: Iterable[str]) -> None:
        """Sort the watchers by the order of names, which is the order of `feedbus status`.

        Watchers with other names come last. In the arbiter, circus's plain watchers come first.

        Args:
            names: the names of watchers.

        """
        places = {name: place for place, name in enumerate(names)}
        self._watchers.sort(key=lambda one: places.get(one.name, len(places)))
        own = set(self._watchers)
        plain = [one for one in self._arbiter.watchers if one not in own]
        self._arbiter.watchers[:] = [*plain, *self._watchers]

    @property
    def leaving_watchers(self) -> list[ProcessWatcher]:
        """The watchers of consumers that still empty a queue which the topology no longer has."""
        return [one for one in self._watchers if one.leaving]
