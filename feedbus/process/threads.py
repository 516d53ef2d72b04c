"""Threads: an interface for starting them and waiting for them, and the threads of the machine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from concurrent.futures import Future

Result = TypeVar("Result")


class Thread(Protocol):
    """A thread that was started."""

    @property
    def ident(self) -> int | None:
        """The number by which Python knows the thread."""

    def join(self) -> None:
        """Return when the thread has ended."""


class Pool(Protocol):
    """Threads that make calls."""

    def submit(self, call: Callable[..., object], /, *arguments: Any) -> object:
        """Make a call in one of the threads."""

    def shutdown(self) -> None:
        """Return when all calls have ended, and end the threads."""


class Threads(Protocol):
    """The interface for starting threads and waiting for their results.

    Attributes:
        new_event_loop: makes the event loop of a thread; None for asyncio's default.

    """

    new_event_loop: Callable[[], AbstractEventLoop] | None

    def start(self, name: str, run: Callable[[], None]) -> Thread:
        """Start a thread that does not keep the process alive."""

    def pool(self, name: str, most: int, begin: Callable[[], None]) -> Pool:
        """Return a pool of at most so many threads; each calls `begin` first."""

    def result(self, future: Future[Result], seconds: float | None = None) -> Result:
        """Wait for the result of another thread.

        Raises:
            TimeoutError: there is none after these seconds.

        """


class SystemThreads:
    """The threads of the machine."""

    new_event_loop: Callable[[], AbstractEventLoop] | None = None

    def start(self, name: str, run: Callable[[], None]) -> Thread:
        """Start a daemon thread."""
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def pool(self, name: str, most: int, begin: Callable[[], None]) -> Pool:
        """Return a pool of the standard library."""
        from concurrent.futures import ThreadPoolExecutor  # only some consumers need it

        return ThreadPoolExecutor(most, name, initializer=begin)

    def result(self, future: Future[Result], seconds: float | None = None) -> Result:
        """Wait for a future."""
        return future.result(seconds)


SYSTEM: Threads = SystemThreads()
