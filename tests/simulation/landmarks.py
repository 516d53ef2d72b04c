"""Faults at moments that few seeds would interrupt by chance.

Most seeds with faults have them, at some of the landmarks that the seed can reach. Their random
numbers are a sequence of their own, so the other seeds do the same as without them.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from feedbus.broker_names import LOCK, WAITING
from feedbus.bus.shared_sender import SharedSender
from feedbus.dead_letters import letters
from feedbus.dead_letters.requeue import Requeue
from feedbus.dispatch.concurrent_calls import ConcurrentCalls
from feedbus.dispatch.failed_record_sender import FailedRecordSender
from feedbus.dispatch.single_calls import SingleCalls
from feedbus.generations import state_queues, switch
from feedbus.generations.probes import Probes
from feedbus.hosts.announcer import Announcer
from feedbus.runner import queue_reader, waiting_record_mover
from feedbus.runner.batch_mode import BatchMode
from feedbus.runner.mode import Mode
from feedbus.runner.old_queue_tracking import SwitchProgress
from feedbus.runner.waiting_queues import WaitingQueues
from feedbus.runner.waiting_record_mover import WaitingRecordMover
from feedbus.schedules.fired_moment import FiredMoment
from feedbus.schedules.scheduler import Scheduler
from feedbus.store.key_locks import KeyLocks
from feedbus.store.outbox_table import SqlOutbox
from feedbus.store.relay import Relay
from feedbus.transports.sqlite.declaring_channel import DeclaringChannel
from tests.simulation import channel, connection, network
from tests.simulation.consumers import Followers
from tests.simulation.replacing import replaced
from tests.simulation.scenario import MOST_CRASHES, Scenario
from tests.simulation.scheduler import SECONDS, Process
from tests.simulation.strikes import Strikes
from tests.simulation.system import System

SEED_SHARE = 0.8
LANDMARKS = (1, 4, 99, 99)  # how many of them a seed has at most
# A seed that can move waiting records often has only landmarks of such moves, and half of these
# seeds have few late confirms. Otherwise few records are moved while faults happen.
MOVES_SHARE = 0.4
MOVES_NETWORK = ((network, "PROMPT_ANSWERS", 0.98),)
# Shares of the network that are larger in some of the seeds with landmarks.
BAD_NETWORK: tuple[
    tuple[Any, str, float, float], ...
] = (  # module, name, share, in a share of them
    (channel, "CUT_SHARE", 0.4, 0.7),
    (channel, "SLOW_SHARE", 0.4, 0.15),
    (channel, "LATE_ACKNOWLEDGEMENTS", 0.7, 0.1),
    (connection, "LATE_DELIVERIES", 0.3, 0.2),
    (network, "LINGER_SHARE", 0.8, 0.1),
)
MOST = 24  # faults of a seed, besides the first one at each landmark: some are reached late
MOST_OF_ONE = 3  # faults at a landmark
MIN_OLD_RINGS = 2  # that can exist together, so that one of them can be deleted first
# Old queues are often emptied after the other faults have ended, which is after 100 s.
LAST_SECONDS = 150.0

Strike = Callable[[Strikes], object]
NetworkShare = tuple[Any, str, float]  # the module, the name, and the share


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
        found: called with the result, unless the strike comes before it; returns the same.
        within: returns the processes whose calls are struck; None for all of them.
        of_move: whether the call belongs to a move of waiting records.
        last: after how many of the strikes no more faults happen: later faults can repair what
            this one has left.

    """

    owner: Any
    name: str
    share: float
    strikes: tuple[Strike, ...]
    reached: Callable[[Scenario], bool] = lambda _: True
    before: bool = False
    when: Callable[..., bool] = lambda *_, **_options: True
    found: Callable[[Any], bool] = lambda _: True
    within: Callable[[System], set[Process | None]] | None = None
    of_move: bool = False
    last: float = 0.0


class Landmarks:
    """The landmarks of one seed, and the faults that happen there."""

    def __init__(self, system: System) -> None:
        """Let no fault happen yet."""
        self._system = system
        self._chosen = random.Random(f"landmarks of seed {system.scheduler.seed}")
        self._strikes = Strikes(system, self._chosen)
        exist = self._chosen.random() < SEED_SHARE and system.scenario.faults > 0
        self._left, self._last_moment = MOST, int(LAST_SECONDS * SECONDS)
        self._counts: Counter[Landmark] = Counter()
        reached = [each for each in ALL if each.reached(system.scenario)]
        most = min(self._chosen.choice(LANDMARKS), len(reached))
        bad = [each for each in BAD_NETWORK if self._chosen.random() < each[-1]]
        self.network_shares: Iterable[NetworkShare] = [each[:3] for each in bad]
        self.struck = self._chosen.sample(reached, most) if exist else []
        if self.struck and _moves_records(system.scenario) and not system.scenario.full:
            self._choose_moves([each for each in reached if each.of_move])

    def _choose_moves(self, reached: list[Landmark]) -> None:
        """Strike only at landmarks of moves, in a share of the seeds.

        Args:
            reached: the landmarks of moves that the scenario can reach.

        """
        chosen = random.Random(f"moves of seed {self._system.scheduler.seed}")
        if chosen.random() < MOVES_SHARE:
            self.network_shares = chosen.choice(((), MOVES_NETWORK))
            self.struck = chosen.sample(reached, chosen.randint(1, len(reached)))

    def replacement(self, landmark: Landmark) -> Any:
        """Return a function that calls the one of a landmark, and may strike."""
        original = landmark.owner.__dict__[landmark.name]

        def call(*arguments: Any, **options: Any) -> Any:
            can_be_struck = landmark.when(*arguments, **options) and (
                landmark.within is None or self._system.process() in landmark.within(self._system)
            )
            if can_be_struck and landmark.before and self._is_struck(landmark):
                self._strike(landmark)
            result = original(*arguments, **options)
            if (
                can_be_struck
                and not landmark.before
                and landmark.found(result)
                and self._is_struck(landmark)
            ):
                self._strike(landmark)
            return result

        return call

    def _is_struck(self, landmark: Landmark) -> bool:
        count = self._counts[landmark]
        if count == MOST_OF_ONE or self._system.scheduler.now > self._last_moment:
            return False
        if (count and not self._left) or self._chosen.random() >= landmark.share:
            return False
        self._left -= count > 0
        self._counts[landmark] += 1
        return True

    def _strike(self, landmark: Landmark) -> None:
        self._system.scheduler.note(f"LANDMARK {landmark.name}")
        self._chosen.choice(landmark.strikes)(self._strikes)
        if self._chosen.random() < landmark.last:
            self._system.scheduler.note("NO MORE FAULTS", by="-")
            self._system.network.faulty, self._last_moment = False, 0


def _has_decisions(_self: object, opened: Any, **_options: Any) -> bool:
    """Whether FailedRecordSender.send() has something to send."""
    return any(each.decisions for each in opened)


def _blocks_keys(_self: object, opened: Any, **_options: Any) -> bool:
    """Whether FailedRecordSender.send() has dead letters that block their keys."""
    return any(each.blocking_message for one in opened for each in one.decisions)


def _has_unfinished(self: Any, *_: Any, **_options: Any) -> bool:
    """Whether failed records of a message are sent, and not those of an earlier message."""
    finished = [each.delivery.tag for each in self._finished if each.decisions]
    unfinished = (each.decoded.delivery.tag for each in self._failed_deliveries._deliveries)
    return bool(finished) and min(unfinished, default=math.inf) < max(finished)


def _has_records_in_old_queues(self: Any, *_: Any) -> bool:
    """Whether records wait in a consumer that reads several queues."""
    return len(self) > 0 and len(self._waiting_queues) > 1


def _has_more_records(self: Any, decoded: Any, row: int, _error: object) -> bool:
    """Whether a record is not the last one of its message, and its group has earlier messages."""
    return len(self) > 0 and row + 1 < len(decoded.pack)


def _is_unavailable(self: Any, _rows: object) -> bool:
    """Whether a relay leaves new rows in the outbox, because its last attempt has failed."""
    unavailable: bool = self._is_unavailable
    return unavailable


def _is_in_use(self: KeyLocks) -> bool:
    """Whether threads hold locks of keys, or have registered rows."""
    return bool(self._keys_being_sent or self._registered_keys)


def _is_lock(_self: object, queue: str = "", *_: Any, **_options: Any) -> bool:
    """Whether a queue is the lock of the topology."""
    return queue.endswith(LOCK)


def _ends_queue(self: Any) -> bool:
    """Whether Probes.put_probe() is called for a queue that is to be deleted."""
    return not self._queue.endswith(WAITING)


def _changes(scenario: Scenario) -> bool:
    return len(scenario.shards) > 1


def _has_packs(scenario: Scenario) -> bool:
    return _changes(scenario) and scenario.pack > 0


def _moves_records(scenario: Scenario) -> bool:
    return _changes(scenario) and scenario.ordered


ALL = (
    Landmark(switch, "exit_after_step", 0.15, (Strikes.kill, Strikes.cut), _changes),
    Landmark(switch, "forget_drained", 0.3, (Strikes.kill_consumers,), _changes),
    Landmark(queue_reader, "delete_empty_queue", 0.3, (Strikes.kill,), _changes),
    Landmark(
        Probes,
        "put_probe",
        0.05,
        (Strikes.cut,),
        lambda scenario: _changes(scenario) or scenario.ordered,
        before=True,
    ),
    Landmark(
        waiting_record_mover,
        "publish_all",
        0.7,
        (
            *(Strikes.kill, Strikes.kill_for_long, Strikes.kill_for_long, Strikes.lose_power),
            Strikes.cut,
            *(Strikes.cut_acknowledging, Strikes.cut_acknowledging, Strikes.cut_acknowledging),
        ),
        _moves_records,
        of_move=True,
    ),
    Landmark(
        switch,
        "_disconnect",
        0.8,
        (Strikes.await_slow_sender,),
        _has_packs,
        before=True,
    ),
    Landmark(
        SqlOutbox,
        "_put",
        0.1,
        (Strikes.lose_answer,),
        lambda scenario: scenario.stored,
    ),
    Landmark(
        FiredMoment,
        "write",
        0.2,
        (Strikes.kill, Strikes.cut, Strikes.cut_sending),
        lambda scenario: scenario.schedulers > 0,
        before=True,
    ),
    Landmark(
        state_queues,
        "_delete_replaced",
        0.2,
        (Strikes.kill, Strikes.cut),
        _changes,
        before=True,
    ),
    Landmark(
        Requeue,
        "send",
        0.5,
        (Strikes.kill, Strikes.cut, Strikes.cut_sending),
        lambda scenario: scenario.block_on_dead,
        before=True,
    ),
    Landmark(
        BatchMode,
        "_handle_in_pause",
        0.3,
        (Strikes.lose_service, Strikes.cut, Strikes.cut_sending, Strikes.cut_sending),
        lambda scenario: scenario.kind == "stream" and scenario.ordered,
        before=True,
    ),
    Landmark(
        FailedRecordSender,
        "send",
        0.2,
        (Strikes.cut_sending, Strikes.cut_after),
        before=True,
        when=_has_decisions,
    ),
    Landmark(
        FailedRecordSender,
        "send",
        0.7,
        (Strikes.cut_sending,),
        lambda scenario: scenario.kind == "stream" and scenario.ordered,
        before=True,
        when=_has_decisions,
        within=lambda system: system.pausing,
        last=0.5,
    ),
    Landmark(
        FailedRecordSender,
        "send",
        0.8,
        (
            *(Strikes.send_slowly_and_die, Strikes.send_slowly_and_die),
            *(Strikes.send_slowly, Strikes.cut_sending),
        ),
        lambda scenario: scenario.block_on_dead,
        before=True,
        when=_blocks_keys,
    ),
    Landmark(
        ConcurrentCalls,
        "send_failed",
        0.9,
        (Strikes.kill, Strikes.cut),
        lambda scenario: scenario.concurrency > 1 and scenario.ordered,
        when=_has_unfinished,
    ),
    Landmark(Mode, "_hold", 0.7, (Strikes.kill_soon,), before=True),
    Landmark(
        Mode,
        "_call_handler",
        0.1,
        (Strikes.lose_service,),
        lambda scenario: scenario.delivery_limit < MOST_CRASHES,
        before=True,
    ),
    Landmark(Probes, "put_probe", 0.1, (Strikes.cut, Strikes.kill), _changes),
    # A reader has received the fence of an old queue, or a probe from it.
    Landmark(
        Probes,
        "put_probe",
        0.4,
        (Strikes.cut, Strikes.kill),
        _changes,
        before=True,
        when=_ends_queue,
    ),
    Landmark(
        letters,
        "release",
        0.3,
        (Strikes.kill, Strikes.cut, Strikes.stand_still),
        lambda scenario: scenario.block_on_dead and scenario.dropping,
    ),
    Landmark(
        WaitingQueues,
        "renew",
        0.1,
        (Strikes.cancel,),
        lambda scenario: _changes(scenario) and scenario.delivery_limit >= MOST_CRASHES,
        when=_has_records_in_old_queues,
    ),
    # A consumer has just subscribed to a waiting queue, and to no other queue.
    Landmark(
        WaitingQueues,
        "open",
        0.2,
        (Strikes.hand_over,),
        lambda scenario: (
            scenario.ordered
            and (scenario.processes > 1 or scenario.hosts > 1)
            and scenario.delivery_limit >= MOST_CRASHES
        ),
        found=bool,
    ),
    Landmark(
        Probes,
        "put_probe",
        0.07,
        (Strikes.lose_leaders,),
        lambda scenario: scenario.ordered,
        before=True,
    ),
    Landmark(
        Scheduler,
        "_fire",
        0.2,
        (Strikes.cut_sending,),
        lambda scenario: scenario.schedulers > 1,
        before=True,
    ),
    # A switch stands still between two changes of bindings.
    *(
        Landmark(DeclaringChannel, name, 0.3, (Strikes.stand_still,), _has_packs)
        for name in ("queue_unbind", "exchange_unbind", "exchange_bind")
    ),
    Landmark(
        DeclaringChannel,
        "queue_unbind",
        0.4,
        (Strikes.await_slow_sender,),
        _has_packs,
        before=True,
    ),
    Landmark(
        DeclaringChannel,
        "queue_declare",
        0.1,
        (Strikes.lose_lock,),
        lambda scenario: scenario.schedulers > 1 or _changes(scenario),
        when=_is_lock,
    ),
    # Deliveries of some queues are late while a ring changes.
    Landmark(switch, "exit_after_step", 0.2, (Strikes.slow_queues,), _changes),
    Landmark(
        switch,
        "exit_after_step",
        0.15,
        (Strikes.slow_oldest_queues,),
        lambda scenario: len(scenario.shards) > MIN_OLD_RINGS,
    ),
    Landmark(switch, "append_held", 0.5, (Strikes.slow_held_queues,), _changes, before=True),
    Landmark(
        waiting_record_mover,
        "publish_all",
        0.6,
        (
            Strikes.slow_waiting_queues,
            *(Strikes.slow_new_waiting_queues, Strikes.slow_new_waiting_queues),
        ),
        _moves_records,
        before=True,
        of_move=True,
    ),
    # A consumer stands still while others change the ring and its queues.
    Landmark(
        WaitingRecordMover,
        "move",
        0.4,
        (Strikes.await_switch,),
        _moves_records,
        found=bool,
        of_move=True,
    ),
    # The ring changes again when records have been moved.
    Landmark(
        Followers,
        "change_topology",
        0.7,
        (Strikes.await_move,),
        lambda scenario: len(scenario.shards) > MIN_OLD_RINGS and scenario.ordered,
        of_move=True,
    ),
    Landmark(
        SwitchProgress,
        "_find_deleted",
        0.04,
        (Strikes.await_deletion,),
        _moves_records,
        before=True,
        of_move=True,
    ),
    Landmark(
        WaitingQueues,
        "put_probes",
        0.05,
        (Strikes.await_deletion,),
        _moves_records,
        of_move=True,
    ),
    # After an outage, a thread with rows of the outbox stands still, and then the relay's thread
    # between two pages.
    Landmark(
        Relay,
        "_publish_locked",
        0.8,
        (Strikes.stand_still_for_long,),
        lambda scenario: scenario.relayed,
        before=True,
        when=_is_unavailable,
    ),
    Landmark(
        KeyLocks,
        "in_use",
        0.5,
        (Strikes.stand_still_for_long,),
        lambda scenario: scenario.relayed,
        found=bool,
    ),
    # A thread stands still before it publishes its rows, until they are old. The relay stands still
    # before it reads which keys the thread uses, until they are published.
    Landmark(
        Relay,
        "_publish",
        0.1,
        (Strikes.stand_still_for_long,),
        lambda scenario: scenario.relayed,
        before=True,
    ),
    Landmark(
        KeyLocks,
        "in_use",
        0.7,
        (Strikes.await_publishing,),
        lambda scenario: scenario.relayed,
        before=True,
        when=_is_in_use,
        within=lambda system: system.choosing,
    ),
    # Full queues have refused messages, and get room before the next ones are sent.
    Landmark(
        SharedSender,
        "_send_with_retries",
        0.5,
        (Strikes.stand_still,),
        lambda scenario: scenario.full and scenario.kind == "outbox",
        found=lambda refusals: isinstance(refusals, list) and len(refusals) > 0,
    ),
    # A record has failed in a message that is not the first of its group, and the next record of
    # the message meets an outage.
    Landmark(
        SingleCalls,
        "_error_after_earlier",
        0.7,
        (Strikes.lose_service_once,),
        lambda scenario: scenario.ordered,
        when=_has_more_records,
        last=0.5,
    ),
    Landmark(Announcer, "_write", 0.1, (Strikes.lose_broker,), lambda scenario: scenario.hosts > 1),
)


@contextmanager
def struck_landmarks(system: System) -> Iterator[None]:
    """Let faults happen at landmarks within the block."""
    marks = Landmarks(system)
    if not marks.struck:
        yield
        return
    with ExitStack() as stack:
        for module, name, share in marks.network_shares:
            stack.enter_context(replaced(module, name, share))
        for landmark in marks.struck:
            replacement = marks.replacement(landmark)
            stack.enter_context(replaced(landmark.owner, landmark.name, replacement))
        yield
