"""What the three modes of the runner have in common: deliveries are handled, and then settled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from feedbus.errors import Outage
from feedbus.logs import EventLog
from feedbus.runner.connection_loss_causes import ReturnedCall, blame
from feedbus.runner.fences import Fences
from feedbus.runner.handling_during_publishing import PublishingPauses
from feedbus.runner.run_state import Run
from feedbus.runner.subscriptions import Subscriptions
from feedbus.wire import Delivery
from feedbus.wire.amqp_protocols import RawConnection
from feedbus.wire.constants import SLOW_SECONDS

events = EventLog(__name__)


class Mode(ABC):
    """The base class of the modes: it handles deliveries together, and settles them.

    A subclass chooses the deliveries. Each mode also uses this class for a message that may have
    ended a process: such a message is handled alone. A process creates one object of one mode.
    """

    def __init__(self, run: Run, subscriptions: Subscriptions) -> None:
        """Create the mode for the deliveries of a run's subscriptions."""
        self._run = run
        self._subscriptions = subscriptions
        self._fences = Fences(run, subscriptions)
        # A handler that publishes very many messages pauses, if the queue has `stream` and
        # `order_by`. In its pauses, other deliveries are handled. Only the batch mode has pauses.
        self._pauses: PublishingPauses | None = None

    @abstractmethod
    def receive(self, raw: RawConnection) -> bool:
        """Wait for deliveries; return whether handle_next() has something to do.

        The runner calls this in a loop. A call takes some seconds at most, so that heartbeats are
        sent and queues are checked.

        Args:
            raw: the connection of the consumer.

        """

    @abstractmethod
    def handle_waiting_records(self, raw: RawConnection) -> bool:
        """Handle the records of waiting queues that may be handled now.

        The runner calls this after each receive().

        Args:
            raw: the connection of the consumer.

        Returns:
            False if all unsettled deliveries must be returned to the broker, because the broker's
            consumer timeout (its time limit for an acknowledgement) would expire.

        """

    @abstractmethod
    def handle_next(self, raw: RawConnection) -> bool:
        """Handle deliveries, or process a fence, which marks the end of an old queue.

        The runner calls this after receive(), if receive() has returned True.

        Args:
            raw: the connection of the consumer.

        Returns:
            False if all unsettled deliveries must be returned to the broker, because the broker's
            consumer timeout would expire.

        """

    # The concurrent mode overrides the methods from here to close(), because its calls of handlers
    # can run while the runner reads. The group mode overrides forget(). In the batch mode, no call
    # runs between two calls of handle_next(), and no delivery is decoded and not settled.

    @property
    def has_unsettled(self) -> bool:
        """Whether there are deliveries that are decoded and not settled.

        The result is True only in the concurrent mode.
        """
        return False

    def has_unsettled_of(self, consumer_tag: str) -> bool:  # noqa: ARG002 -- for ConcurrentMode
        """Whether deliveries of a subscription are being handled and are not settled.

        An old queue is deleted only if the result is False.

        Args:
            consumer_tag: the consumer tag of the subscription.

        """
        return False

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when a handler call has ended.

        The runner watches the descriptor while it waits for data of the broker. Only in the
        concurrent mode can a call run at that time. In the other modes, the result is None.
        """
        return None

    def on_cancel(self) -> None:  # noqa: B027 -- see above
        """Register that the broker has cancelled a subscription of the consumer.

        The cause can be a handler call that took longer than the consumer timeout. This class does
        nothing: _settle() has already passed the messages of such a call to the crash guard.
        """

    def on_channel_close(self, error: BaseException) -> None:
        """Register the exception with which the broker closed a channel.

        The runner calls this before it connects again. The exception can contain the broker's
        consumer timeout, which this method stores. The method passes no messages to the crash
        guard: if the latest handler call was the cause, _settle() has already passed the messages
        of this call.

        Args:
            error: the exception that contains the broker's reason.

        """
        self._run.timeout.learn(error)

    def finish_running(self) -> None:  # noqa: B027 -- see above
        """Wait for the handler calls that run, and settle their deliveries.

        The runner calls this when it stops reading: at the end of the run, or before the queues are
        divided again among the consumers.
        """

    def update_crash_guard(self) -> None:  # noqa: B027 -- see above
        """Write the deadline of the running handler calls to the crash guard's file.

        During an outage, this is called repeatedly, because handler calls of the concurrent mode
        can still run.
        """

    def forget(self) -> None:  # noqa: B027 -- see above
        """Forget all unsettled deliveries, when the connection ends.

        The broker delivers them again.
        """

    def close(self) -> None:  # noqa: B027 -- see above
        """End the threads in which the mode calls handlers, at the end of the run."""

    def _handle_and_settle(
        self, raw: RawConnection, deliveries: Sequence[Delivery], arrived_at: float
    ) -> bool:
        """Handle deliveries and settle them.

        Args:
            raw: the connection of the deliveries.
            deliveries: the deliveries.
            arrived_at: when the oldest delivery arrived, as a time of the monotonic clock.

        Returns:
            False if all unsettled deliveries must be returned to the broker, because the broker's
            consumer timeout would expire. True also if an outage lasts until the run must end.

        """
        run = self._run
        ids = [delivery.message_id for delivery in deliveries]
        while True:
            try:
                with self._allow_pauses(raw, deliveries):
                    call = self._call_handler(deliveries, ids)
                break
            except Outage as error:
                if not self._hold(raw, error):
                    return True  # the run ends, and the broker gets the deliveries back
                if run.timeout.would_expire(arrived_at):
                    return False
        self._finish_batch(raw, deliveries, call.seconds, call)
        return True

    def _allow_pauses(
        self, raw: RawConnection, deliveries: Sequence[Delivery]
    ) -> AbstractContextManager[None]:
        """Let a handler pause in a `with` block, on a queue with `stream` and `order_by`.

        The handler pauses after each slice of its messages. Other records are handled then.
        """
        return self._pauses.allow(raw, deliveries) if self._pauses else nullcontext()

    def _hold(self, raw: RawConnection, error: Outage) -> bool:
        """Wait because of an outage; return whether to handle the deliveries again after the wait.

        The result is False if the run must end during the wait, or if the queue is assigned to
        another host. The broker then gets the deliveries back.

        Raises:
            Outage: `error` itself, if a waiting queue may contain messages that this process does
                not know, for example because the broker has not confirmed them. Then the runner
                connects again, and reads the waiting queues again.
            Exception: the connection was lost. Then the deliveries must not be handled, because the
                broker delivers them again.

        """
        run = self._run
        run.crash_guard.release()  # a kill during the hold is counted against no message
        if run.must_read_again:
            raise error
        run.hold(error, self.update_crash_guard)
        if not run.must_continue(has_unsettled=self.has_unsettled):
            run.has_given_up = True
            return False
        raw.take_arrived()  # raises an exception if the connection is lost
        return True

    def _call_handler(self, deliveries: Sequence[Delivery], ids: Sequence[str]) -> ReturnedCall:
        """Call the handler with a batch; return the duration and the messages of the call.

        During the call, the crash guard's file contains the message ids. If a message has ended the
        process too often, it becomes a dead letter, and the handler does not get it again. Then the
        *dead handler* is called, a function of the project that gets each new dead letter.

        Args:
            deliveries: the deliveries of the batch.
            ids: their message ids; in a pause, also the ids of the messages whose calls pause.

        """
        run = self._run
        started = run.clock.monotonic()
        with run.heartbeats.while_working():
            run.resources.open()  # those that were open may have ended by themselves
            run.crash_guard.set_messages(ids, run.handler_seconds)
            limit = run.consumer.queue.delivery_limit
            # A message that may have ended a process is handled alone, so its id is the only one.
            reason = run.crash_guard.reason_to_give_up(ids[0], limit)
            if reason:
                events.error(
                    "message_given_up",
                    f"{run.consumer.name} makes message {ids[0]} a dead letter: {reason}",
                    consumer=run.consumer.name,
                    message_id=ids[0],
                )
                # give_up() calls the dead handler with the dead letter. If the dead handler also
                # ends the process, the crash guard counts this crash, too. Example: with a limit of
                # 5, the handler has caused the crashes 1 to 5, and the dead handler the crashes 6
                # to 10. After 10 crashes, the dead handler is skipped.
                skip = bool(run.crash_guard.reason_to_give_up(ids[0], 2 * limit))
                run.dispatch.give_up(deliveries[0], reason, skip_dead_handler=skip)
            else:
                run.dispatch.handle(deliveries)
        seconds = run.clock.monotonic() - started
        return ReturnedCall(seconds, run.heartbeats.missed_seconds, ids)

    def _finish_batch(
        self,
        raw: RawConnection,
        deliveries: Sequence[Delivery],
        seconds: float,
        call: ReturnedCall,
    ) -> None:
        """Settle and count a batch that has been handled.

        Args:
            raw: the connection of the deliveries.
            deliveries: the deliveries of the batch.
            seconds: how long the whole batch took.
            call: the latest handler call that has returned. In the group mode, a batch has several
                calls.

        """
        run = self._run
        run.timeout.add_duration(seconds)
        run.limits.restart_idle_time(run.clock.monotonic())
        self._settle(raw, deliveries, call)
        self._subscriptions.check_placement(deliveries[0])
        run.outage_pause.record_success()
        run.limits.count_handled(len(deliveries))

    def _settle(
        self, raw: RawConnection, deliveries: Sequence[Delivery], call: ReturnedCall
    ) -> None:
        """Acknowledge a batch, and check the channel after a long call of the handler.

        The broker closes the channel or the connection if a call is longer than the consumer
        timeout, or if the call blocks the heartbeats for too long. An acknowledgement has no
        answer, so it does not show such a loss. So after a long call, a request with an answer is
        sent. If the call was the cause of a loss, blame() passes the messages of the call to the
        crash guard. If the call had one message, the crash guard counts a crash against this
        message. If the call had several messages, no crash is counted, and each message is handled
        alone when it is delivered again.
        """
        run, subscriptions = self._run, self._subscriptions
        tags: defaultdict[str, list[int]] = defaultdict(list)
        for delivery in deliveries:
            tags[delivery.consumer_tag].append(delivery.tag)
        paused_tags = self._pauses.paused_tags if self._pauses is not None else ()
        is_slow = call.seconds >= SLOW_SECONDS  # a shorter call exceeds no consumer timeout
        try:
            for consumer_tag, delivery_tags in tags.items():
                # If an earlier delivery of the subscription is not handled yet, a multiple
                # acknowledgement would include it.
                one_by_one = consumer_tag in paused_tags or run.buffer.has_before(
                    consumer_tag, delivery_tags[-1]
                )
                subscriptions.settle(consumer_tag, delivery_tags, one_by_one=one_by_one)
            if run.waiting is not None:
                run.waiting.settle(deliveries)
            if is_slow or call.cause(run.timeout):
                raw.take_arrived()
                # If the broker has closed the channel of the deliveries, its report of this arrives
                # before its answer to this request. Reading the report raises an exception here.
                raw.channel().close()
        except Exception as error:
            run.timeout.learn(error)
            cause = call.cause(run.timeout)
            if cause:
                blame(run.crash_guard, run.consumer.name, call.message_ids, cause)
            run.crash_guard.release()
            raise
        # After a call that is longer than the consumer timeout, the broker can also cancel only the
        # subscription, and leave the channel open.
        cancelled = is_slow and not tags.keys().isdisjoint(subscriptions.cancelled)
        if cancelled:
            cause = run.timeout.cause_of_cancel(call.seconds)
            blame(run.crash_guard, run.consumer.name, call.message_ids, cause)
        run.crash_guard.release(settled=not cancelled)
