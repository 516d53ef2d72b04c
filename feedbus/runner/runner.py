"""Run one consumer until a signal or a limit ends it.

The run subscribes to the consumer's queues, receives deliveries, and passes them to its mode, which
handles and settles them. After an outage it begins again with a new connection.
"""

from __future__ import annotations

import math
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
from feedbus.runner.limits import Limits, RemainingLimits
from feedbus.runner.misplacement_check import MisplacementCheck
from feedbus.runner.outage_pause import OutagePause
from feedbus.runner.run_state import Run
from feedbus.runner.subscriptions import Subscriptions
from feedbus.runner.switch_progress import SwitchProgress
from feedbus.runner.waiting_queues import WaitingQueues
from feedbus.store import Store
from feedbus.topology import Consumer, Topology
from feedbus.wire.amqp_protocols import RawConnection

events = EventLog(__name__)

DRAIN_POLL_SECONDS = 0.1  # between checks whether other consumers have drained the old queues
NOT_FOUND = 404  # AMQP's reply code for a queue that does not exist
CANCEL_SECONDS = 5.0  # how long an async handler may take to end after it was cancelled


class Runner:
    """Runs one consumer in the foreground."""

    def __init__(  # noqa: PLR0913 -- the parts of a run, each given by name
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
            consumer: the consumer that this process runs.
            handlers: the handlers of the queue's messages.
            limits: the limits that end the run.
            metrics: the metrics of the process.
            crash_guard: finds messages that ended an earlier process of this consumer.
            store: the store in whose transactions messages are handled.
            on_ready: called once the consumer has subscribed.
            on_hold: called with the reason when the consumer waits because of an outage, and with
                "" when it continues.
            on_waiting: called with the number of records in the waiting queues.
            assigned: returns whether this host is to read the queue; called between batches.

        """
        self._topology = topology
        clock = broker.clock(topology)
        self._consumer = consumer
        self._store = store
        self._on_ready: Callable[[], None] | None = on_ready
        counted = metrics.consumer(consumer.name)
        # While the sender waits for the broker, the time limit of a handler does not run.
        self._sender = Sender(topology, metrics, waiting=crash_guard.paused)
        self._resources = Resources(topology, on_blocked=counted.loop_blocked, clock=clock)
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
        has_async = any(each.is_async for each in handlers.handlers)
        self._run = Run(
            topology=topology,
            consumer=consumer,
            dispatch=dispatch,
            resources=self._resources,
            crash_guard=crash_guard,
            heartbeats=self._heartbeats,
            holding=OutagePause(consumer.name, counted, on_hold, clock),
            timeout=ConsumerTimeout(topology.consumer_timeout_seconds, clock),
            limits=RemainingLimits(limits, clock),
            waiting=WaitingQueues(
                topology, consumer, dispatch.retries, report=on_hold, count=on_waiting
            )
            if dispatch.retries is not None
            else None,
            handler_seconds=consumer.queue.handler_timeout_seconds + CANCEL_SECONDS * has_async,
            clock=clock,
            assigned=assigned,
        )
        # Reports deliveries that came to a shard which does not own their key.
        self._misplacement_check = MisplacementCheck(topology)
        # Deletes dead letters that exceed the limits of the queue.
        self._pruning = Pruning(topology, consumer, counted)
        self._subscriptions = Subscriptions(self._run, self._misplacement_check, counted)
        self._mode = self._mode_for(handlers)

    def _mode_for(self, handlers: HandlerRoutes) -> BatchMode:
        """Return the mode in which the queue's records are handled; BatchMode is the base class."""
        run, queue = self._run, self._consumer.queue
        if queue.concurrency > 1:
            # These modules are imported here because they import asyncio, which takes long.
            # ConcurrentMode receives messages, ConcurrentDeliveries knows which of them may be
            # acknowledged, and ConcurrentCalls calls the handlers.
            from feedbus.dispatch.concurrent_calls import ConcurrentCalls
            from feedbus.runner.concurrent_deliveries import ConcurrentDeliveries
            from feedbus.runner.concurrent_mode import ConcurrentMode

            calls = ConcurrentCalls(run.dispatch, self._consumer, self._sender, self._resources)
            concurrent = ConcurrentDeliveries(
                calls, run.crash_guard, run.handler_seconds, run.clock
            )
            return ConcurrentMode(run, self._subscriptions, concurrent)
        # Groups are for messages that are handled without a transaction.
        batched = queue.stream or any(each.batch for each in handlers.handlers)
        if batched or run.dispatch.has_store:
            return BatchMode(run, self._subscriptions)
        return GroupMode(run, self._subscriptions, self._sender)

    def stop(self) -> None:
        """Request a clean end: messages in the handler are settled, the others are returned."""
        self._run.stop_requested.set()

    def run(self) -> str:
        """Consume until a limit or a signal ends the run; return the reason as a text."""
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
                        # The next attempt can succeed even after a usage error: for example,
                        # another process held the topology's lock for too long.
                        if isinstance(error, BrokerOutage):
                            # The connection for publishing is probably lost, too. If it was kept,
                            # the next publish could wait for a confirm that never arrives.
                            self._sender.drop()
                        self._run.hold(error, self._mode.while_holding)
            finally:
                self._mode.close()
                self._resources.close()
                self._sender.close()
                self._run.limits.close()
        return reason

    def _ended(self) -> str | None:
        """Return why the run is over, or None if it is not."""
        return self._run.ended(working=self._mode.working)

    def _goes_on(self) -> bool:
        """Whether the run is not over, and the queue is still assigned to this host."""
        return self._run.goes_on(working=self._mode.working)

    def _consume(self) -> None:
        """Subscribe on a new connection and handle deliveries, until the end or an outage."""
        self._run.buffer.clear()
        self._resources.open()
        if self._consumer.queue.once:
            self._store.set_up()
        states = topology_setup.set_up_if_missing(self._topology)
        for state in states.values():
            self._sender.encoder.use_generation(state.current)
        self._misplacement_check.use_rings(states.values())
        connection = broker.connect(self._topology, beating=True)
        # Kombu's connection reconnects by itself. But a delivery can be settled only on the
        # connection that received it. So the raw connection is used, which does not reconnect.
        raw: RawConnection = connection.connection

        def wait_for_others() -> bool:
            self._report_ready()  # this process is ready, although it waits for other consumers
            self._heartbeats.beat()
            stopped = self._run.clock.wait(self._run.stop_requested, DRAIN_POLL_SECONDS)
            return not stopped and self._goes_on()

        try:
            with (
                broker.outage(connection, self._topology.broker_url),
                self._heartbeats.of(raw),
            ):
                drain = Drain(self._topology, self._consumer, states, wait_for_others)
                descriptor = self._mode.fileno()
                if descriptor is not None:
                    # It becomes readable when a concurrent handler call has ended. This interrupts
                    # the wait for the broker.
                    raw.wake_on(descriptor)
                self._run.removal_reason = drain.removal_reason(raw)
                if self._run.removal_reason is not None:
                    return
                progress = self._progress(drain, raw)
                for queues in drain.queues(raw):
                    self._consume_from(raw, queues, drain, progress)
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

    def _progress(self, drain: Drain, raw: RawConnection) -> SwitchProgress | None:
        """Return what follows the old queues, if they are read together with the own queue."""
        waiting = self._run.waiting
        if waiting is None:
            return None
        waiting.noticed = False
        predecessors = drain.predecessors(raw)
        waiting.follow(predecessors)
        if predecessors is None:
            return None
        return SwitchProgress(self._run, drain, waiting, predecessors)

    def _forget(self) -> None:
        """Forget all unsettled deliveries and waiting records: the broker delivers them again."""
        self._mode.forget()
        self._run.buffer.clear()
        self._run.look_seconds = math.inf
        if self._run.waiting is not None:
            self._run.waiting.forget()

    def _consume_from(
        self,
        raw: RawConnection,
        queues: Sequence[Source],
        drain: Drain,
        progress: SwitchProgress | None,
    ) -> None:
        """Consume until the queues are ended, or until this process must not continue.

        A queue is ended when it was read up to its fence, or was deleted. It also returns when the
        queues must be divided among the consumers again.
        """
        run, mode, subscriptions = self._run, self._mode, self._subscriptions
        subscriptions.begin(divided=progress is not None)
        to_subscribe = list(queues)
        subscribed_at = run.clock.monotonic()
        run.limits.idle_from(subscribed_at)  # the time to connect does not count as idle time
        while (to_subscribe or subscriptions.readers) and self._goes_on():
            if progress is None or progress.subscribes_again:
                to_subscribe = [
                    source for source in to_subscribe if not subscriptions.subscribe(raw, source)
                ]
            run.set_standby(stands_by=bool(to_subscribe))
            self._report_ready()
            if self._is_switched(raw, drain, progress):
                break
            if progress is not None:
                to_subscribe += subscriptions.take_left_to_others()
                progress = self._follow(raw, progress)
            subscriptions.put_fences(raw)
            arrived = mode.receive(raw)
            if not mode.handle_due(raw) or (arrived and not mode.handle_next(raw)):
                # The broker's consumer timeout would expire.
                to_subscribe = self._return_deliveries(queues, to_subscribe)
            elif not arrived and not to_subscribe:
                run.holding.record_success_after(subscribed_at)
            changed = subscriptions.end_empty(mode.works_on) or bool(subscriptions.cancelled)
            self._pruning.look(raw)
            if subscriptions.cancelled:
                to_subscribe = self._drop_cancelled(queues, to_subscribe)
            if progress is not None and changed:
                break  # the queues are divided among the consumers again
        mode.let_finish()
        subscriptions.close()

    def _is_switched(
        self, raw: RawConnection, drain: Drain, progress: SwitchProgress | None
    ) -> bool:
        """Whether there is a newer ring, so that the queues must be divided again."""
        waiting = self._run.waiting
        if waiting is not None and waiting.noticed:
            waiting.noticed = False
            return drain.switched(raw)
        return progress is not None and progress.must_begin_anew(raw)

    def _follow(self, raw: RawConnection, progress: SwitchProgress) -> SwitchProgress | None:
        """Check the old queues; return None when none exists any more."""
        progress.look(raw)
        if not progress.over:
            return progress
        if self._run.waiting is not None:
            self._run.waiting.follow(None)
        self._run.look_seconds = math.inf
        self._run.buffer.park(None)
        return None

    def _report_ready(self) -> None:
        if self._on_ready is not None:
            self._on_ready()
            self._on_ready = None

    def _drop_cancelled(self, queues: Sequence[Source], to_subscribe: list[Source]) -> list[Source]:
        """Stop reading queues whose subscription the broker has cancelled.

        If deliveries are being handled, they are finished first, and all queues are read again.

        Returns:
            The queues to subscribe to.

        """
        mode, subscriptions = self._mode, self._subscriptions
        begun = mode.working
        mode.cancelled()
        tags = [*subscriptions.cancelled]
        subscriptions.cancelled.clear()
        for tag in tags:
            subscriptions.drop_reader(tag)
        if begun:
            # Before the waiting queues are closed: records that run now may have come from them.
            mode.let_finish()
        for tag in tags:
            subscriptions.drop_waiting(tag)
        return self._return_deliveries(queues, to_subscribe) if begun else to_subscribe

    def _return_deliveries(
        self, queues: Sequence[Source], to_subscribe: Sequence[Source]
    ) -> list[Source]:
        """Return unsettled deliveries to the broker; return the queues to subscribe to again."""
        events.info(
            "prefetched_returned",
            f"{self._consumer.name} returns the messages that wait for their handler to the broker,"
            " because the broker's consumer_timeout"
            f" ({self._run.timeout.seconds:g} s) would expire; they are delivered again",
            consumer=self._consumer.name,
        )
        self._mode.let_finish()
        return self._subscriptions.return_deliveries(queues, to_subscribe)
