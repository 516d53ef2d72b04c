"""Faults at moments that few seeds would interrupt by chance.

Half of the seeds with faults have them. Their random numbers are a sequence of their own, so the
other seeds do the same as without them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from feedbus.generations import switch
from feedbus.generations.probes import Probes
from feedbus.runner import queue_reader
from tests.simulation import channel
from tests.simulation.replacing import replaced
from tests.simulation.scheduler import Process
from tests.simulation.system import System

SEED_SHARE = 0.5
STRUCK_SHARE = 0.3  # of the ends of old queues and rings
PROBE_SHARE = 0.05  # of the probes, which are many
ACKNOWLEDGEMENT_CUT_SHARE = 0.4  # of acknowledgements that are sent together
MOST = 5  # faults of a seed


class Landmarks:
    """The moments of one seed, and the faults that happen there."""

    def __init__(self, system: System) -> None:
        """Let no fault happen yet."""
        self._system = system
        self._chosen = random.Random(f"landmarks of seed {system.scheduler.seed}")
        self._left = MOST if system.scenario.faults else 0
        if self._chosen.random() >= SEED_SHARE:
            self._left = 0

    @property
    def active(self) -> bool:
        """Whether faults can happen."""
        return self._left > 0

    def _strikes(self, share: float) -> bool:
        if not (self._left and self._system.network.faulty) or self._chosen.random() >= share:
            return False
        self._left -= 1
        return True

    def after(self, original: Callable[..., Any], killed: Callable[[], list[Process]]) -> Any:
        """Return a function that calls the original one, and then may kill processes."""

        def call(*arguments: Any) -> Any:
            found = original(*arguments)
            if self._strikes(STRUCK_SHARE):
                scheduler = self._system.scheduler
                for process in killed():
                    scheduler.at(scheduler.now, lambda one=process: scheduler.kill(one))
                scheduler.step(f"has done {original.__name__}")
            return found

        return call

    def before_put(self, original: Callable[..., Any]) -> Any:
        """Return a method that puts a probe, and before it may cut the connections."""

        def put(probes: Probes) -> None:
            if self._strikes(PROBE_SHARE):
                process = self._system.process()
                for link in list(self._system.network.open_links()):
                    if link.process is process:
                        link.cut("before a probe is put")
            original(probes)

        return put

    def consumers(self) -> list[Process]:
        """Return the processes of all consumers."""
        return [process for process in self._system.guards if not process.dead]

    def current(self) -> list[Process]:
        """Return the process whose turn it is."""
        process = self._system.process()
        return [process] if process is not None else []


@contextmanager
def struck_landmarks(system: System) -> Iterator[None]:
    """Let faults happen at landmarks within the block."""
    marks = Landmarks(system)
    if not marks.active:
        yield
        return
    forget, delete = switch.forget_drained, queue_reader.delete_proved
    with (
        replaced(switch, "forget_drained", marks.after(forget, marks.consumers)),
        replaced(queue_reader, "delete_proved", marks.after(delete, marks.current)),
        replaced(Probes, "put", marks.before_put(Probes.put)),
        replaced(channel, "CUT_SHARE", ACKNOWLEDGEMENT_CUT_SHARE),
    ):
        yield
