"""Which rare paths of the code a seed reaches, and the sizes that let small seeds reach them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from typing import Any

from feedbus.broker import publisher
from feedbus.broker.in_memory import InMemoryBroker
from feedbus.bus import LiveBus, sender
from feedbus.dispatch import handler_calls, publications, single_calls
from feedbus.dispatch.concurrent_records import RecordCall
from feedbus.dispatch.running_calls import RunningCalls
from feedbus.dispatch.waiting_record import WaitingRecord
from feedbus.dispatch.waiting_records import WaitingRecords
from feedbus.generations import held_messages, queue_emptying, switch
from feedbus.generations.queue_emptying import QueueEmptier
from feedbus.runner import CrashGuard, small_deliveries, waiting_record_mover
from feedbus.runner.batch_mode import BatchMode
from feedbus.runner.run_state import Run
from feedbus.runner.small_deliveries import SmallDeliveries
from feedbus.runner.waiting_limit import SwitchLimit
from feedbus.schedules.fired_moment import FiredMoment, write_moment
from feedbus.store import leftover_rows, outbox_publishing, relay, tables
from feedbus.store.protocol import OutboxRow
from feedbus.store.relay import Relay
from tests.simulation.history import Record
from tests.simulation.replacing import replaced
from tests.simulation.scenario import TICK, Scenario
from tests.simulation.scheduler import Scheduler
from tests.simulation.system import System

SLICE_RECORDS = 3
# Methods whose results are not empty when the path is taken.
PATHS = (
    ("overtook", SmallDeliveries, "take_first"),
    ("paused", SmallDeliveries, "take_independent"),
    ("limited", SwitchLimit, "check"),
    ("held", QueueEmptier, "_drain"),
)
# Limits that a small seed would not reach: the module, the name, and a value that it reaches.
LIMITS: tuple[tuple[Any, str, Any], ...] = (
    (publisher, "WINDOW", 2),
    (sender, "WINDOW", 3),
    (single_calls, "WINDOW", 2),
    (tables, "ROWS_AT_ONCE", 2),
    (leftover_rows, "PAGE_ROWS", 2),
    (leftover_rows, "MAX_ROWS", 4),
    (relay, "publish_pending", partial(outbox_publishing.publish_pending, limit=2)),
    (held_messages, "MAX_AT_ONCE", 2),
    (queue_emptying, "MAX_AT_ONCE", 2),
    (waiting_record_mover, "MAX_MOVED", 4),
    (small_deliveries, "MAX_SCANNED", 4),
)
LIMITED_SHARE = 0.5  # of the seeds, and of the limits of such a seed
STEP_SECONDS = (0.0, 0.0, 0.5, 2.0)  # after a step of a switch


@contextmanager
def small(seed: int, scenario: Scenario) -> Iterator[None]:
    """Send the messages of a stream in slices of a few records, and let seeds reach limits.

    With `block_on_dead`, waiting records are moved without a limit. Otherwise many of them could
    wait in an old queue for a dead letter that was requeued to the new ring.
    """
    chosen = random.Random(f"limits of seed {seed}")
    with ExitStack() as stack:
        for module in (publications, handler_calls):
            stack.enter_context(replaced(module, "STREAM_RECORDS", SLICE_RECORDS))
        if chosen.random() < LIMITED_SHARE:
            for owner, name, value in LIMITS:
                limited = chosen.random() < LIMITED_SHARE or (owner is relay and scenario.relayed)
                if limited and not (name == "MAX_MOVED" and scenario.block_on_dead):
                    stack.enter_context(replaced(owner, name, value))
        yield


@contextmanager
def slow_switches(system: System) -> Iterator[None]:
    """Let a switch wait after each of its steps, so that messages are held, and others come."""

    def step(name: str) -> None:
        if name == "completed":
            system.network.changes["ring switched"] += 1
            system.network.changes["records moved"] = 0
        system.clock.sleep(system.scheduler.random.choice(STEP_SECONDS))

    with replaced(switch, "exit_after_step", step):
        yield


@contextmanager
def noted_moves(system: System) -> Iterator[None]:
    """Count how often waiting records are moved, before their consumer acknowledges them."""
    publish_all = waiting_record_mover.publish_all

    def noted_publish_all(*arguments: Any, **options: Any) -> Any:
        refusals = publish_all(*arguments, **options)
        system.network.changes["records moved"] += 1
        return refusals

    with replaced(waiting_record_mover, "publish_all", noted_publish_all):
        yield


@contextmanager
def noted_holds(system: System) -> Iterator[None]:
    """Note while a consumer waits for the end of an outage, and none of its handlers runs.

    With `concurrency`, other handlers of the consumer can still run then. When they have ended, the
    consumer learns of it at its next update.
    """
    hold, start, report = Run.hold, RunningCalls.start, RunningCalls._report

    def noted_hold(self: Run, error: Any, update: Callable[[], None] = lambda: None) -> None:
        process = system.process()

        def noted_update() -> None:
            update()
            if not system.calls[process]:
                system.holding.add(process)

        try:
            hold(self, error, noted_update)
        finally:
            system.holding.discard(process)

    def noted_start(self: RunningCalls, calls: Sequence[RecordCall]) -> None:
        system.calls[system.process()] += len(calls)
        start(self, calls)

    def noted_report(self: RunningCalls, call: RecordCall) -> None:
        system.calls[system.process()] -= 1
        report(self, call)

    with (
        replaced(Run, "hold", noted_hold),
        replaced(RunningCalls, "start", noted_start),
        replaced(RunningCalls, "_report", noted_report),
    ):
        yield


@contextmanager
def noted_settlements(system: System) -> Iterator[None]:
    """Forget the crashes of messages that are settled, as the crash guard does."""
    release = CrashGuard.release

    def noted_release(self: CrashGuard, *, settled: bool = False) -> None:
        process = system.process()
        if settled and process is not None:
            for each in self._in_handler:
                system.history.crashes.pop((process.name, each), None)
        release(self, settled=settled)

    with replaced(CrashGuard, "release", noted_release):
        yield


@contextmanager
def noted_waiting_records(system: System) -> Iterator[None]:
    """Note the largest number of waiting records of a consumer, without those for old queues."""
    add = WaitingRecords.add

    def noted_add(self: WaitingRecords, record: WaitingRecord) -> None:
        add(self, record)
        count = self.count - self.awaited_queues.record_count
        system.history.most_waiting = max(count, system.history.most_waiting)

    with replaced(WaitingRecords, "add", noted_add):
        yield


@contextmanager
def noted_pauses(system: System) -> Iterator[None]:
    """Note which processes handle records in a pause of a handler."""
    handle = BatchMode._handle_in_pause

    def noted_handle(self: BatchMode, *arguments: Any) -> None:
        process = system.process()
        nested = process in system.pausing
        system.pausing.add(process)
        try:
            handle(self, *arguments)
        finally:
            if not nested:
                system.pausing.discard(process)

    with replaced(BatchMode, "_handle_in_pause", noted_handle):
        yield


@contextmanager
def noted_firings(system: System) -> Iterator[None]:
    """Collect the moments that hosts store as fired; the first one is the start of the schedule."""
    take, write = FiredMoment.take, FiredMoment.write
    new: set[FiredMoment] = set()

    def noted_take(self: FiredMoment) -> datetime | None:
        moment = take(self)
        if moment is None:
            new.add(self)
            if system.history.fired:
                system.history.forgotten.append("ticks: the last fired moment is lost")
        return moment

    def noted_write(self: FiredMoment, moment: datetime) -> None:
        if self in new:
            new.remove(self)
            if system.history.began_after is None:
                system.history.began_after = round(moment.timestamp())
        else:
            system.scheduler.note(f"records the moment {write_moment(moment)}")
            system.history.fired.append(Record(TICK.name, round(moment.timestamp())))
        write(self, moment)

    with (
        replaced(FiredMoment, "take", noted_take),
        replaced(FiredMoment, "write", noted_write),
    ):
        yield


@contextmanager
def noted_rows(system: System) -> Iterator[None]:
    """Note the rows of the outbox that relays publish for the threads of their programs.

    The relay of a program removes these rows later. Until then, it leaves them out. A killed
    program does not know them any more. Rows whose program stands still are published by the relay
    of another process, and by the program afterwards.
    """
    publish, leave_out = Relay._publish, Relay._leave_out_published
    publish_rows = LiveBus.publish_rows

    def noted_publish(self: Relay, rows: Sequence[OutboxRow]) -> Iterator[int]:
        for row in publish(self, rows):
            system.history.confirmed_rows.add((system.process(), row))
            system.network.changes["rows published"] += 1
            yield row

    def noted_publish_rows(self: LiveBus, rows: Sequence[OutboxRow]) -> Sequence[Exception | None]:
        for row in rows:
            system.history.note_published_row(system.process(), row.id)
        return publish_rows(self, rows)

    def noted_leave_out(self: Relay) -> Callable[[Sequence[OutboxRow]], Sequence[OutboxRow]]:
        choose = leave_out(self)

        def noted_choose(rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
            process = system.process()
            if rows:
                system.choosing.add(process)
            try:
                return choose(rows)
            finally:
                system.choosing.discard(process)

        return noted_choose

    with (
        replaced(Relay, "_publish", noted_publish),
        replaced(Relay, "_leave_out_published", noted_leave_out),
        replaced(LiveBus, "publish_rows", noted_publish_rows),
    ):
        yield


@contextmanager
def noted_locks(system: System) -> Iterator[None]:
    """Note how long each process holds the lock of the topology, which the schedulers need."""
    locked = InMemoryBroker.locked

    @contextmanager
    def noted_locked(self: InMemoryBroker, *arguments: Any) -> Iterator[None]:
        with locked(self, *arguments):
            process, begun = system.process(), system.scheduler.now
            try:
                yield
            finally:
                if process is None or not process.name.startswith("scheduler"):
                    system.history.note_lock(begun, system.scheduler.now)

    with replaced(InMemoryBroker, "locked", noted_locked):
        yield


@contextmanager
def counted(scheduler: Scheduler) -> Iterator[Counter[str]]:
    """Count how often each path is taken within the block."""
    reached: Counter[str] = Counter()

    def counting(path: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any) -> Any:
            found = original(*arguments)
            if found:
                reached[path] += 1
                scheduler.note(path if found is True else f"{path}: {len(found)}")
            return found

        return count

    with ExitStack() as stack:
        for path, owner, method in PATHS:
            original = getattr(owner, method)
            stack.enter_context(replaced(owner, method, counting(path, original)))
        yield reached
