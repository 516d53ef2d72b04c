"""A circus watcher whose commands do not use circus's lock over all watchers."""

from __future__ import annotations

import asyncio
from typing import Any

from circus.watcher import Watcher


class UnlockedWatcher(Watcher):
    """A circus watcher whose commands do not take circus's lock.

    circus refuses every command while another command runs, also if that command is for another
    watcher. So a consumer that finishes a long handler would block the commands for all others. A
    subclass defines _start() and _stop().
    """

    def __init__(self, **options: Any) -> None:
        """Create the watcher with circus's options."""
        super().__init__(**options)
        self._commands = 0  # how many commands have arrived

    async def start(self) -> None:
        """Start the processes that do not run yet."""
        self._commands += 1
        await self._start()

    async def stop(self) -> None:
        """Stop every process, and return when all have ended; consumers finish their messages."""
        self._commands += 1
        await self._stop(close_output_streams=True)

    async def restart(self) -> None:
        """Stop every process, then start them unless another command has arrived meanwhile."""
        self._commands += 1
        latest = self._commands
        await self._stop()
        if latest == self._commands:
            await self._start()

    async def reload(self, graceful: bool = True, sequential: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 -- circus's signature
        """Restart the processes, for circus's command `reload`.

        circus's own reload would run the old and the new process of one slot at the same time.

        Args:
            graceful: not used; circus passes it.
            sequential: not used; circus passes it.

        """
        await self.restart()

    def incr(self, nb: int = 1) -> asyncio.Future[int]:
        """Run more processes, for `circusctl incr`; the result of the future is their new number.

        Args:
            nb: how many more.

        """
        return asyncio.ensure_future(self._set_count(self.numprocesses + nb))

    def decr(self, nb: int = 1) -> asyncio.Future[int]:
        """Run fewer processes, for `circusctl decr`; the result of the future is their new number.

        Args:
            nb: how many fewer.

        """
        return asyncio.ensure_future(self._set_count(self.numprocesses - nb))

    async def do_action(self, num: int) -> None:
        """Apply an option that `circusctl set` has changed; circus calls the method.

        Args:
            num: circus's code for what the option needs: 0 for more or fewer processes, 1 for a
                restart.

        """
        if num == 0:
            await self.manage_processes()
        elif num == 1 and not self.is_stopped():
            await self.restart()

    async def _set_count(self, count: int) -> int:
        self.numprocesses = max(count, 0)
        await self.manage_processes()
        return int(self.numprocesses)
