"""The consumers of the simulated project, their supervisor, and the process of an apply."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from feedbus.apply import apply
from feedbus.errors import Outage, UsageError
from feedbus.metrics import Metrics
from feedbus.plan.planning import make_plan
from feedbus.process.slots import run_folder
from feedbus.runner import CrashGuard, Limits, Runner
from feedbus.topology import Topology
from tests.simulation.handling import Handlers
from tests.simulation.scheduler import Process
from tests.simulation.system import System

LATE_START_SECONDS = 20.0  # a ring can change meanwhile

Slot = tuple[str, int]  # the name of a consumer, and the number of its process


class Supervisor:
    """Keeps the wanted consumers of one host running."""

    def __init__(
        self,
        system: System,
        topology: Topology,
        *,
        at: str = "",
        assigned: Callable[[str], Callable[[], bool]] = lambda _: lambda: True,
    ) -> None:
        """Want the consumers of a topology.

        Args:
            system: the system of the consumers.
            topology: that the host has at first.
            at: follows the names of its processes.
            assigned: returns for each consumer the function that reports whether the host works
                on its queue.

        """
        self.system = system
        self.wanted = dict.fromkeys(topology.consumers, topology)
        self._at = at
        self._assigned = assigned
        self._handlers = Handlers(system)
        self._processes: dict[Slot, Process] = {}
        self._runners: dict[Slot, Runner] = {}
        self._seen_deaths = -1  # of the scheduler, -1 if the wanted consumers have changed

    def want(self, topology: Topology) -> None:
        """Want the consumers of a topology, besides the others."""
        self.wanted.update(dict.fromkeys(topology.consumers, topology))
        self._seen_deaths = -1

    def end(self, names: Iterable[str]) -> None:
        """Want consumers no more, and stop them."""
        for name in list(names):
            del self.wanted[name]
            self.stop(name)

    def keep_running(self) -> None:
        """Start each wanted consumer that does not run."""
        if self._seen_deaths == self.system.scheduler.deaths:
            return
        self._seen_deaths = self.system.scheduler.deaths
        for name in sorted(self.wanted):
            for number in range(self.wanted[name].consumer(name).queue.processes):
                self._keep_running((name, number))

    def _keep_running(self, slot: Slot) -> None:
        """Start the process of a slot if it does not run."""
        process = self._processes.get(slot)
        if process is not None and process.dead:
            self._runners.pop(slot, None)
            seconds = self.system.scheduler.random.choice((0.1, 0.5, 3.0))
            if process.name in self.system.late_starts:
                self.system.late_starts.remove(process.name)
                seconds = LATE_START_SECONDS
            self._processes[slot] = self._later(slot, seconds)
        elif process is None:
            self._processes[slot] = self._later(slot, 0.0)

    def processes(self) -> list[Process]:
        """Return the processes of the host's consumers, in a fixed order."""
        return [self._processes[slot] for slot in sorted(self._processes)]

    def stop(self, name: str) -> None:
        """Stop a consumer that runs."""
        for slot in [each for each in self._runners if each[0] == name]:
            self._runners[slot].stop()

    def _later(self, slot: Slot, seconds: float) -> Process:
        """Start a consumer's process that begins after a while."""
        name, number = slot

        def run() -> None:
            self.system.clock.sleep(seconds)
            if name in self.wanted:
                self._consume(slot)

        process_name = f"{name}{self._at}{f'.{number}' if number else ''}"
        return self.system.scheduler.start(process_name, run)

    def _consume(self, slot: Slot) -> None:
        """Run a consumer's process until it is stopped, or has nothing to do."""
        name, number = slot
        system, topology = self.system, self.wanted[name]
        consumer = topology.consumer(name)
        store = system.store()
        folder = run_folder(topology)
        path, place = folder / f"{name}.{number}.handler", (folder, name)
        process = system.scheduler.current
        assert process is not None
        process.at_death.append(lambda _: system.ready.discard(place))
        process.at_death.append(lambda killed: system.blame(process) if killed else None)
        process.at_death.append(lambda killed: system.note_crash(process) if killed else None)
        with CrashGuard(path, now=system.clock.monotonic) as crash_guard:
            process.at_death.append(lambda killed: keep_content(path) if killed else None)
            system.guards[process] = consumer.queue.name, crash_guard
            runner = Runner(
                topology,
                consumer,
                self._handlers.routes(consumer.queue, name, store),
                limits=Limits(),
                metrics=Metrics.none(),
                crash_guard=crash_guard,
                store=store,
                on_ready=lambda: system.ready.add(place),
                is_assigned=self._assigned(name),
            )
            self._runners[slot] = runner
            system.scheduler.note(f"ends: {runner.run()}")


def keep_content(path: Path) -> None:
    """Replace a file by a copy, so that a process that has it open no longer changes it.

    A killed process of the simulation still runs its `finally` blocks. A real one does not.
    """
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    copy.replace(path)


@dataclass(frozen=True, slots=True)
class Followers:
    """What the supervisor does for an apply."""

    supervisor: Supervisor
    topology: Topology

    def pause(self, consumers: tuple[str, ...]) -> None:
        """Stop consumers whose queue is to be replaced."""
        raise NotImplementedError

    def change_topology(self) -> None:
        """Restart the consumers of the topology; consumers that it no longer has continue."""
        self.supervisor.want(self.topology)
        for name in self.topology.consumers:
            self.supervisor.stop(name)

    def finish(self) -> None:
        """End the consumers that the topology has no more."""
        wanted, kept = self.supervisor.wanted, self.topology.consumers
        self.supervisor.end(each for each in list(wanted) if each not in kept)


def reshard(supervisor: Supervisor, name: str, todo: list[Topology]) -> None:
    """Apply one topology after the other, each again until its queues are used.

    A patient apply is repeated until the old queues are deleted.
    """
    system = supervisor.system
    scheduler = system.scheduler
    while todo:
        system.clock.sleep(scheduler.random.choice((0.0, 0.2, 1.0, 5.0)))
        wanted, patient = todo[0], system.scenario.patient or len(todo) == 1
        try:
            plan = make_plan(wanted, None, predict=False)
            done = apply(
                wanted,
                plan,
                Followers(supervisor, wanted),
                wait=patient,
                report=scheduler.note,
                progress=lambda _: None,
            )
        except (Outage, UsageError) as error:
            scheduler.note(f"cannot apply: {error}")
            continue
        if done or not patient:
            scheduler.note(f"has applied {wanted.queues['shard'].shards} shards")
            del todo[0]
    system.done(name)
