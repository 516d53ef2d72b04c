"""Run one consumer until a signal or a limit ends it: collect a batch, dispatch it, settle it."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from amqp.exceptions import NotFound

from feedbus import broker
from feedbus.bus.sender import Sender
from feedbus.dead_letters.pruning import Pruning
from feedbus.dispatch import Dispatch
from feedbus.errors import BrokerOutage, Outage, UsageError
from feedbus.generations import establishment
from feedbus.generations.drain import Drain, Source, standing
from feedbus.handling.resources import Resources
from feedbus.handling.routes import HandlerRoutes
from feedbus.logs import EventLog
from feedbus.metrics import Metrics
from feedbus.runner.buffer import Buffer
from feedbus.runner.concurrent import Concurrent
from feedbus.runner.consumer_timeout import ConsumerTimeout
from feedbus.runner.group import Group
from feedbus.runner.heartbeats import Heartbeats
from feedbus.runner.holding import Holding
from feedbus.runner.limits import Allowance, Limits
from feedbus.runner.placement import Placement
from feedbus.runner.reading import Reading
from feedbus.runner.strain import Strain
from feedbus.runner.suspects import Suspects
from feedbus.runner.waiting_queues import WaitingQueues
from feedbus.store import Store
from feedbus.topology import Consumer, Topology
from feedbus.wire import Delivery
from feedbus.wire.amqp import Connection, RawConnection
from feedbus.wire.constants import LEAST_TIMEOUT_SECONDS

events = EventLog(__name__)

POLL_SECONDS = 0.5
FIRST_LOOK_SECONDS = 0.05
LONG_POLL_SECONDS = 5.0
BARRIER_POLL_SECONDS = 0.1
SWITCHING_POLL_SECONDS = 0.5
NOT_FOUND = 404
HERE_SECONDS = 0.0001  # for what has arrived already
CANCEL_SECONDS = 5.0  # for an async handler to end once it is cancelled at its timeout


class Runner:
    """One consumer in the foreground."""

    def __init__(  # noqa: PLR0913 -- a run's parts, each given by name
        self,
        topology: Topology,
        consumer: Consumer,
        handlers: HandlerRoutes,
        *,
        limits: Limits,
        metrics: Metrics,
        suspects: Suspects,
        store: Store,
        on_ready: Callable[[], None] = lambda: None,
        on_hold: Callable[[str], None] = lambda _: None,
        on_waiting: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Take all that a run needs.

        Args:
            topology: of the system.
            consumer: whose queue is read.
            handlers: what handles its messages.
            limits: when the run ends by itself.
            metrics: where it counts.
            suspects: what earlier runs left.
            store: in whose transactions messages are handled.
            on_ready: called once the consumer has subscribed.
            on_hold: called with why it holds, and with "" when it goes on.
            on_waiting: called with how many records wait so that their keys stay in order.

        """
        self._topology = topology
        self._consumer = consumer
        self._store = store
        self._left = Allowance(limits)
        self._suspects = suspects
        self._on_ready: Callable[[], None] | None = on_ready
        self._metrics = metrics.consumer(consumer.name)
        self._sender = Sender(topology, metrics)
        self._resources = Resources(topology, on_blocked=self._metrics.loop_blocked)
        self._dispatch = Dispatch(
            topology,
            consumer,
            handlers,
            self._sender,
            metrics=self._metrics,
            store=store,
            resources=self._resources,
        )
        self._placement = Placement(topology)
        self._pruning = Pruning(topology, consumer, self._metrics)
        self._heartbeats = Heartbeats()
        self._holding = Holding(consumer.name, self._metrics, on_hold)
        self._buffer = Buffer()
        cancels = any(each.is_async for each in handlers.handlers)
        self._seconds = consumer.queue.handler_timeout_seconds + CANCEL_SECONDS * cancels
        self._concurrent = self._concurrently() if consumer.queue.concurrency > 1 else None
        self._group = self._grouped() if self._may_group(handlers) else None
        self._waiting = (
            WaitingQueues(
                topology, consumer, self._dispatch.retries, report=on_hold, count=on_waiting
            )
            if self._dispatch.retries is not None
            else None
        )
        self._last_batch = -math.inf
        self._stop_requested = threading.Event()
        self._timeout = ConsumerTimeout(topology.consumer_timeout_seconds)
        self._passed: str | None = None
        self._standby_seconds = math.inf
        self._reading: dict[str, Reading] = {}
        self._cancelled: list[str] = []

    def _concurrently(self) -> Concurrent:
        from feedbus.dispatch.concurrent import ConcurrentCalls  # asyncio takes long to import

        calls = ConcurrentCalls(self._dispatch, self._consumer, self._sender, self._resources)
        return Concurrent(calls, self._suspects, self._seconds)

    def _may_group(self, handlers: HandlerRoutes) -> bool:
        """Whether messages are settled in groups: no transaction ends with each of them."""
        queue = self._consumer.queue
        return (
            queue.concurrency == 1
            and not queue.stream
            and not self._dispatch.has_store
            and not any(each.batch for each in handlers.handlers)
        )

    def _grouped(self) -> Group:
        return Group(
            self._dispatch,
            self._sender,
            buffer=self._buffer,
            suspects=self._suspects,
            heartbeats=self._heartbeats,
            prefetch=self._consumer.queue.prefetch,
            seconds=self._seconds,
        )

    def stop(self) -> None:
        """Ask for a clean end: what is in the handler is settled, the rest goes back."""
        self._stop_requested.set()

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Stop cleanly on SIGTERM and SIGINT."""
        home = os.getpid()

        def on_signal(number: int, _frame: FrameType | None) -> None:
            if os.getpid() == home:
                self.stop()
            else:  # a process that a handler forked ends as any other
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)

        earlier = {
            number: signal.signal(number, on_signal)
            for number in (signal.SIGTERM, signal.SIGINT)
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, action in earlier.items():
                signal.signal(number, action)

    def run(self) -> str:
        """Consume until a limit or a signal ends it; return which, in words."""
        with self._heartbeats:
            try:
                while (reason := self._ended()) is None:
                    try:
                        self._consume()
                    except (Outage, UsageError) as error:
                        self._hold(error)
            finally:
                if self._concurrent is not None:
                    self._concurrent.close()
                self._resources.close()
                self._sender.close()
                self._left.close()
        return reason

    def _consume(self) -> None:
        """Subscribe on a connection of its own and handle what comes, until it ends or breaks."""
        self._buffer.clear()
        self._resources.open()
        if self._consumer.queue.once:
            self._store.set_up()
        states = establishment.known(self._topology)
        for state in states.values():
            self._sender.encoder.lead(state.current)
        self._placement.follow(states.values())
        connection = broker.connect(self._topology, beating=True)
        # Kombu opens a lost connection again whenever it is asked for it: this one, or none.
        raw: RawConnection = connection.connection

        def pause() -> bool:
            self._report_ready()  # it is here, though others have to end before it begins
            self._heartbeats.beat()
            return not self._stop_requested.wait(BARRIER_POLL_SECONDS) and self._ended() is None

        try:
            with (
                broker.outage(connection, self._topology.broker_url),
                self._heartbeats.of(raw),
            ):
                drain = Drain(self._topology, self._consumer, states, pause)
                if self._concurrent is not None:
                    raw.wake_on(self._concurrent.fileno())
                self._passed = drain.over(raw)
                if self._passed is not None:
                    return
                for queues in drain.queues(raw):
                    self._consume_from(raw, queues)
                    if self._ended() is not None:
                        return
        except connection.channel_errors as error:
            self._learn_timeout(error)
            declare = (
                "; `feedbus apply` declares it" if getattr(error, "code", 0) == NOT_FOUND else ""
            )
            msg = f"broker: {getattr(error, 'reply_text', '') or error}{declare}"
            raise BrokerOutage(msg) from error
        finally:
            self._forget()
            broker.close(connection)

    def _learn_timeout(self, error: BaseException) -> None:
        """Blame what has cost the channel, where the broker has closed it for its timeout."""
        if self._timeout.learn(error) and self._concurrent is not None:
            self._concurrent.blame_slow(self._timeout)

    def _forget(self) -> None:
        """Forget what is not settled, and what waits: the broker delivers it again."""
        if self._concurrent is not None:
            worked = bool(self._concurrent)
            self._concurrent.abandon()
            if worked:  # what ran until now comes again: that is no idle time
                self._left.idle_from(time.monotonic())
        if self._group is not None:
            self._group.forget()
        self._buffer.clear()
        if self._waiting is not None:
            self._waiting.forget()

    def _consume_from(self, raw: RawConnection, queues: Sequence[Source]) -> None:
        """Consume until a limit, or until each of the queues is at its fence or gone."""
        cancelled = self._cancelled = []
        self._reading = {}
        left = list(queues)
        # Who has not begun to read is not idle, however long it took to connect.
        subscribed_at = time.monotonic()
        self._left.idle_from(subscribed_at)
        while (left or self._reading) and self._ended() is None:
            left = [source for source in left if not self._subscribe(raw, source, cancelled)]
            self._stand_by(bool(left))
            self._report_ready()
            arrived = self._arrive(raw)
            if not self._handle_due(raw):
                left = self._give_back(queues, left)
            elif not arrived:
                if not left and time.monotonic() - subscribed_at > self._holding.latest_seconds:
                    self._holding.over()  # subscribed, and quiet for longer than it had to wait
            elif not self._handle_next(raw):
                left = self._give_back(queues, left)
            for reading in [each for each in self._reading.values() if each.fenced]:
                self._end(reading)
            self._pruning.look(raw)
            if cancelled:
                left = self._drop_cancelled(queues, left, cancelled)
        self._let_finish()
        for reading in self._reading.values():
            reading.close()
        if self._waiting is not None:
            self._waiting.close()
        # What is left here went back with its channel.
        self._buffer.clear()

    def _stand_by(self, stands_by: bool) -> None:  # noqa: FBT001 -- what it is
        """Look again soon where another consumer has a queue: it may just have been killed."""
        if not stands_by:
            self._standby_seconds = math.inf
        elif self._standby_seconds == math.inf:
            self._standby_seconds = FIRST_LOOK_SECONDS
        else:
            self._standby_seconds = min(2 * self._standby_seconds, POLL_SECONDS)

    def _arrive(self, raw: RawConnection) -> bool:
        """Wait for deliveries, or for what runs; whether there is anything to do."""
        if self._concurrent is not None:
            return self._receive(raw, self._concurrent)
        return self._collect(raw)

    def _handle_next(self, raw: RawConnection) -> bool:
        """Handle what has arrived, or a fence; False to give back what is not settled."""
        if self._concurrent is not None:
            return self._turn(raw, self._concurrent)
        if self._timeout.too_close(self._buffer.oldest_at):
            return False
        if self._full() or self._left.messages <= 0:
            return True
        if self._buffer.at_fence and self._pass_fence(raw):
            return True
        if self._group is None or self._suspects.suspected(self._buffer.first.message_id):
            return self._handle(raw)
        return self._handle_group(raw, self._group)

    def _drop_cancelled(
        self, queues: Sequence[Source], left: list[Source], cancelled: list[str]
    ) -> list[Source]:
        """Drop queues that another consumer has deleted, or the broker moved, to look anew."""
        begun = bool(self._concurrent)
        if self._concurrent is not None:
            self._concurrent.blame_slowest(self._timeout)
        tags = [*cancelled]
        cancelled.clear()
        for tag in tags:
            self._drop_reading(tag)
        if begun:
            self._let_finish()  # while it is known which records have waited
        for tag in tags:
            self._drop_waiting(tag)
        return self._give_back(queues, left) if begun else left

    def _report_ready(self) -> None:
        if self._on_ready is not None:
            self._on_ready()
            self._on_ready = None

    def _subscribe(self, connection: Connection, source: Source, cancelled: list[str]) -> bool:
        """Begin to read a queue; False while it has to be had alone and somebody has it."""
        queue = self._consumer.queue
        tag = f"{self._consumer.name}.{source.queue}"
        if self._waiting is not None and not self._waiting.open(
            connection, source.queue, tag, cancelled.append
        ):
            return False
        try:
            reading = Reading.begin(
                connection,
                source.queue,
                tag=tag,
                prefetch=max(queue.prefetch, min(queue.batch.size, 1000)),
                exclusive=source.exclusive,
                pause_seconds=broker.in_flight_seconds(self._topology),
                on_message=self._on_message,
                on_cancel=cancelled.append,
            )
        except NotFound:
            if self._waiting is not None:
                self._waiting.delete(tag)
            raise
        if reading is not None:
            self._reading[tag] = reading
        elif queue.external_name:
            msg = (
                f"broker: another program consumes the external queue '{source.queue}' exclusively;"
                " end it, or let it share the queue"
            )
            raise BrokerOutage(msg)
        self._left.idle_from(time.monotonic())
        return reading is not None

    def _drop(self, tag: str) -> None:
        """Stop reading a queue; its unsettled messages are back in it, or were deleted with it."""
        self._drop_reading(tag)
        self._drop_waiting(tag)

    def _drop_reading(self, tag: str) -> None:
        reading = self._reading.pop(tag, None)
        if reading is not None:
            reading.close()
        self._buffer.drop(tag)

    def _drop_waiting(self, tag: str) -> None:
        if self._waiting is not None:
            self._waiting.close(tag)

    def _pass_fence(self, raw: RawConnection) -> bool:
        """Take the fence that is next; False where its queue does not end, so it is none."""
        fence = self._buffer.first
        reading = self._reading[fence.consumer_tag]
        if not reading.probes.awaited:
            found = standing(raw, self._topology, self._consumer, reading.queue)
            if found == "in use":
                return False
            readers = reading.readers()
            if readers > 1:  # who have deliveries of it: the last of us ends it
                self._drop(reading.tag)
                return True
            if found == "switching" or not readers:
                self._take_in(raw, min(SWITCHING_POLL_SECONDS, self._until_due()))
                return True
        if not self._waits_on(raw, reading):
            # It may be on its way here: it has to be received, however much has arrived before.
            self._take_in(raw, min(SWITCHING_POLL_SECONDS, self._until_due()))
            return True
        self._buffer.pop()
        reading.pass_fence(fence.tag, fence.message_id)
        return True

    def _waits_on(self, raw: RawConnection, reading: Reading) -> bool:
        """Whether a queue that ends has nothing that waits, or its waiting records have moved."""
        if self._waiting is None or not self._topology.on_ring(self._consumer.queue):
            return True  # what came before a replaced queue waits together with what comes after
        return self._waiting.move_on(raw, reading.queue, reading.tag)

    def _end(self, reading: Reading) -> None:
        """Delete a queue that is proved to be empty, unless more has come meanwhile."""
        if reading.end(lambda: self._buffer.holds(reading.tag) or bool(self._concurrent)):
            del self._reading[reading.tag]
            if self._waiting is not None:
                self._waiting.close(reading.tag)

    def _give_back(self, queues: Sequence[Source], left: Sequence[Source]) -> list[Source]:
        """Return everything that is not settled to the broker; return what to subscribe to anew."""
        events.info(
            "prefetched_returned",
            f"{self._consumer.name} returns the messages that wait for their handler to the broker,"
            " because the broker's consumer_timeout"
            f" ({self._timeout.seconds:g} s) would expire; they are delivered again",
            consumer=self._consumer.name,
        )
        self._let_finish()
        read = {reading.queue for reading in self._reading.values()}
        for tag, reading in list(self._reading.items()):
            reading.channel.basic_cancel(tag)  # else the broker may find it still subscribed
            self._drop(tag)
        return [source for source in queues if source.queue in read or source in left]

    def _on_message(self, message: Any) -> None:
        now = time.monotonic()
        self._buffer.add(Delivery.of(message), now)
        self._left.idle_from(now)

    def _collect(self, raw: RawConnection) -> bool:
        """Wait for a batch: full, or the last one began long enough ago and no more came.

        So a record that comes alone is handled at once, and those that come fast gather while the
        batch before them is handled. What waits here is handled only while its channel is open:
        else it comes again.
        """
        batch, waited = self._consumer.queue.batch, bool(self._buffer)
        if self._waiting:
            self._take_in(raw, 0.0)  # also what waits, however much else has arrived
        else:
            raw.take_arrived()
        if self._full():
            self._take_in(raw, self._patience(raw))
            self._heartbeats.beat()
            return bool(self._buffer)
        if waited:
            deadline = time.monotonic()
        elif self._buffer:
            deadline = self._last_batch + batch.wait_seconds
        else:
            deadline = time.monotonic() + self._patience(raw)
        while self._buffer.records < batch.size and not self._stop_requested.is_set():
            had = bool(self._buffer)
            try:
                raw.drain_events(timeout=max(deadline - time.monotonic(), HERE_SECONDS))
            except TimeoutError:
                break
            if self._buffer and not had:
                deadline = self._last_batch + batch.wait_seconds
            if self._waiting:
                deadline = min(deadline, time.monotonic() + self._until_due())
        self._heartbeats.beat()
        return bool(self._buffer)

    def _take_in(self, raw: RawConnection, timeout: float) -> None:
        """Wait for something to arrive, and take all that has; prefetch bounds it.

        take_arrived() does not suffice here: on the embedded broker it fetches nothing new.
        """
        while not self._stop_requested.is_set():
            try:
                raw.drain_events(timeout=max(timeout, HERE_SECONDS))
            except TimeoutError:
                break
            timeout = 0.0

    def _patience(self, raw: RawConnection) -> float:
        """Return how long to wait for a delivery: until a limit, or until a signal may be seen."""
        wakes = getattr(raw, "wakes_on_signals", False)
        longest = LONG_POLL_SECONDS if wakes else POLL_SECONDS
        longest = min(longest, self._until_due(), self._standby_seconds)
        return max(min(longest, self._left.idle_seconds, self._left.run_seconds), 0.001)

    def _until_due(self) -> float:
        """Return how long it takes until a waiting record may run; infinity without any."""
        return self._waiting.seconds_until_due() if self._waiting is not None else math.inf

    def _handle_due(self, raw: RawConnection) -> bool:
        """Handle records that have waited and are due; False when all have to be given back."""
        if self._waiting is None or not self._waiting or self._concurrent is not None:
            return True
        most = int(min(self._consumer.queue.batch.size, self._left.messages))
        deliveries = self._waiting.take(most, self._suspects.suspected)
        if deliveries and not self._work(raw, deliveries, time.monotonic()):
            return False
        self._waiting.renew(self._timeout.seconds)
        return True

    def _full(self) -> bool:
        """Whether so many records wait for others of their keys that no more may come."""
        return self._waiting is not None and self._waiting.full()

    def _turn(self, raw: RawConnection, concurrent: Concurrent) -> bool:
        """Settle what has ended, and begin what may; False to give all back."""
        taken_for_message = False
        if not concurrent and self._buffer.at_fence:
            taken_for_message = not self._pass_fence(raw)
        oldest_at = min(concurrent.oldest_at, self._buffer.oldest_at if self._buffer else math.inf)
        if oldest_at < math.inf and self._timeout.too_close(oldest_at):
            return False
        try:
            with self._heartbeats.going_on():
                self._settle_ended(concurrent)
                if not concurrent.running:
                    self._resources.open()  # one may have ended by itself
            if not self._admit(raw, concurrent, at_fence=taken_for_message):
                return False
            concurrent.start()
        except Outage as error:
            if self._waiting is not None and self._waiting.unsettled:
                raise  # what waits by now is read anew
            self._hold(error)
            raw.take_arrived()  # what was lost meanwhile comes again: not to be handled here
        return True

    def _receive(self, raw: RawConnection, concurrent: Concurrent) -> bool:
        """Wait until something arrives or ends, and take all; whether there is anything to do."""
        raw.take_arrived()
        may_take = self._buffer and concurrent.hungry and not self._full()
        busy = concurrent.unfinished or (may_take and not concurrent)
        timeout = 0.0 if busy else self._patience(raw)
        if concurrent:
            timeout = min(timeout, POLL_SECONDS)
        self._take_in(raw, timeout)
        concurrent.look()
        self._heartbeats.beat()
        return bool(self._buffer or concurrent or self._until_due() <= 0)

    def _admit(self, raw: RawConnection, concurrent: Concurrent, *, at_fence: bool) -> bool:
        """Open what has arrived, while more could be handled at once; False to give all back.

        Args:
            raw: the connection.
            concurrent: takes the deliveries.
            at_fence: whether the first one is a message, though it says that it is a fence.

        """
        buffer = self._buffer
        if not self._admit_due(raw, concurrent):
            return False
        if self._full():
            return True
        while buffer and (at_fence or not buffer.at_fence) and not self._stop_requested.is_set():
            if self._suspects.suspected(buffer.first.message_id):
                if concurrent:
                    break  # it is handled alone, once the others are settled
                if not self._handle(raw):
                    return False
            elif concurrent.hungry and len(concurrent) < self._left.messages:
                arrived_at = buffer.oldest_at
                concurrent.open(buffer.pop(), arrived_at)
            else:
                break
            at_fence = False
        return True

    def _admit_due(self, raw: RawConnection, concurrent: Concurrent) -> bool:
        """Open waiting records that are due; False to give all back."""
        waiting = self._waiting
        if waiting is None or not waiting:
            return True
        while concurrent.hungry and len(concurrent) < self._left.messages:
            deliveries = waiting.take(1, self._suspects.suspected)
            if not deliveries:
                break
            if not self._suspects.suspected(deliveries[0].message_id):
                concurrent.open(deliveries[0], time.monotonic())
            elif concurrent:
                waiting.put_back(deliveries)  # it is handled alone, once the others are settled
                break
            elif not self._work(raw, deliveries, time.monotonic()):
                return False
        waiting.renew(self._timeout.seconds)
        return True

    def _settle_ended(self, concurrent: Concurrent) -> None:
        """Finish what has ended, and acknowledge the deliveries that are done."""
        settled = concurrent.finish()
        if settled:
            concurrent.settle(self._reading)
            if self._waiting is not None:
                self._waiting.settle(settled)
            self._sample(settled[0])
            self._left.idle_from(time.monotonic())
            self._left.handled(len(settled))
        outage = concurrent.take_outage()
        if outage is not None:
            raise outage
        if settled:
            self._holding.over()

    def _let_finish(self) -> None:
        """Let what has begun finish, and settle it; the rest is for the broker to deliver again."""
        concurrent = self._concurrent
        if concurrent is None:
            return
        while concurrent.running:
            concurrent.wait(POLL_SECONDS)
            self._heartbeats.beat()
            try:
                with self._heartbeats.going_on():
                    self._settle_ended(concurrent)
            except Outage as error:
                if concurrent.unfinished:  # what finishing needs is away
                    events.warning(
                        "unsettled_at_end",
                        f"{self._consumer.name} ends during an outage; the broker will deliver its"
                        " unacknowledged messages again",
                        consumer=self._consumer.name,
                        error=error,
                    )
                    break
        concurrent.abandon()

    def _handle(self, raw: RawConnection) -> bool:
        """Handle a batch and settle it; False when it has to be given back to the broker."""
        arrived_at, size = self._buffer.oldest_at, self._consumer.queue.batch.size
        deliveries = self._buffer.take(size, self._left.messages, self._suspects.suspected)
        return self._work(raw, deliveries, arrived_at)

    def _work(self, raw: RawConnection, deliveries: Sequence[Delivery], arrived_at: float) -> bool:
        """Handle deliveries and settle them; False when all have to be given back."""
        ids = [delivery.message_id for delivery in deliveries]
        self._last_batch = time.monotonic()
        while True:
            started = time.monotonic()
            try:
                self._dispatch_noted(deliveries, ids)
                break
            except Outage as error:
                self._suspects.release()  # whoever is killed while it holds dies of no message
                if self._waiting is not None and self._waiting.unsettled:
                    raise  # what waits by now is read anew
                self._hold(error)
                if self._ended() is not None:
                    return True
                raw.take_arrived()  # what was lost meanwhile comes again: not to be handled here
                if self._timeout.too_close(arrived_at):
                    return False
        took = time.monotonic() - started
        self._handled(raw, deliveries, took, Strain(took, self._heartbeats.missed_seconds, ids))
        return True

    def _handle_group(self, raw: RawConnection, group: Group) -> bool:
        """Handle a group of single records; False when it has to be given back to the broker."""
        arrived_at = self._buffer.oldest_at
        while (error := self._finish_group(raw, group)) is not None:
            self._suspects.release()
            if self._waiting is not None and self._waiting.unsettled:
                raise error  # what waits by now is read anew
            self._hold(error)
            if self._ended() is not None:
                return True
            raw.take_arrived()  # what was lost meanwhile comes again: not to be handled here
            if self._timeout.too_close(arrived_at):
                group.forget()
                return False
        return True

    def _finish_group(self, raw: RawConnection, group: Group) -> Outage | None:
        """Handle a group and settle it; return the outage that was met."""
        started = time.monotonic()
        outage = None
        if not group:  # else only finishing it has met an outage
            if not self._resources.ready:  # one has ended by itself
                with self._heartbeats.going_on():
                    self._resources.open()
            outage = group.handle(
                raw.take_arrived,
                lambda: self._stop_requested.is_set() or bool(self._cancelled),
                self._left.messages,
            )
        try:
            deliveries = group.finish()
        except Outage as error:
            return error
        if deliveries:
            self._handled(raw, deliveries, time.monotonic() - started, group.strain)
        return outage

    def _handled(
        self, raw: RawConnection, deliveries: Sequence[Delivery], seconds: float, strain: Strain
    ) -> None:
        """Settle what has been handled in so many seconds, and count it."""
        self._timeout.note(seconds)
        self._left.idle_from(time.monotonic())
        self._settle(raw, deliveries, strain)
        self._sample(deliveries[0])
        self._holding.over()
        self._left.handled(len(deliveries))

    def _dispatch_noted(self, deliveries: Sequence[Delivery], ids: Sequence[str]) -> None:
        """Give a batch to the handler while it is noted what is there."""
        with self._heartbeats.going_on():
            self._resources.open()  # one may have ended by itself
            self._suspects.take(ids, self._seconds)
            limit = self._consumer.queue.delivery_limit
            reason = self._suspects.given_up(ids[0], limit)
            if reason:
                events.error(
                    "message_given_up",
                    f"{self._consumer.name} puts message {ids[0]} into the dead letters: {reason}",
                    consumer=self._consumer.name,
                    message_id=ids[0],
                )
                # Lost so often again: it is the dead handler that costs the consumer now.
                quietly = bool(self._suspects.given_up(ids[0], 2 * limit))
                self._dispatch.give_up(deliveries[0], reason, quietly=quietly)
            else:
                self._dispatch.handle(deliveries)

    def _settle(self, raw: RawConnection, deliveries: Sequence[Delivery], strain: Strain) -> None:
        """Acknowledge a batch; if publishing failed, the broker still owns the deliveries.

        Where the handler may have cost the channel, the broker is asked whether it has it still,
        and the loss is counted against what was in the handler.
        """
        latest = {delivery.consumer_tag: delivery.tag for delivery in deliveries}
        slow = strain.seconds >= LEAST_TIMEOUT_SECONDS
        try:
            for consumer_tag, tag in latest.items():
                if consumer_tag in self._reading:
                    self._reading[consumer_tag].settle(tag)
            if self._waiting is not None:
                self._waiting.settle(deliveries)
            if slow or strain.cause(self._timeout):
                raw.take_arrived()
                raw.channel().close()  # an answer behind the acknowledgement
        except Exception as error:
            self._timeout.learn(error)
            cause = strain.cause(self._timeout)
            if cause:
                first = strain.message_ids[0]
                events.warning(
                    "channel_lost",
                    f"the broker closed the channel of {self._consumer.name} while it handled"
                    f" message {first}: {cause}; the message is delivered again",
                    consumer=self._consumer.name,
                    message_id=first,
                )
                self._suspects.blame(strain.message_ids, cause)
            self._suspects.release()
            raise
        cancelled = slow and not latest.keys().isdisjoint(self._cancelled)
        if cancelled:
            self._suspects.blame(strain.message_ids, self._timeout.cancelled(strain.seconds))
        self._suspects.release(settled=not cancelled)

    def _sample(self, delivery: Delivery) -> None:
        """Look whether a batch's first record came to the shard that owns it."""
        reading = self._reading.get(delivery.consumer_tag)
        if reading is not None and self._placement.misplaced(reading.queue, delivery):
            self._metrics.misplaced()

    def _hold(self, error: Outage | UsageError) -> None:
        """Wait before the next attempt, longer each time, until a limit or a signal at most."""

        def wait(seconds: float) -> None:
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0 and not self._stop_requested.is_set():
                self._heartbeats.wait(self._stop_requested, min(left, POLL_SECONDS))
                if self._concurrent:
                    self._concurrent.look()
                    self._concurrent.note()

        self._holding.hold(error, wait, self._left.run_seconds)

    def _ended(self) -> str | None:
        """Return why the run is over, None while it is not."""
        if self._stop_requested.is_set():
            return "stopped by a signal"
        return self._passed or self._left.used_up(waiting=bool(self._buffer or self._concurrent))
