"""Faults at moments that few seeds would interrupt by chance.

Half of the seeds with faults have them, at some of the landmarks. Their random numbers are a
sequence of their own, so the other seeds do the same as without them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from feedbus.dispatch.failed_record_sender import FailedRecordSender
from feedbus.generations import switch
from feedbus.generations.probes import Probes
from feedbus.runner import queue_reader, waiting_record_mover
from feedbus.runner.batch_mode import BatchMode
from feedbus.store.tables import SqlOutbox
from tests.simulation import channel
from tests.simulation.replacing import replaced
from tests.simulation.scheduler import SECONDS, Process
from tests.simulation.system import System

SEED_SHARE = 0.5
LANDMARKS = (1, 2, 9)  # how many of them a seed has at most
ACKNOWLEDGEMENT_CUT_SHARE = 0.4  # of acknowledgements that are sent together
MOST = 5  # faults of a seed
SHORT_SECONDS = (0.01, 0.3, 2.0)  # of an outage

Strike = Callable[["Landmarks"], object]


@dataclass(frozen=True, slots=True)
class Landmark:
    """A call at which faults happen.

    Attributes:
        owner: of the function.
        name: of the function.
        share: how many of the calls are struck.
        strikes: what happens; one of these.
        before: whether it happens before the call.
        when: called with the arguments; returns whether the call can be struck.

    """

    owner: Any
    name: str
    share: float
    strikes: tuple[Strike, ...]
    before: bool = False
    when: Callable[..., bool] = lambda *_, **_options: True


class Landmarks:
    """The landmarks of one seed, and the faults that happen there."""

    def __init__(self, system: System) -> None:
        """Let no fault happen yet."""
        self._system = system
        self._chosen = random.Random(f"landmarks of seed {system.scheduler.seed}")
        self._left = MOST if system.scenario.faults else 0
        if self._chosen.random() >= SEED_SHARE:
            self._left = 0
        most = min(self._chosen.choice(LANDMARKS), len(ALL))
        self.cuts_acknowledgements = self._chosen.random() < SEED_SHARE
        self.struck = self._chosen.sample(ALL, most) if self._left else []

    def replacement(self, landmark: Landmark) -> Any:
        """Return a function that calls the one of a landmark, and may strike."""
        original = landmark.owner.__dict__[landmark.name]

        def call(*arguments: Any, **options: Any) -> Any:
            struck = landmark.when(*arguments, **options) and self._strikes(landmark)
            if struck and landmark.before:
                self._strike(landmark)
            found = original(*arguments, **options)
            if struck and not landmark.before:
                self._strike(landmark)
            return found

        return call

    def _strikes(self, landmark: Landmark) -> bool:
        if not (self._left and self._system.network.faulty):
            return False
        if self._chosen.random() >= landmark.share:
            return False
        self._left -= 1
        return True

    def _strike(self, landmark: Landmark) -> None:
        self._system.scheduler.note(f"LANDMARK {landmark.name}")
        self._chosen.choice(landmark.strikes)(self)

    def kill_consumers(self) -> None:
        """Kill the processes of all consumers."""
        self._kill([process for process in self._system.guards if not process.dead])

    def kill(self) -> None:
        """Kill the process whose turn it is."""
        process = self._system.process()
        self._kill([process] if process is not None else [])

    def _kill(self, processes: list[Process]) -> None:
        scheduler = self._system.scheduler
        for process in processes:
            scheduler.at(scheduler.now, lambda one=process: scheduler.kill(one))  # type: ignore[misc]
        scheduler.step("is to be killed")

    def cut(self) -> None:
        """Cut the connections of the process whose turn it is."""
        for link in self._links():
            link.cut("at a landmark")

    def cut_sending(self) -> None:
        """Cut the connections of this process when it publishes the next message."""
        for link in self._links():
            link.cut_sending = True

    def cut_after(self) -> None:
        """Cut the connections of this process when the broker has done the next request."""
        for link in self._links():
            link.cut_after_next = True

    def _links(self) -> list[Any]:
        process = self._system.process()
        return [each for each in self._system.network.open_links() if each.process is process]

    def lose_service(self) -> None:
        """Let the service of the handlers be unavailable for a short time."""
        scheduler = self._system.scheduler
        seconds = self._chosen.choice(SHORT_SECONDS)
        self._system.service_away_until = scheduler.now + int(seconds * SECONDS)

    def lose_answer(self) -> None:
        """Lose the answer to the commit of the current transaction."""
        self._system.database.lose_answer = True


ALL = (
    Landmark(switch, "forget_drained", 0.3, (Landmarks.kill_consumers,)),
    Landmark(queue_reader, "delete_empty_queue", 0.3, (Landmarks.kill,)),
    Landmark(Probes, "put_probe", 0.05, (Landmarks.cut,), before=True),
    Landmark(waiting_record_mover, "publish_all", 0.5, (Landmarks.kill, Landmarks.cut)),
    Landmark(SqlOutbox, "_put", 0.1, (Landmarks.lose_answer,)),
    Landmark(
        BatchMode,
        "_handle_in_pause",
        0.3,
        (Landmarks.lose_service, Landmarks.cut, Landmarks.cut_sending, Landmarks.cut_sending),
        before=True,
    ),
    Landmark(
        FailedRecordSender,
        "send",
        0.2,
        (Landmarks.cut_sending, Landmarks.cut_after),
        before=True,
        when=lambda _self, opened, **_options: any(each.decisions for each in opened),
    ),
)


@contextmanager
def struck_landmarks(system: System) -> Iterator[None]:
    """Let faults happen at landmarks within the block."""
    marks = Landmarks(system)
    if not marks.struck:
        yield
        return
    with ExitStack() as stack:
        if marks.cuts_acknowledgements:
            stack.enter_context(replaced(channel, "CUT_SHARE", ACKNOWLEDGEMENT_CUT_SHARE))
        for landmark in marks.struck:
            replacement = marks.replacement(landmark)
            stack.enter_context(replaced(landmark.owner, landmark.name, replacement))
        yield
