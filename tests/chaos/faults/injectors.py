"""Injectors of faults; each uses a random source with a seed, and counts its faults."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import psutil

from bench.system import name_of, processes
from tests.chaos.faults.loaded_system import LoadedSystem

Fault = tuple[str, Callable[[], object]]


@dataclass(slots=True)
class Interval:
    """Injects a fault at each interval; the first after one."""

    random: random.Random
    interval_seconds: float = 2.0
    done: Counter[str] = field(default_factory=Counter)
    _due: float = 0.0

    def strike(self, system: LoadedSystem, _progress: float) -> None:
        """Inject a fault if the interval is over."""
        now = time.monotonic()
        if not self._due:
            self._due = now + self.interval_seconds
        elif now >= self._due and (name := self.inject(system)):
            self._due = now + self.interval_seconds
            self.done[name] += 1

    def inject(self, system: LoadedSystem) -> str:
        """Inject a fault and return its name, or "" if no fault was possible."""
        raise NotImplementedError

    def omitted(self) -> list[str]:
        """Return a text if nothing was injected."""
        return [] if self.done else ["no fault was injected"]


@dataclass(slots=True)
class RandomKills(Interval):
    """Kills a random process at each interval: a consumer, web, operations or the supervisor.

    A process is killed also while it starts. After the end of a supervisor, which ends all
    processes, the next kill waits until every process was started. Otherwise no process would ever
    run.
    """

    _starting: bool = True

    def inject(self, system: LoadedSystem) -> str:
        """Kill a process."""
        try:
            named = sorted((name_of(each), each.pid) for each in processes(system.topology))
            names = {name for name, _ in named}
            self._starting = self._starting or "supervisor" not in names
            if self._starting and not names >= system.process_names:
                return ""
            name, pid = self.random.choice(named)
            psutil.Process(pid).send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:  # it has ended by itself meanwhile
            return ""
        self._starting = name == "supervisor"
        return f"kill -9 {name.partition('_')[0]}"


@dataclass(slots=True)
class PublisherKills(Interval):
    """Kills a random publisher at each interval and starts it again."""

    def inject(self, system: LoadedSystem) -> str:
        """Kill a publisher."""
        chosen = self.random.choice(system.publishers)
        if chosen.process is None or chosen.process.poll() is not None:
            return ""
        chosen.process.kill()
        chosen.process.wait()
        system.start(chosen)
        return "kill -9 publisher"


@dataclass(slots=True)
class Sequential:
    """Injects a list of faults one after the other, spread evenly over the load."""

    faults: Sequence[Fault]
    done: Counter[str] = field(default_factory=Counter)

    def strike(self, _system: LoadedSystem, progress: float) -> None:
        """Inject the next fault if the load has reached its position."""
        at = self.done.total()
        if at < len(self.faults) and progress >= (at + 1) / (len(self.faults) + 1):
            name, inject = self.faults[at]
            inject()
            self.done[name] += 1

    def omitted(self) -> list[str]:
        """Return the faults that the load was too short for."""
        return [f"not injected: {name}" for name, _ in self.faults[self.done.total() :]]

    @classmethod
    def shuffled(cls, faults: Sequence[Fault], chance: random.Random) -> Sequential:
        """Return an injector of these faults in a random order."""
        mixed = list(faults)
        chance.shuffle(mixed)
        return cls(mixed)


class Restartable(Protocol):
    """A server that can be stopped, killed and started: RabbitMQ or PostgreSQL."""

    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def start(self) -> None: ...


def outages(
    name: str, server: Restartable, chance: random.Random, stops: int, kills: int
) -> list[Fault]:
    """Return outages of a server, each of up to three seconds and the time of its start."""

    def outage(end: Callable[[], None]) -> Callable[[], None]:
        def inject() -> None:
            end()
            time.sleep(chance.uniform(0.2, 3.0))
            server.start()

        return inject

    return [(f"{name} stopped", outage(server.stop))] * stops + [
        (f"{name} killed", outage(server.kill))
    ] * kills
