"""An interface for threads, and the threads of the machine.

A simulation implements the interface with threads that run one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from concurrent.futures import Future

Result = TypeVar("Result")


class Thread(Protocol):
    """The interface of a thread that Threads.start() has started."""

    @property
    def ident(self) -> int | None:
        """The number by which Python knows the thread; None before the thread runs."""

    def join(self) -> None:
        """Wait until the thread has ended."""


class Pool(Protocol):
    """The interface of a pool of threads that execute calls; Threads.pool() makes it."""

    def submit(self, call: Callable[..., object], /, *arguments: Any) -> object:
        """Execute a call in one of the threads; return a future with its result.

        Args:
            call: the function to call.
            arguments: its arguments.

        """

    def shutdown(self) -> None:
        """Wait until all calls have ended, and end the threads."""


class Threads(Protocol):
    """The interface for starting threads and waiting for their results.

    SystemThreads implements it; a simulation implements it with threads that run one at a time.

    Attributes:
        new_event_loop: makes the event loop of a thread; None for asyncio's default.

    """

    new_event_loop: Callable[[], AbstractEventLoop] | None

    def start(self, name: str, run: Callable[[], None]) -> Thread:
        """Start a thread; it does not keep the process alive.

        Args:
            name: the name of the thread.
            run: the function that the thread calls.

        """

    def pool(self, name: str, max_threads: int, begin: Callable[[], None]) -> Pool:
        """Return a pool of threads; each thread is started when a call is submitted.

        Args:
            name: the beginning of the names of the threads.
            max_threads: the largest number of threads.
            begin: called first in each thread.

        """

    def result(self, future: Future[Result], seconds: float | None = None) -> Result:
        """Wait for a future of another thread, and return its result, or raise its exception.

        Args:
            future: the future.
            seconds: how long to wait; None for no limit.

        Raises:
            TimeoutError: there is no result after these seconds.

        """


class SystemThreads:
    """Starts the threads of the operating system; outside of a simulation, all code uses SYSTEM."""

    new_event_loop: Callable[[], AbstractEventLoop] | None = None

    def start(self, name: str, run: Callable[[], None]) -> Thread:
        """Start a daemon thread that calls a function.

        Args:
            name: the name of the thread.
            run: the function.

        """
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def pool(self, name: str, max_threads: int, begin: Callable[[], None]) -> Pool:
        """Return a thread pool of the standard library.

        Args:
            name: the beginning of the names of the threads.
            max_threads: the largest number of threads.
            begin: called in each thread before its first call.

        """
        from concurrent.futures import ThreadPoolExecutor  # only some consumers need it

        return ThreadPoolExecutor(max_threads, name, initializer=begin)

    def result(self, future: Future[Result], seconds: float | None = None) -> Result:
        """Wait for a future of another thread, and return its result, or raise its exception.

        Args:
            future: the future.
            seconds: how long to wait; None for no limit.

        Raises:
            TimeoutError: there is no result after these seconds.

        """
        return future.result(seconds)


SYSTEM: Threads = SystemThreads()
