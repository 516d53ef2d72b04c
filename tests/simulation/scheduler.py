"""Simulated processes that take turns: a seed selects which one continues, and which is killed.

Each process is a greenlet that runs feedbus's own code. It gives its turn away at ports alone: when
it waits, speaks to the broker, or uses the store. So everything that happens follows from the seed.
"""

from __future__ import annotations

import heapq
import itertools
import random
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass, field

import greenlet

MICROSECONDS = 1_000
SECONDS = 1_000_000_000
WEIGHTS = (1.0, 1.0, 0.3, 0.05, 4.0)
REWEIGH_STEPS = 120


class Crash(KeyboardInterrupt):
    """The process is dead; its code is left on the way, and no port obeys it any more."""


@dataclass(eq=False)
class Process:
    """One simulated process.

    Attributes:
        name: in the trace.
        until: when it goes on, by the virtual clock; None for a wait without a limit.
        ready: returns whether it can go on before; None where only time counts.
        weight: how likely it gets the turn.
        at_death: called when the process is killed or ends.
        owner: the process whose thread this is; None for a process.

    """

    name: str
    greenlet: greenlet.greenlet
    until: int | None = 0
    ready: Callable[[], bool] | None = None
    weight: float = 1.0
    dead: bool = False
    at_death: list[Callable[[bool], None]] = field(default_factory=list)
    owner: Process | None = None


class Scheduler:
    """Virtual time, the processes, and the events at certain times."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        """Let a seed decide."""
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 0
        self.steps = 0
        self.deaths = 0
        self.trace: list[str] = []
        self.processes: list[Process] = []
        self.failures: list[tuple[str, BaseException]] = []
        self.between_steps: Callable[[], None] = lambda: None
        self._tracing = tracing
        self._hub = greenlet.getcurrent()
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._running: Process | None = None
        self._listed_deaths = 0  # of the processes that are left out of `processes`

    @property
    def current(self) -> Process | None:
        """The process whose turn it is, None outside of all of them."""
        return self._running

    def note(self, text: str, *, by: str = "") -> None:
        """Write a line of the trace."""
        if self._tracing:
            name = by or (self._running.name if self._running else "-")
            self.trace.append(f"{self.now / SECONDS:12.6f}  {name:<14}  {text}")

    def at(self, moment: int, do: Callable[[], None]) -> None:
        """Have something done at a moment."""
        heapq.heappush(self._due, (moment, next(self._order), do))

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Have something done later."""
        self.at(self.now + int(seconds * SECONDS), do)

    def start(self, name: str, run: Callable[[], None], *, owner: Process | None = None) -> Process:
        """Start a process, or a thread of its owner."""

        def body() -> None:
            try:
                run()
            except Crash:
                pass
            except BaseException as error:  # noqa: BLE001 -- a finding, whatever it is
                if not process.dead:
                    self.note(f"fails: {type(error).__name__}: {error}", by=name)
                    self.failures.append((name, error))
            if not process.dead:
                self._note_death(process)

        process = Process(name, greenlet.greenlet(body, parent=self._hub), until=self.now)
        process.owner = owner.owner or owner if owner is not None else None
        self.processes.append(process)
        self.note("starts", by=name)
        return process

    def kill(self, process: Process) -> None:
        """End a process where it stands, and its threads; a thread's whole process ends."""
        process = process.owner or process
        if process.dead:
            return
        self.note("IS KILLED", by=process.name)
        self._note_death(process)
        for do in process.at_death:
            do(True)
        self._crash(process)
        self._end_threads(process)

    def _end_threads(self, process: Process) -> None:
        """End the threads of a process that has ended."""
        threads = [each for each in self.processes if each.owner is process and not each.dead]
        for each in threads:
            self._note_death(each)
        for each in threads:
            self._crash(each)

    def _note_death(self, process: Process) -> None:
        process.dead = True
        self.deaths += 1

    def _crash(self, process: Process) -> None:
        """Leave the code of a process or thread where it stands."""
        if process.greenlet:  # it has begun
            before, self._running = self._running, process
            process.greenlet.throw(Crash)
            self._running = before

    def wait(
        self,
        what: str,
        *,
        until: int | None = None,
        ready: Callable[[], bool] | None = None,
    ) -> None:
        """Give the turn away until a moment, or until something is so.

        Outside of all processes nothing is waited for but time.
        """
        process = self._running
        if process is None:
            if until is not None:
                self.now = max(self.now, until)
            return
        if process.dead:
            raise Crash
        self.note(what)
        process.until, process.ready = until, ready
        self._hub.switch()
        if process.dead:
            raise Crash

    def step(self, what: str) -> None:
        """Give the turn away, and be ready for the next one at once."""
        if self._running is not None:
            self.wait(what, until=self.now)

    def run(self, done: Callable[[], bool], *, most_seconds: float, most_steps: int) -> bool:
        """Let processes take turns until something is so; False when it never was."""
        end, steps = self.now + int(most_seconds * SECONDS), self.steps + most_steps
        while not done():
            if self.now > end or self.steps > steps:
                return False
            self._turn()
        return True

    def _runnable(self) -> list[Process]:
        """Return the processes that can go on."""
        now, found = self.now, []
        for each in self.processes:
            until, ready = each.until, each.ready
            if (until is not None and until <= now) or (ready is not None and ready()):
                found.append(each)
        return found

    def _chosen(self, runnable: list[Process]) -> Process:
        """Choose as random.choices() does, which takes more time."""
        total, weights = 0.0, []
        for each in runnable:
            total += each.weight
            weights.append(total)
        return runnable[bisect(weights, self.random.random() * total, 0, len(runnable) - 1)]

    def _turn(self) -> None:
        self.between_steps()
        while self._due and self._due[0][0] <= self.now:
            heapq.heappop(self._due)[2]()
        if self._listed_deaths != self.deaths:
            self._listed_deaths = self.deaths
            self.processes = [each for each in self.processes if not each.dead]
        runnable = self._runnable()
        if not runnable:
            moments = [each.until for each in self.processes if each.until is not None]
            moments += [self._due[0][0]] if self._due else []
            self.now = min(moments, default=self.now + SECONDS)
            return
        if self.steps % REWEIGH_STEPS == 0:
            for each in self.processes:
                each.weight = self.random.choice(WEIGHTS)
        chosen = self._chosen(runnable)
        self.steps += 1
        self.now += self.random.randrange(1, 400) * MICROSECONDS
        self._running = chosen
        chosen.greenlet.switch()
        self._running = None
        if chosen.dead:
            for do in chosen.at_death:
                do(False)
            if chosen.owner is None:
                self._end_threads(chosen)
