"""The event loop of a process's async handlers and resources, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

from feedbus.fork_safety import end_fork

log = logging.getLogger(__name__)

BLOCKED_SECONDS = 1.0
Outcome = tuple[Any, BaseException | None]
Started = Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]


class HandlerLoop:
    """Runs coroutines while the caller waits; what they have started goes on meanwhile."""

    def __init__(self) -> None:
        """Start the thread, and return when its loop runs."""
        self._pid = os.getpid()
        started: Started = Future()
        self._thread = threading.Thread(
            target=_run_loop, args=(started,), name="feedbus handlers", daemon=True
        )
        self._thread.start()
        self._loop, self._ending = started.result()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return what a coroutine returns, or raise what it raises."""
        waiting = asyncio.run_coroutine_threadsafe(self._outcome(coroutine), self._loop)
        value, error = self._awaited(waiting)
        if error is not None:
            raise error
        return value

    def _awaited(self, waiting: Future[Outcome]) -> Outcome:
        """Wait for an outcome; where the loop does not answer meanwhile, log what blocks it."""
        answered: threading.Event | None = None
        reported = False
        while True:
            with contextlib.suppress(TimeoutError):
                return waiting.result(BLOCKED_SECONDS)
            if answered is not None and not answered.is_set():
                if not reported:
                    self._report_blocked()
                reported = True
                continue
            answered, reported = threading.Event(), False
            self._loop.call_soon_threadsafe(answered.set)

    def _report_blocked(self) -> None:
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 -- the only way
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        log.warning(
            "the event loop is blocked for %g s or longer; await there, or write the handler under"
            " 'def'. It is at:\n%s",
            BLOCKED_SECONDS,
            stack,
        )

    def close(self) -> None:
        """Cancel what still runs, and end the thread."""
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    async def _outcome(self, coroutine: Coroutine[Any, Any, Any]) -> Outcome:
        """Return what a coroutine returns and raises; SystemExit would end the loop."""
        try:
            return await coroutine, None
        except BaseException as error:  # noqa: BLE001 -- for the caller
            return None, error
        finally:
            if os.getpid() != self._pid:
                end_fork()


def _run_loop(started: Started) -> None:
    """Run a loop until it is to end, also where a task in it raises SystemExit or stops it."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        life = loop.create_task(_live(started))
        while not life.done():
            try:
                loop.run_until_complete(life)
            except (SystemExit, KeyboardInterrupt):
                log.exception("a task that a handler or a resource has started has failed")
            except RuntimeError:
                log.exception("a handler or a resource has stopped the event loop; it goes on")


async def _live(started: Started) -> None:
    ending = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), ending))
    await ending.wait()
