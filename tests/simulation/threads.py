"""The threads of simulated processes: each takes turns like a process, and ends with its own."""

from __future__ import annotations

import asyncio
import math
import selectors
from asyncio import events
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import greenlet

from feedbus.bus import shared_sender, transaction_blocks
from feedbus.dispatch import publications
from feedbus.store import key_locks
from tests.simulation.replacing import replaced
from tests.simulation.scheduler import SECONDS, Process, Scheduler


class SimulatedLock:
    """A lock between the threads of a simulated process."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Be free."""
        self._scheduler = scheduler
        self._held = False

    def __enter__(self) -> None:
        """Give the turn away until it is free."""
        while self._held:
            self._scheduler.wait("waits for a lock", ready=lambda: not self._held)
        self._held = True

    def __exit__(self, *_: object) -> None:
        """Free it."""
        self._held = False


class SimulatedCondition(SimulatedLock):
    """A condition between the threads of a simulated process."""

    def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Free the lock and give the turn away until something is so."""
        while not predicate():
            self._held = False
            self._scheduler.wait("waits for another thread", ready=predicate)
            self.__enter__()

    def notify_all(self) -> None:
        """Do nothing: the scheduler checks the awaited conditions itself."""


class OfThread:
    """The current transaction of each simulated thread."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Have none."""
        self._scheduler = scheduler
        self._by_thread: dict[Process | None, Any] = {}

    @property
    def transaction(self) -> Any:
        """The transaction of the thread whose turn it is, or None."""
        return self._by_thread.get(self._scheduler.current)

    @transaction.setter
    def transaction(self, transaction: Any) -> None:
        self._by_thread[self._scheduler.current] = transaction


class SimulatedThreadState:
    """Whether each simulated thread is in a transaction."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Have no thread in a transaction."""
        self._scheduler = scheduler
        self._in_transaction: set[Process | None] = set()

    @property
    def in_transaction(self) -> bool:
        """Whether the simulated thread that runs now is in a transaction."""
        return self._scheduler.current in self._in_transaction

    @in_transaction.setter
    def in_transaction(self, value: bool) -> None:
        change = self._in_transaction.add if value else self._in_transaction.discard
        change(self._scheduler.current)


@contextmanager
def simulated_locks(scheduler: Scheduler) -> Iterator[None]:
    """Let the threads of a process share a bus under a scheduler."""
    thread_state = SimulatedThreadState(scheduler)
    locks = SimpleNamespace(
        Lock=lambda: SimulatedLock(scheduler), Condition=lambda: SimulatedCondition(scheduler)
    )
    with (
        replaced(key_locks, "threading", locks),
        replaced(shared_sender, "threading", locks),
        replaced(transaction_blocks, "CurrentTransaction", lambda: OfThread(scheduler)),
        replaced(transaction_blocks, "thread_state", thread_state),
        replaced(publications, "thread_state", thread_state),
    ):
        yield


class SimulatedThread:
    """A thread that a simulated process has started."""

    ident = None

    def __init__(self, scheduler: Scheduler, name: str, run: Callable[[], None]) -> None:
        """Start it."""
        self._scheduler = scheduler
        owner = scheduler.current
        self._process: Process = scheduler.start(name, run, owner=owner)

    def join(self) -> None:
        """Give the turn away until it has ended."""
        process = self._process
        self._scheduler.wait(f"joins {process.name}", ready=lambda: process.dead)


class SimulatedPool:
    """A thread for each call."""

    def __init__(self, threads: SimulatedThreads, name: str) -> None:
        """Start no thread yet."""
        self._threads = threads
        self._name = name
        self._started: list[SimulatedThread] = []

    def submit(self, call: Callable[..., object], /, *arguments: Any) -> None:
        """Make a call in a thread."""

        def run() -> None:
            call(*arguments)

        self._started.append(self._threads.start(self._name, run))

    def shutdown(self) -> None:
        """Wait for all calls."""
        for each in self._started:
            each.join()


class SimulatedThreads:
    """Starts threads that take turns under a scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Start them under a scheduler."""
        self._scheduler = scheduler

    def start(self, name: str, run: Callable[[], None]) -> SimulatedThread:
        """Start a thread of the process whose turn it is."""
        return SimulatedThread(self._scheduler, name, run)

    def pool(self, name: str, max_threads: int, begin: Callable[[], None]) -> SimulatedPool:
        """Return a pool; its user makes at most so many calls at a time."""
        del max_threads, begin
        return SimulatedPool(self, name)

    def result(self, future: Future[Any], seconds: float | None = None) -> Any:
        """Give the turn away until a future is done."""
        until = None if seconds is None else self._scheduler.now + math.ceil(seconds * SECONDS)
        if not future.done():
            self._scheduler.wait("waits for a result", until=until, ready=future.done)
        return future.result(0)

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """Return asyncio's own loop, in virtual time."""
        return SimulatedLoop(self._scheduler)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop that gives the turn away between its tasks, and in its waits."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Wait by a scheduler."""
        self._scheduler = scheduler
        super().__init__(TurningSelector(scheduler))

    def time(self) -> float:
        """Return virtual seconds."""
        return self._scheduler.now / SECONDS

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Log nothing: the tasks of a killed process are never finished."""


class TurningSelector(selectors.DefaultSelector):
    """A selector that gives the turn away."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Wait by a scheduler."""
        self._scheduler = scheduler
        super().__init__()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the ready files, after other processes have had their turns."""
        scheduler, running = self._scheduler, events._get_running_loop()
        if scheduler.current is not None and scheduler.current.dead:
            raise greenlet.GreenletExit
        until = scheduler.now
        if timeout is None or timeout > 0:
            until = None if timeout is None else until + math.ceil(timeout * SECONDS)
        # All simulated threads are one thread of Python, and only one loop may run in a thread.
        events._set_running_loop(None)
        try:
            scheduler.wait("runs tasks", until=until, ready=lambda: bool(self._readable()))
        except KeyboardInterrupt as crash:
            raise greenlet.GreenletExit from crash  # the loop would go on after an interrupt
        finally:
            events._set_running_loop(running)
        return self._readable()

    def _readable(self) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(0)
