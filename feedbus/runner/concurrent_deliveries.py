"""The deliveries of the concurrent mode: which are being handled, which may be acknowledged."""

from __future__ import annotations

import math
import selectors
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from feedbus.clock import Clock
from feedbus.errors import Outage
from feedbus.runner.connection_loss_causes import blame
from feedbus.runner.consumer_timeout import ConsumerTimeout
from feedbus.runner.crash_guard import CrashGuard
from feedbus.runner.queue_reader import QueueReader
from feedbus.runner.settlement import Settlement
from feedbus.wire import Delivery

if TYPE_CHECKING:
    from feedbus.dispatch.concurrent_calls import ConcurrentCalls
    from feedbus.dispatch.concurrent_records import RecordCall

# The crash guard's file has the ids of the messages that handlers have now. The file also keeps the
# ids of messages whose handling has ended. When it has more than about MAX_ENDED_IDS such ids, the
# file is written again without them.
MAX_ENDED_IDS = 64


class ConcurrentDeliveries:
    """The deliveries of the concurrent mode, from their decoding until they are settled.

    The concurrent mode handles up to `concurrency` records at the same time. With `order_by`, the
    records of one key are still handled one after the other. The mode has one ConcurrentDeliveries
    object for the whole run.
    """

    def __init__(
        self,
        consumer: str,
        calls: ConcurrentCalls,
        crash_guard: CrashGuard,
        handler_seconds: float,
        clock: Clock,
    ) -> None:
        """Create the object without deliveries.

        Args:
            consumer: the name of the consumer.
            calls: calls the handlers.
            crash_guard: its file contains the ids of the messages that handlers have now.
            handler_seconds: the time limit of a handler call.
            clock: the clock that is used for waiting.

        """
        self._consumer = consumer
        self._calls = calls
        self._crash_guard = crash_guard
        self._clock = clock
        self._handler_seconds = handler_seconds
        self._ids_in_file: set[str] = set()  # the message ids in the crash guard's file
        # The start time of the call from which the deadline in the file was computed; NaN if the
        # deadline must be computed again.
        self._limited_from = math.nan
        # The arrival times, by consumer tag and delivery tag, in the order of arrival.
        self._arrived_at: dict[tuple[str, int], float] = {}
        # For each consumer tag, which deliveries of the subscription may be acknowledged.
        self._settlements: defaultdict[str, Settlement] = defaultdict(Settlement)

    def __len__(self) -> int:
        """Count the deliveries."""
        return len(self._arrived_at)

    def has_deliveries_of(self, consumer_tag: str) -> bool:
        """Whether a delivery of a subscription is decoded and not settled.

        This method is called before an old queue is deleted, and before a fence is processed. A
        fence is a message that marks the end of an old queue.

        Args:
            consumer_tag: the consumer tag of the subscription.

        """
        return any(tag == consumer_tag for tag, _ in self._arrived_at)

    @property
    def has_running_calls(self) -> bool:
        """Whether a handler call was started and has not been finished by finish()."""
        return bool(self._calls.running)

    @property
    def has_capacity(self) -> bool:
        """Whether the records that run or can start are fewer than the option `concurrency`.

        If so, the next deliveries are decoded.
        """
        return self._calls.has_capacity

    @property
    def has_ended_calls(self) -> bool:
        """Whether a handler call has ended, so that finish() must be called next."""
        return self._calls.has_ended_calls

    def take_outage(self) -> Outage | None:
        """Return and forget the outage that a handler call has raised, or None.

        The consumer then holds. The records whose calls raised the outage run again.
        """
        outage, self._calls.outage = self._calls.outage, None
        return outage

    @property
    def oldest_at(self) -> float:
        """The arrival time of the oldest delivery; infinity if there is none.

        The value is a time of the monotonic clock in seconds. If the broker's consumer timeout
        would expire for this delivery, the runner returns the deliveries to the broker.
        """
        return next(iter(self._arrived_at.values()), math.inf)

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when a handler call has ended."""
        return self._calls.waker.fileno()

    def update_crash_guard(self) -> None:
        """Write the deadline of the running handler calls to the crash guard's file; called often.

        If no call runs, the messages are removed from the file.
        """
        if self._calls.oldest_started_at is not None:
            self._set_time_limit()
        elif self._ids_in_file:
            self._crash_guard.release()
            self._ids_in_file.clear()

    def _add_to_crash_guard(self, calls: Sequence[RecordCall]) -> None:
        """Add the messages that are about to start to the crash guard's file.

        Messages whose handling has ended stay in the file for a while: rewriting the file at each
        change would cost more than the handling. After a crash, each message in the file is handled
        alone. This is harmless for messages that had ended.
        """
        new_ids = dict.fromkeys(
            id_ for call in calls if (id_ := call.message_id) not in self._ids_in_file
        )
        if self._ids_in_file and len(self._ids_in_file) + len(new_ids) <= MAX_ENDED_IDS + 2 * len(
            self._calls.running
        ):
            if new_ids:
                self._crash_guard.add_messages(list(new_ids))
                self._ids_in_file.update(new_ids)
            if self._calls.oldest_started_at is None:  # all messages in the file have ended
                self._limited_from = math.nan
        else:
            self._ids_in_file = {call.message_id for call in self._calls.in_handlers}
            self._write_to_crash_guard(self._ids_in_file)
        self._set_time_limit()

    def _write_to_crash_guard(self, message_ids: Collection[str]) -> None:
        self._crash_guard.set_messages(list(message_ids), self._handler_seconds)
        self._limited_from = math.nan

    def _set_time_limit(self) -> None:
        """Write the deadline of the call that has run longest to the crash guard's file.

        If the file contains this deadline, nothing is written.
        """
        now = self._clock.monotonic()
        started_at = self._calls.oldest_started_at or now
        if started_at != self._limited_from:
            self._limited_from = started_at
            self._crash_guard.set_time_limit(started_at + self._handler_seconds - now)

    def check_event_loop(self) -> None:
        """Log a warning if an async handler blocks the event loop; this method is called often."""
        self._calls.check_event_loop()

    def ignore_wakes(self) -> None:
        """Undo a wake-up for a record that was already finished or forgotten.

        A handler's thread first adds its record to the ended records, and then wakes the consumer's
        thread by making the descriptor of fileno() readable. Between these two steps, the
        consumer's thread may finish or forget the record. Then the wake-up comes when nothing is
        left to do. The descriptor would stay readable, so without this call, every later wait would
        end immediately.
        """
        self._calls.waker.reset()

    def wait(self, seconds: float) -> None:
        """Wait until a handler call has ended.

        Args:
            seconds: the longest time to wait.

        """
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno(), selectors.EVENT_READ)
            self._clock.select(selector, seconds)

    def decode(self, delivery: Delivery, arrived_at: float) -> None:
        """Decode a delivery that arrived after all others; start() then starts its records.

        Args:
            delivery: the delivery.
            arrived_at: when it arrived, in seconds of the monotonic clock.

        Raises:
            StoreOutage: the store is unavailable. The next call of decode() or start() decodes this
                delivery, too.

        """
        self._arrived_at[delivery.consumer_tag, delivery.tag] = arrived_at
        self._settlements[delivery.consumer_tag].add(delivery.tag)
        self._calls.decode([delivery])

    def start(self) -> None:
        """Start the handler calls for the records that may run now, up to `concurrency`.

        With `order_by`, a record may run when the earlier records of its key have ended.

        Raises:
            StoreOutage: the store is unavailable, so deliveries could not be decoded.

        """
        # During an outage of the store, decode() may have left deliveries that are not decoded.
        self._calls.decode(())
        calls = self._calls.take_startable()
        if calls:
            self._add_to_crash_guard(calls)
            self._calls.start(calls)

    def finish(self) -> list[Delivery]:
        """Send the results of ended handler calls; return the deliveries to acknowledge now.

        The results are retries, dead letters, and the messages that the handlers published.

        Raises:
            Outage: the broker or the store is unavailable; the next call of finish() continues.

        """
        if not self._calls.has_ended_calls:
            self._calls.waker.reset()
            # A call that ended before reset() does not wake this thread any more.
            if not self._calls.has_ended_calls:
                return []
        self._calls.finish()
        for each in self._calls.for_dead_handler:
            # send_failed() calls the dead handler, a function of the project that gets each new
            # dead letter. The function can end the process, so the file must contain this message.
            self._ids_in_file.add(each.delivery.message_id)
            self._write_to_crash_guard(self._ids_in_file)
            self._calls.send_failed(each)
        self._calls.send_failed()
        finished = self._calls.take_acknowledgeable()
        for delivery in finished:
            self._settlements[delivery.consumer_tag].mark_done(delivery.tag)
            self._arrived_at.pop((delivery.consumer_tag, delivery.tag), None)
        self.update_crash_guard()
        return finished

    def blame_slow(self, timeout: ConsumerTimeout) -> None:
        """Count the closed channel as a crash against each message that exceeded the timeout.

        The handler call of such a message took longer than the broker's consumer timeout, so the
        broker has closed the channel. The message is handled alone when it is delivered again.

        Args:
            timeout: the broker's consumer timeout.

        """
        slow = [each for each in self._calls.slow_messages if timeout.may_have_expired(each[1])]
        self._blame(slow, timeout.cause_of_close)

    def blame_slowest(self, timeout: ConsumerTimeout) -> None:
        """Count the slowest message as the reason why the broker cancelled the consumer.

        RabbitMQ gives no reason when it cancels a subscription. The slowest message is the one with
        the longest handler call, so it is the probable cause. The cancellation counts as a crash
        against this message: it is handled alone when it is delivered again.

        Args:
            timeout: the broker's consumer timeout, for the text of the reason.

        """
        slowest = sorted(self._calls.slow_messages, key=lambda each: each[1])[-1:]
        self._blame(slowest, timeout.cause_of_cancel)

    def _blame(self, slow: Sequence[tuple[str, float]], cause_of: Callable[[float], str]) -> None:
        for message_id, seconds in slow:
            blame(self._crash_guard, self._consumer, [message_id], cause_of(seconds))
        self._calls.forget_slow_messages()

    def settle(self, readers: Mapping[str, QueueReader]) -> None:
        """Acknowledge the deliveries that finish() has returned, at the broker.

        The concurrent mode calls this after finish().

        Args:
            readers: the readers of the queues, by consumer tag. A waiting queue has no reader:
                WaitingQueues acknowledges its deliveries.

        """
        for consumer_tag, settlement in self._settlements.items():
            reader = readers.get(consumer_tag)
            if reader is not None:
                reader.settle_done(settlement)
            else:  # a waiting queue, or a subscription that has ended
                settlement.take_acknowledgeable()

    def forget_all(self) -> None:
        """Wait until no handler call runs, and forget all deliveries.

        The broker delivers them again.

        This method is called when the connection has ended, or deliveries are to be returned to the
        broker.
        """
        while self._calls.running:
            self._calls.forget()
            if self._calls.running:
                self.wait(1.0)
                self._calls.waker.reset()
                self.update_crash_guard()
        self._calls.forget()
        self._arrived_at.clear()
        self._settlements.clear()
        self._ids_in_file.clear()
        self._crash_guard.release()
        self.ignore_wakes()

    def close(self) -> None:
        """Wait until no handler call runs, forget all deliveries, and end the calls' threads.

        This method is called once, at the end of the run.
        """
        self.forget_all()
        self._calls.close()
