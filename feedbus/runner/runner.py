"""Run one consumer until a signal or a limit ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from feedbus import broker
from feedbus.bus.sender import Sender
from feedbus.dead_letters.pruning import Pruning
from feedbus.dispatch import Dispatch
from feedbus.errors import BrokerOutage, Outage, UsageError
from feedbus.generations import topology_setup
from feedbus.generations.drain import Drain, Source
from feedbus.handling.resources import Resources
from feedbus.handling.routes import HandlerRoutes
from feedbus.logs import EventLog
from feedbus.metrics import Metrics
from feedbus.runner.amqp_heartbeats import Heartbeats
from feedbus.runner.batch_mode import BatchMode
from feedbus.runner.consumer_timeout import ConsumerTimeout
from feedbus.runner.crash_guard import CrashGuard
from feedbus.runner.group_mode import GroupMode
from feedbus.runner.limits import Allowance, Limits
from feedbus.runner.outage_pause import OutagePause
from feedbus.runner.placement_check import Placement
from feedbus.runner.run_state import Run
from feedbus.runner.subscriptions import Subscriptions
from feedbus.runner.waiting_queues import WaitingQueues
from feedbus.store import Store
from feedbus.topology import Consumer, Topology
from feedbus.wire.amqp_protocols import RawConnection

events = EventLog(__name__)

BARRIER_POLL_SECONDS = 0.1
NOT_FOUND = 404
CANCEL_SECONDS = 5.0  # how long an async handler may take to end after it was cancelled


class Runner:
    """Runs one consumer in the foreground."""

    def __init__(  # noqa: PLR0913 -- a run's parts, each given by name
        self,
        topology: Topology,
        consumer: Consumer,
        handlers: HandlerRoutes,
        *,
        limits: Limits,
        metrics: Metrics,
        crash_guard: CrashGuard,
        store: Store,
        on_ready: Callable[[], None] = lambda: None,
        on_hold: Callable[[str], None] = lambda _: None,
        on_waiting: Callable[[int], None] = lambda _: None,
        assigned: Callable[[], bool] = lambda: True,
    ) -> None:
        """Create the parts of a run.

        Args:
            topology: the topology of the system.
            consumer: the consumer of the queue.
            handlers: the handlers of the queue's messages.
            limits: the limits that end the run.
            metrics: the metrics of the process.
            crash_guard: the crash guard, which has the record of earlier runs.
            store: the store in whose transactions messages are handled.
            on_ready: called once the consumer has subscribed.
            on_hold: called with the reason when the consumer holds, and with "" when it continues.
            on_waiting: called with the number of records that wait so that their keys stay in
                order.
            assigned: returns whether the queue is assigned to this host; called between batches.

        """
        self._topology = topology
        clock = broker.clock(topology)
        self._consumer = consumer
        self._store = store
        self._on_ready: Callable[[], None] | None = on_ready
        counted = metrics.consumer(consumer.name)
        self._sender = Sender(topology, metrics, waiting=crash_guard.paused)
        self._resources = Resources(topology, on_blocked=counted.loop_blocked)
        self._heartbeats = Heartbeats(clock)
        dispatch = Dispatch(
            topology,
            consumer,
            handlers,
            self._sender,
            metrics=counted,
            store=store,
            resources=self._resources,
        )
        cancels = any(each.is_async for each in handlers.handlers)
        self._run = Run(
            topology=topology,
            consumer=consumer,
            dispatch=dispatch,
            resources=self._resources,
            crash_guard=crash_guard,
            heartbeats=self._heartbeats,
            holding=OutagePause(consumer.name, counted, on_hold, clock),
            timeout=ConsumerTimeout(topology.consumer_timeout_seconds, clock),
            left=Allowance(limits, clock),
            waiting=WaitingQueues(
                topology, consumer, dispatch.retries, report=on_hold, count=on_waiting
            )
            if dispatch.retries is not None
            else None,
            handler_seconds=consumer.queue.handler_timeout_seconds + CANCEL_SECONDS * cancels,
            clock=clock,
            assigned=assigned,
        )
        self._placement = Placement(topology)
        self._pruning = Pruning(topology, consumer, counted)
        self._subscriptions = Subscriptions(self._run, self._placement, counted)
        self._mode = self._mode_for(handlers)

    def _mode_for(self, handlers: HandlerRoutes) -> BatchMode:
        """Return the mode in which the queue's records are handled."""
        run, queue = self._run, self._consumer.queue
        if queue.concurrency > 1:
            # These modules import asyncio, which takes long.
            from feedbus.dispatch.concurrent_calls import ConcurrentCalls
            from feedbus.runner.concurrent_deliveries import ConcurrentDeliveries
            from feedbus.runner.concurrent_mode import ConcurrentMode

            calls = ConcurrentCalls(run.dispatch, self._consumer, self._sender, self._resources)
            concurrent = ConcurrentDeliveries(
                calls, run.crash_guard, run.handler_seconds, run.clock
            )
            return ConcurrentMode(run, self._subscriptions, concurrent)
        # Groups are possible only if messages have no transaction each.
        batched = queue.stream or any(each.batch for each in handlers.handlers)
        if batched or run.dispatch.has_store:
            return BatchMode(run, self._subscriptions)
        return GroupMode(run, self._subscriptions, self._sender)

    def stop(self) -> None:
        """Request a clean end: messages in the handler are settled, the others are returned."""
        self._run.stop_requested.set()

    def run(self) -> str:
        """Consume until a limit or a signal ends the run; return a text with the reason."""
        with self._heartbeats:
            try:
                while (reason := self._ended()) is None:
                    if not self._run.assigned():
                        self._report_ready()
                        self._run.await_assignment()
                        continue
                    try:
                        self._consume()
                    except (Outage, UsageError) as error:
                        self._run.hold(error, self._mode.look)
            finally:
                self._mode.close()
                self._resources.close()
                self._sender.close()
                self._run.left.close()
        return reason

    def _ended(self) -> str | None:
        """Return why the run is over, or None if it is not."""
        return self._run.ended(working=self._mode.working)

    def _goes_on(self) -> bool:
        """Whether this process should continue to read its queue."""
        return self._run.goes_on(working=self._mode.working)

    def _consume(self) -> None:
        """Subscribe on a new connection and handle deliveries, until the end or an outage."""
        self._run.buffer.clear()
        self._resources.open()
        if self._consumer.queue.once:
            self._store.set_up()
        states = topology_setup.set_up_if_missing(self._topology)
        for state in states.values():
            self._sender.encoder.lead(state.current)
        self._placement.follow(states.values())
        connection = broker.connect(self._topology, beating=True)
        # Kombu's `connection` opens a lost connection again. Here only this connection may be used.
        raw: RawConnection = connection.connection

        def pause() -> bool:
            self._report_ready()  # this process is ready, although it waits for other consumers
            self._heartbeats.beat()
            stopped = self._run.clock.wait(self._run.stop_requested, BARRIER_POLL_SECONDS)
            return not stopped and self._goes_on()

        try:
            with (
                broker.outage(connection, self._topology.broker_url),
                self._heartbeats.of(raw),
            ):
                drain = Drain(self._topology, self._consumer, states, pause)
                wakes = self._mode.fileno()
                if wakes is not None:
                    raw.wake_on(wakes)
                self._run.removed = drain.over(raw)
                if self._run.removed is not None:
                    return
                for queues in drain.queues(raw):
                    self._consume_from(raw, queues)
                    if not self._goes_on():
                        return
        except connection.channel_errors as error:
            self._mode.channel_closed(error)
            declare = (
                "; `feedbus apply` declares it" if getattr(error, "code", 0) == NOT_FOUND else ""
            )
            msg = f"broker: {getattr(error, 'reply_text', '') or error}{declare}"
            raise BrokerOutage(msg) from error
        finally:
            self._forget()
            broker.close(connection)

    def _forget(self) -> None:
        """Forget all unsettled deliveries and waiting records: the broker delivers them again."""
        self._mode.forget()
        self._run.buffer.clear()
        if self._run.waiting is not None:
            self._run.waiting.forget()

    def _consume_from(self, raw: RawConnection, queues: Sequence[Source]) -> None:
        """Consume until a limit, until the queue is assigned to another host, or until all is read.

        All is read when each of the queues is at its fence or deleted.
        """
        run, mode, subscriptions = self._run, self._mode, self._subscriptions
        subscriptions.begin()
        left = list(queues)
        # The idle time begins now, so it does not include the time to connect.
        subscribed_at = run.clock.monotonic()
        run.left.idle_from(subscribed_at)
        while (left or subscriptions.reading) and self._goes_on():
            left = [source for source in left if not subscriptions.subscribe(raw, source)]
            run.stand_by(bool(left))
            self._report_ready()
            subscriptions.put_fences(raw)
            arrived = mode.arrive(raw)
            if not mode.handle_due(raw):
                left = self._give_back(queues, left)
            elif not arrived:
                if not left and run.clock.monotonic() - subscribed_at > run.holding.latest_seconds:
                    run.holding.over()  # no outage for longer than the last wait
            elif not mode.handle_next(raw):
                left = self._give_back(queues, left)
            subscriptions.end_empty(lambda: mode.working)
            self._pruning.look(raw)
            if subscriptions.cancelled:
                left = self._drop_cancelled(queues, left)
        mode.let_finish()
        subscriptions.close()

    def _report_ready(self) -> None:
        if self._on_ready is not None:
            self._on_ready()
            self._on_ready = None

    def _drop_cancelled(self, queues: Sequence[Source], left: list[Source]) -> list[Source]:
        """Stop reading queues that were deleted or moved, and check which to read now."""
        mode, subscriptions = self._mode, self._subscriptions
        begun = mode.working
        mode.cancelled()
        tags = [*subscriptions.cancelled]
        subscriptions.cancelled.clear()
        for tag in tags:
            subscriptions.drop_reading(tag)
        if begun:
            mode.let_finish()  # before the waiting records are forgotten
        for tag in tags:
            subscriptions.drop_waiting(tag)
        return self._give_back(queues, left) if begun else left

    def _give_back(self, queues: Sequence[Source], left: Sequence[Source]) -> list[Source]:
        """Give all unsettled deliveries back; return the queues to subscribe to again."""
        events.info(
            "prefetched_returned",
            f"{self._consumer.name} returns the messages that wait for their handler to the broker,"
            " because the broker's consumer_timeout"
            f" ({self._run.timeout.seconds:g} s) would expire; they are delivered again",
            consumer=self._consumer.name,
        )
        self._mode.let_finish()
        return self._subscriptions.give_back(queues, left)
