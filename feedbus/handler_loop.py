"""The event loop of a process's async handlers and resources, in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

from feedbus.fork_safety import end_fork


class HandlerLoop:
    """Runs coroutines while the caller waits; what they have started goes on meanwhile."""

    def __init__(self) -> None:
        """Start the thread, and return when its loop runs."""
        self._pid = os.getpid()
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(_live(started)), name="feedbus handlers", daemon=True
        )
        self._thread.start()
        self._loop, self._ending = started.result()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return what a coroutine returns, or raise what it raises."""
        waiting = asyncio.run_coroutine_threadsafe(self._outcome(coroutine), self._loop)
        value, error = waiting.result()
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """Cancel what still runs, and end the thread."""
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    async def _outcome(
        self, coroutine: Coroutine[Any, Any, Any]
    ) -> tuple[Any, BaseException | None]:
        """Return what a coroutine returns and raises; SystemExit would end the loop."""
        try:
            return await coroutine, None
        except BaseException as error:  # noqa: BLE001 -- for the caller
            return None, error
        finally:
            if os.getpid() != self._pid:
                end_fork()


async def _live(started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    ending = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), ending))
    await ending.wait()
