"""Faults at moments that few seeds would interrupt by chance.

Most seeds with faults have them, at some of the landmarks that the seed can reach. Their random
numbers are a sequence of their own, so the other seeds do the same as without them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from feedbus.dead_letters.requeue import Requeue
from feedbus.dispatch.failed_record_sender import FailedRecordSender
from feedbus.generations import ring_state, switch
from feedbus.generations.probes import Probes
from feedbus.runner import queue_reader, waiting_record_mover
from feedbus.runner.batch_mode import BatchMode
from feedbus.schedules.fired_moment import FiredMoment
from feedbus.store.tables import SqlOutbox
from tests.simulation import channel
from tests.simulation.replacing import replaced
from tests.simulation.scenario import Scenario
from tests.simulation.scheduler import SECONDS, Process
from tests.simulation.system import System

SEED_SHARE = 0.7
LANDMARKS = (1, 2, 9)  # how many of them a seed has at most
ACKNOWLEDGEMENT_CUT_SHARE = 0.4  # of acknowledgements that are sent together
MOST = 5  # faults of a seed
SLOW_SENDER_SECONDS = 10.0  # the longest wait for one
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
        reached: returns whether a scenario can reach the call.
        before: whether it happens before the call.
        when: called with the arguments; returns whether the call can be struck.
        in_pauses: whether only calls in the pauses of a handler are struck.

    """

    owner: Any
    name: str
    share: float
    strikes: tuple[Strike, ...]
    reached: Callable[[Scenario], bool] = lambda _: True
    before: bool = False
    when: Callable[..., bool] = lambda *_, **_options: True
    in_pauses: bool = False


class Landmarks:
    """The landmarks of one seed, and the faults that happen there."""

    def __init__(self, system: System) -> None:
        """Let no fault happen yet."""
        self._system = system
        self._chosen = random.Random(f"landmarks of seed {system.scheduler.seed}")
        self._left = MOST if system.scenario.faults else 0
        if self._chosen.random() >= SEED_SHARE:
            self._left = 0
        reached = [each for each in ALL if each.reached(system.scenario)]
        most = min(self._chosen.choice(LANDMARKS), len(reached))
        self.cuts_acknowledgements = self._chosen.random() < SEED_SHARE
        self.struck = self._chosen.sample(reached, most) if self._left else []

    def replacement(self, landmark: Landmark) -> Any:
        """Return a function that calls the one of a landmark, and may strike."""
        original = landmark.owner.__dict__[landmark.name]

        def call(*arguments: Any, **options: Any) -> Any:
            struck = (
                landmark.when(*arguments, **options)
                and (not landmark.in_pauses or self._system.process() in self._system.pausing)
                and self._strikes(landmark)
            )
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

    def kill_for_long(self) -> None:
        """Kill the process whose turn it is; a consumer starts again later than usual."""
        process = self._system.process()
        if process is not None:
            self._system.late_starts.add(process.name)
        self.kill()

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

    def cut_acknowledging(self) -> None:
        """Cut the connections of this process between its next acknowledgements."""
        for link in self._links():
            link.cut_acknowledging = True

    def await_slow_sender(self) -> None:
        """Wait until another process has sent only a part of its messages."""
        system = self._system
        system.scheduler.wait(
            "waits for a slow sender",
            until=system.scheduler.now + int(SLOW_SENDER_SECONDS * SECONDS),
            ready=lambda: system.network.slow_senders > 0,
        )

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


def _has_decisions(_self: object, opened: Any, **_options: Any) -> bool:
    """Whether FailedRecordSender.send() has something to send."""
    return any(each.decisions for each in opened)


def _changes(scenario: Scenario) -> bool:
    return len(scenario.shards) > 1


ALL = (
    Landmark(switch, "exit_after_step", 0.15, (Landmarks.kill, Landmarks.cut), _changes),
    Landmark(switch, "forget_drained", 0.3, (Landmarks.kill_consumers,), _changes),
    Landmark(queue_reader, "delete_empty_queue", 0.3, (Landmarks.kill,), _changes),
    Landmark(
        Probes,
        "put_probe",
        0.05,
        (Landmarks.cut,),
        lambda scenario: _changes(scenario) or scenario.ordered,
        before=True,
    ),
    Landmark(
        waiting_record_mover,
        "publish_all",
        0.5,
        (
            *(Landmarks.kill, Landmarks.kill_for_long, Landmarks.cut),
            *(Landmarks.cut_acknowledging, Landmarks.cut_acknowledging),
        ),
        lambda scenario: _changes(scenario) and scenario.ordered,
    ),
    Landmark(
        switch,
        "_disconnect",
        0.5,
        (Landmarks.await_slow_sender,),
        lambda scenario: _changes(scenario) and scenario.pack > 0,
        before=True,
    ),
    Landmark(
        SqlOutbox,
        "_put",
        0.1,
        (Landmarks.lose_answer,),
        lambda scenario: scenario.stored,
    ),
    Landmark(
        FiredMoment,
        "write",
        0.2,
        (Landmarks.kill, Landmarks.cut, Landmarks.cut_sending),
        lambda scenario: scenario.schedulers > 0,
        before=True,
    ),
    Landmark(
        ring_state,
        "_delete_replaced",
        0.2,
        (Landmarks.kill, Landmarks.cut),
        _changes,
        before=True,
    ),
    Landmark(
        Requeue,
        "send",
        0.5,
        (Landmarks.kill, Landmarks.cut, Landmarks.cut_sending),
        lambda scenario: scenario.block_on_dead,
        before=True,
    ),
    Landmark(
        BatchMode,
        "_handle_in_pause",
        0.3,
        (Landmarks.lose_service, Landmarks.cut, Landmarks.cut_sending, Landmarks.cut_sending),
        lambda scenario: scenario.kind == "stream" and scenario.ordered,
        before=True,
    ),
    Landmark(
        FailedRecordSender,
        "send",
        0.2,
        (Landmarks.cut_sending, Landmarks.cut_after),
        before=True,
        when=_has_decisions,
    ),
    Landmark(
        FailedRecordSender,
        "send",
        0.7,
        (Landmarks.cut_sending,),
        lambda scenario: scenario.kind == "stream" and scenario.ordered,
        before=True,
        when=_has_decisions,
        in_pauses=True,
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
