"""The landmarks: calls of feedbus at which faults happen, and what happens there."""

from __future__ import annotations

import math
from collections.abc import Callable
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
from feedbus.runner.base_mode import Mode
from feedbus.runner.batch_mode import BatchMode
from feedbus.runner.old_queue_tracking import SwitchProgress
from feedbus.runner.waiting_queues import WaitingQueues
from feedbus.runner.waiting_record_mover import WaitingRecordMover
from feedbus.schedules.fired_moment import FiredMoment
from feedbus.schedules.scheduler import Scheduler
from feedbus.store.key_locks import KeyLocks
from feedbus.store.outbox_table import SqlOutbox
from feedbus.store.relay import Relay
from feedbus.transports.sqlite.declaring_channel import DeclaringChannel
from tests.simulation.consumers import Followers
from tests.simulation.scenario import MOST_CRASHES, Scenario
from tests.simulation.scheduler import Process
from tests.simulation.strikes import Strikes
from tests.simulation.system import System

MIN_OLD_RINGS = 2  # that can exist together, so that one of them can be deleted first

Strike = Callable[[Strikes], object]


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


def _leaving(system: System) -> set[Process | None]:
    """Return the processes of the consumers that the last topology has no more."""
    kept = system.topologies[-1].consumers
    return {each for each in system.guards if each.name.partition(".")[0] not in kept}


def _changes(scenario: Scenario) -> bool:
    return len(scenario.shards) > 1


def _has_packs(scenario: Scenario) -> bool:
    return _changes(scenario) and scenario.pack > 0


def moves_records(scenario: Scenario) -> bool:
    """Whether waiting records can be moved to other shards."""
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
        moves_records,
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
        moves_records,
        before=True,
        of_move=True,
    ),
    # A consumer stands still while others change the ring and its queues.
    Landmark(
        WaitingRecordMover,
        "move",
        0.4,
        (Strikes.await_switch,),
        moves_records,
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
        moves_records,
        before=True,
        of_move=True,
    ),
    Landmark(
        WaitingQueues,
        "put_probes",
        0.05,
        (Strikes.await_deletion,),
        moves_records,
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

# A separate sequence of random numbers determines which of these landmarks a seed has. So another
# landmark changes only the seeds that have it.
ADDED = (
    # Several messages are held, and their old queues are full.
    Landmark(
        switch,
        "_connect",
        0.7,
        (Strikes.await_held,),
        lambda scenario: _changes(scenario) and scenario.full,
        before=True,
    ),
    # A process whose consumer ends with the switch has received the fence of an old queue, or a
    # probe from it. Then the connection is cut, and another process of the consumer, which has not
    # read the new state of the ring, reads the queue.
    Landmark(
        Probes,
        "put_probe",
        0.7,
        (Strikes.cut,),
        lambda scenario: scenario.processes > 1 and scenario.shards[-1] < max(scenario.shards),
        before=True,
        when=_ends_queue,
        within=_leaving,
        last=0.7,
    ),
)
