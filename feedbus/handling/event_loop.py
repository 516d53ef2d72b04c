"""The thread with the event loop in which async handlers and resources of a process run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from feedbus.clock import SYSTEM, Clock
from feedbus.logs import EventLog
from feedbus.process.fork_safety import end_fork

events = EventLog(__name__)

CHECK_SECONDS = 0.25  # between two checks whether the loop is blocked
# check() gives the loop a function to call. If the loop has not called it after this time, the loop
# counts as blocked: it still runs the same piece of code.
BLOCKED_SECONDS = 1.0
# The loop, and the event that ends its thread.
Started = Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
# The folders of code that is not the project's code.
NOT_THE_PROJECTS = (
    str(Path(__file__).parents[1]),
    sysconfig.get_path("purelib"),
    sysconfig.get_path("stdlib"),
)


class HandlerTimeout(Exception):  # noqa: N818 -- names what happened
    """An async handler took longer than the queue's handler_timeout, and was cancelled."""


class HandlerLoop:
    """Runs coroutines in an event loop, which has a thread of its own.

    The Resources of a process create a HandlerLoop when the first async handler or async resource
    needs an event loop. run() waits for the result of a coroutine; start() does not wait. The tasks
    that a coroutine has started continue after the end of the coroutine.

    Args:
        on_blocked: called repeatedly while a handler blocks the loop, with the seconds of blocking
            since the last call.
        clock: gives the time, and starts the thread.
    """

    def __init__(
        self, on_blocked: Callable[[float], None] = lambda _: None, clock: Clock = SYSTEM
    ) -> None:
        """Start the thread, and return when its loop runs.

        Args:
            on_blocked: called repeatedly while the loop is blocked. At the first call, the argument
                is the number of seconds since the loop became blocked. At each later call, the
                argument is the number of seconds since the last call.
            clock: the clock by which run() waits. It also starts the thread.

        """
        self._on_blocked = on_blocked
        self._clock = clock
        self._counted_at = 0.0  # when on_blocked was last called
        self._pid = os.getpid()
        self._turned = True  # whether the loop has called the function that check() gave it last
        self._asked_at = 0.0  # when check() has given this function to the loop
        self._reported: set[tuple[str, int | None]] = set()  # the logged lines: file and number
        self._tasks: set[asyncio.Task[None]] = set()
        started: Started = Future()
        threads = clock.threads
        self._thread = threads.start(
            "feedbus handlers", lambda: _run_loop(started, threads.new_event_loop)
        )
        self._loop, self._ending = threads.result(started)

    def run(self, coroutine: Coroutine[Any, Any, Any], timeout_seconds: float | None = None) -> Any:
        """Run a coroutine in the loop and wait for it; return its result, or raise its exception.

        Args:
            coroutine: the coroutine.
            timeout_seconds: the time limit; None for no limit.

        Raises:
            HandlerTimeout: the coroutine exceeded the time limit and was cancelled.
        """
        limited = limit(coroutine, timeout_seconds) if timeout_seconds else coroutine
        waiting = asyncio.run_coroutine_threadsafe(self._outcome(limited), self._loop)
        while True:
            with contextlib.suppress(TimeoutError):
                value, error = self._clock.threads.result(waiting, CHECK_SECONDS)
                break
            self.check()
        if error is not None:
            raise error
        return value

    def check(self) -> None:
        """If code blocks the loop, call `on_blocked`, and log each blocking line of code once.

        The loop counts as blocked if it runs the same piece of code for 1 s. run() calls this
        method while it waits. After start(), the caller must call this method more often than every
        second, until the coroutines have ended.
        """
        now = self._clock.monotonic()
        if self._turned:
            if now - self._asked_at >= CHECK_SECONDS:
                self._turned, self._asked_at = False, now
                self._loop.call_soon_threadsafe(self._turn)
        elif now - self._asked_at >= BLOCKED_SECONDS:
            self._on_blocked(now - max(self._counted_at, self._asked_at))
            self._counted_at = now
            self._report(now - self._asked_at)

    def _turn(self) -> None:
        self._turned = True

    def _report(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 -- a documented function
        stack = traceback.extract_stack(frame)
        own = [each for each in stack if not each.filename.startswith(NOT_THE_PROJECTS)]
        position = (own or stack)[-1]
        if (position.filename, position.lineno) in self._reported:
            return
        self._reported.add((position.filename, position.lineno))
        events.warning(
            "loop_blocked",
            f"an async handler has blocked the event loop for {seconds:.1f} s at"
            f" {position.filename}:{position.lineno}; await the slow call, run it with"
            " asyncio.to_thread(…), or define the handler with 'def'",
            seconds=seconds,
            detail="".join(traceback.format_list(stack)).rstrip(),
        )

    def start(self, coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Start coroutines as tasks in the loop, without waiting.

        The coroutines must not raise exceptions.
        """
        self._loop.call_soon_threadsafe(self._start, coroutines)

    def _start(self, coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
        for coroutine in coroutines:
            task = self._loop.create_task(coroutine)
            self._tasks.add(task)  # the loop keeps no reference that prevents garbage collection
            task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Cancel the running tasks, and end the thread; called when the process ends."""
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    async def _outcome(
        self, coroutine: Coroutine[Any, Any, Any]
    ) -> tuple[Any, BaseException | None]:
        """Return (result, None) if a coroutine returns, and (None, exception) if it raises one.

        A SystemExit is returned, too: if it were raised here, it would stop the loop.
        """
        try:
            return await coroutine, None
        except BaseException as error:  # noqa: BLE001 -- for the caller
            return None, error
        finally:
            if os.getpid() != self._pid:  # the coroutine has forked, and this is the new process
                end_fork()


def _run_loop(started: Started, new_loop: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    """Run a loop until HandlerLoop.close() ends it.

    If a task raises SystemExit or KeyboardInterrupt, or stops the loop, log it and run the loop
    again.

    Args:
        started: gets the loop and the event that ends it.
        new_loop: creates the loop; None for asyncio's default.

    """
    with asyncio.Runner(loop_factory=new_loop) as runner:
        loop = runner.get_loop()
        life = loop.create_task(_live(started))
        while not life.done():
            try:
                loop.run_until_complete(life)
            except (SystemExit, KeyboardInterrupt) as error:
                text = "an asyncio task of a handler or a resource failed; other tasks continue"
                events.error("task_failed", text, exc_info=error)
            except RuntimeError as error:
                text = (
                    "a handler or a resource stopped the event loop; feedbus runs the loop again;"
                    " search the project's async code for a call of loop.stop(), and remove it"
                )
                events.error("loop_stopped", text, exc_info=error)


async def limit(coroutine: Coroutine[Any, Any, Any], timeout_seconds: float) -> Any:
    """Run a handler's coroutine, and return its result; cancel the coroutine at its time limit.

    Args:
        coroutine: the coroutine.
        timeout_seconds: the time limit.

    Raises:
        HandlerTimeout: the coroutine was cancelled at the time limit.

    """
    try:
        async with asyncio.timeout(timeout_seconds) as timeout:
            return await coroutine
    except TimeoutError as error:
        if not timeout.expired():
            raise
        msg = f"cancelled, as it took longer than handler_timeout ({timeout_seconds:g} s)"
        raise HandlerTimeout(msg) from error


async def _live(started: Started) -> None:
    ending = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), ending))
    await ending.wait()
