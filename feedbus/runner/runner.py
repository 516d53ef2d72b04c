"""Run one consumer until a signal, a limit or the removal of its queue ends the run.

The run connects and subscribes to the consumer's queues. Then the run receives deliveries, and
passes them to the mode of the queue: batch, group or concurrent. The mode calls the handlers and
settles the deliveries. If the connection is lost, the run connects and subscribes again.

After a change of the ring, such as another number of shards, the consumer also reads its share of
the *old queues*, the queues of the ring before the change, until they are deleted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from feedbus import broker
from feedbus.bus.sender import Sender
from feedbus.dead_letters.pruning import Pruning
from feedbus.dispatch import Dispatch
from feedbus.errors import BrokerOutage, Outage, UsageError
from feedbus.generations import topology_setup
from feedbus.generations.consumer_queues import ConsumerQueues
from feedbus.generations.ring_state import RingState
from feedbus.handling.resources import Resources
from feedbus.handling.routes import HandlerRoutes
from feedbus.metrics import Metrics, WaitingCounts
from feedbus.runner.amqp_heartbeats import Heartbeats
from feedbus.runner.consumer_timeout import ConsumerTimeout
from feedbus.runner.crash_guard import CrashGuard
from feedbus.runner.limits import Limits, RemainingLimits
from feedbus.runner.misplacement_check import MisplacementCheck
from feedbus.runner.mode_selection import select_mode
from feedbus.runner.old_queue_tracking import SwitchProgress
from feedbus.runner.outage_pause import OutagePause
from feedbus.runner.queues_to_read import QueuesToRead
from feedbus.runner.run_state import Run
from feedbus.runner.subscriptions import Subscriptions
from feedbus.runner.waiting_queues import WaitingQueues
from feedbus.store import Store, refusing_autocommit
from feedbus.topology import Consumer, Topology
from feedbus.wire.amqp_protocols import RawConnection

DRAIN_POLL_SECONDS = 0.1  # between checks whether other consumers have deleted the old queues
NOT_FOUND = 404  # AMQP's reply code for a queue that does not exist
CANCEL_SECONDS = 5.0  # how long an async handler may take to end after it was cancelled


class Runner:
    """Runs one consumer in the foreground: it connects, receives, handles and settles deliveries.

    `feedbus run` creates one Runner object and calls run() once.
    """

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
        on_waiting: Callable[[WaitingCounts], None] = lambda _: None,
        is_assigned: Callable[[], bool] = lambda: True,
    ) -> None:
        """Create the parts of a run.

        Args:
            topology: the topology of the system.
            consumer: the consumer that this process runs.
            handlers: the handlers of the queue's messages.
            limits: the limits that end the run.
            metrics: the metrics of the process.
            crash_guard: has a file with the ids of the messages that handlers have now, and with
                the deadline of the running handler. In the file of an earlier process, the crash
                guard finds the messages that may have ended that process.
            store: the store in whose transactions messages are handled.
            on_ready: called once, when the process is ready. It is ready as soon as one of these is
                true: the consumer has subscribed; another consumer reads the queue; the queue is
                assigned to another host.
            on_hold: called with the reason when the consumer waits because of an outage, or because
                too many records wait (`waiting_limit`). Called with "" when the consumer continues.
            on_waiting: called with the counts of the records in waiting queues when these counts
                change.
            is_assigned: returns whether this host is to read the queue. The runner calls it between
                batches.

        """
        self._topology = topology
        clock = broker.clock(topology)
        self._consumer = consumer
        self._store = store
        self._on_ready: Callable[[], None] | None = on_ready
        counted = metrics.consumer(consumer.name)
        # The time in which the sender waits for the broker does not count for the time limit of the
        # handler.
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
            outage_pause=OutagePause(consumer.name, counted, on_hold, clock),
            timeout=ConsumerTimeout(topology.consumer_timeout_seconds, clock),
            limits=RemainingLimits(limits, clock),
            waiting=WaitingQueues(
                topology, consumer, dispatch.waiting_deliveries, report=on_hold, on_count=on_waiting
            )
            if dispatch.waiting_deliveries is not None
            else None,
            handler_seconds=consumer.queue.handler_timeout_seconds + CANCEL_SECONDS * has_async,
            clock=clock,
            is_assigned=is_assigned,
        )
        # Reports deliveries that came to a shard which does not own their key.
        self._misplacement_check = MisplacementCheck(topology, counted)
        # Deletes dead letters that exceed the limits in the table `dead_letters` of the queue.
        self._pruning = Pruning(topology, consumer, counted)
        self._subscriptions = Subscriptions(self._run, self._misplacement_check)
        self._mode = select_mode(self._run, self._subscriptions, handlers, self._sender)

    def stop(self) -> None:
        """Request a clean end of the run.

        The messages that handlers have now are finished and settled. All other messages are
        returned to the broker. Then run() returns. The handler of SIGTERM and SIGINT calls this.
        """
        self._run.stop_requested.set()

    def run(self) -> str:
        """Read the consumer's queue until the run is over; return the reason for the log.

        A signal, a limit or the removal of the consumer's queue ends the run. During an outage of
        the broker or the store, the method waits and tries again.
        """
        with self._heartbeats, refusing_autocommit(self._store, self._consumer.queue):
            try:
                while (reason := self._end_reason()) is None:
                    if not self._run.is_assigned():
                        self._report_ready()
                        self._run.await_assignment()
                        continue
                    try:
                        self._consume()
                    except (Outage, UsageError) as error:
                        # A usage error can be temporary. Example: another process held the
                        # topology's lock for too long.
                        if isinstance(error, BrokerOutage):
                            # The connection for publishing is probably lost, too. If the sender
                            # kept this connection, the next publish could wait for a confirm that
                            # never arrives.
                            self._sender.drop()
                        self._run.hold(error, self._mode.update_crash_guard)
            finally:
                self._mode.close()
                self._resources.close()
                self._sender.close()
                self._run.limits.close()
        return reason

    def _end_reason(self) -> str | None:
        """Return why the run is over, or None if it continues."""
        return self._run.end_reason(has_unsettled=self._mode.has_unsettled)

    def _must_continue(self) -> bool:
        """Return whether the run continues, and the queue is still assigned to this host."""
        return self._run.must_continue(has_unsettled=self._mode.has_unsettled)

    def _consume(self) -> None:
        """Connect, and read the consumer's queues.

        This function returns when the run is over, when the queue is assigned to another host, or
        when the ring has changed. run() then decides what to do next.

        Raises:
            Outage: the broker, the store or a resource of a handler is unavailable; run() then
                holds: it waits and tries again.
            UsageError: for example, if another process held the topology's lock (on the broker) for
                too long.

        """
        states = self._prepare()
        connection = broker.connect(self._topology, broker.HeartbeatSource.CALLER)
        # A delivery can be settled only on the connection that received it. Kombu's connection
        # reconnects by itself. The raw connection of py-amqp does not, so it is used here.
        raw: RawConnection = connection.connection
        try:
            with (
                broker.outage(connection, self._topology.broker_url),
                self._heartbeats.on_connection(raw),
            ):
                self._read_generations(raw, states)
        except connection.channel_errors as error:
            self._mode.on_channel_close(error)
            declare = (
                "; `feedbus apply` declares it" if getattr(error, "code", 0) == NOT_FOUND else ""
            )
            msg = f"broker: {getattr(error, 'reply_text', '') or error}{declare}"
            raise BrokerOutage(msg) from error
        finally:
            self._forget()
            broker.close(connection)

    def _prepare(self) -> Mapping[str, RingState]:
        """Open the handlers' resources, and declare the objects that the broker does not have.

        Returns:
            The states of all rings, by the name of the exchange.

        """
        self._resources.open()
        if self._consumer.queue.once:
            self._store.set_up()
        states = topology_setup.set_up_if_missing(self._topology)
        for state in states.values():
            # The sender makes each pack for one shard of this generation.
            self._sender.encoder.use_generation(state.pack_generation)
        self._misplacement_check.use_rings(states.values())
        return states

    def _read_generations(self, raw: RawConnection, states: Mapping[str, RingState]) -> None:
        """Read the consumer's own queue, and its share of the old queues.

        Args:
            raw: the connection.
            states: the states of all rings, by the name of the exchange.

        """
        run = self._run
        consumer_queues = ConsumerQueues(
            self._topology, self._consumer, states, self._wait_for_others
        )
        descriptor = self._mode.fileno()
        if descriptor is not None:
            # When a concurrent handler call ends, the descriptor becomes readable. Then the wait
            # for the broker ends, too, so that the call's delivery is settled at once.
            raw.wake_on(descriptor)
        run.removal_reason = consumer_queues.removal_reason(raw)
        if run.removal_reason is not None:
            return
        run.dispatch.calls.inbox.earlier_names = consumer_queues.earlier_tables
        progress = SwitchProgress.begin(run, consumer_queues, raw)
        # Usually there is one list of queues, and all of them are read at the same time. There are
        # several lists if a new record must wait for all old queues, for example with
        # `block_on_dead` (predecessors.are_known() describes the cases). The lists are read one
        # after the other. The last list has the consumer's own queue.
        for sources in consumer_queues.lists_to_read(raw):
            queues = QueuesToRead(
                run,
                self._mode,
                self._subscriptions,
                raw,
                queues=sources,
                consumer_queues=consumer_queues,
                progress=progress,
            )
            self._read(raw, queues)
            if not self._must_continue():
                return

    def _read(self, raw: RawConnection, queues: QueuesToRead) -> None:
        """Receive deliveries, handle and settle them, until no queue is left to read.

        This function also returns if the run is over, if the queue is assigned to another host, or
        if run() has to connect again. run() connects again after a change of the ring, and after
        the broker has cancelled a subscription while this consumer reads old queues. Then run()
        determines again which queues this consumer has to read.
        """
        run, mode = self._run, self._mode
        begun_at = run.clock.monotonic()
        run.limits.restart_idle_time(begun_at)  # the time to connect does not count as idle time
        while queues and run.must_continue(has_unsettled=mode.has_unsettled):
            queues.subscribe()
            if self._on_ready is not None:
                self._report_ready()
            if queues.ring_has_changed():
                break
            queues.check_old_queues()
            arrived = mode.receive(raw)
            # If the broker has cancelled a subscription, another process may read this queue now,
            # and may have put failed records into its waiting queue. This consumer does not know
            # these records. If it handled a record now, the record could overtake one of them that
            # has the same key. So nothing is handled now: end_queues() stops reading each queue
            # with a cancelled subscription, together with its waiting queue, and returns the
            # unsettled deliveries to the broker.
            if not self._subscriptions.cancelled:
                # handle_waiting_records() and handle_next() call the handlers, and settle
                # deliveries. Each method returns False if it cannot settle them before the broker's
                # consumer timeout expires: then return_before_timeout() returns them to the broker.
                # During an outage, each method waits. If the run must end during this wait, or if
                # the queue is assigned to another host, the method sets `has_given_up`, and nothing
                # more is settled.
                in_time = mode.handle_waiting_records(raw) and (
                    not arrived or run.has_given_up or mode.handle_next(raw)
                )
                if run.has_given_up:
                    break
                if not in_time:
                    queues.return_before_timeout()
                elif not arrived and not self._subscriptions.unsubscribed:
                    # Usually a handled message shows that an outage is over. If all queues are
                    # read, and no message arrives, a connection that has lasted for long enough
                    # shows it.
                    run.outage_pause.record_success_after(begun_at)
                self._pruning.check(raw)
            if queues.end_queues():  # True if run() must connect again, as described above
                break
        mode.finish_running()
        self._subscriptions.close()

    def _wait_for_others(self) -> bool:
        """Wait once for DRAIN_POLL_SECONDS, between two checks of old queues.

        ConsumerQueues calls this repeatedly, while other consumers read old queues.

        Returns:
            False if the run is over, or if the queue is assigned to another host.

        """
        self._report_ready()  # this process is ready, although it waits
        self._heartbeats.beat()
        stopped = self._run.clock.wait(self._run.stop_requested, DRAIN_POLL_SECONDS)
        return not stopped and self._must_continue()

    def _forget(self) -> None:
        """Forget all unsettled deliveries and waiting records, because the connection has ended.

        The broker delivers them again.
        """
        self._mode.forget()
        self._run.buffer.clear()
        self._run.check_seconds = math.inf
        self._run.has_given_up = False
        if self._run.waiting is not None:
            self._run.waiting.forget()

    def _report_ready(self) -> None:
        """Call on_ready, if this is the first call."""
        if self._on_ready is not None:
            self._on_ready()
            self._on_ready = None
