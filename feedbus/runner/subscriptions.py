"""The subscriptions of a consumer: it starts and stops reading queues, and handles their fences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from amqp.exceptions import NotFound

from feedbus import broker
from feedbus.errors import BrokerOutage
from feedbus.generations.consumer_queues import ReadableQueue
from feedbus.generations.queue_phases import phase_of
from feedbus.logs import EventLog
from feedbus.metrics import ConsumerMetrics
from feedbus.runner.misplacement_check import MisplacementCheck
from feedbus.runner.queue_reader import QueueReader
from feedbus.runner.run_state import Run
from feedbus.wire import Delivery
from feedbus.wire.amqp_protocols import Connection, RawConnection

events = EventLog(__name__)

SWITCHING_POLL_SECONDS = 0.5  # between two checks whether the switch to a new ring is complete
WAITING_POLL_SECONDS = 0.1  # between two attempts to move the waiting records of an old queue


class Subscriptions:
    """The queues that the consumer of this process reads now."""

    def __init__(
        self, run: Run, misplacement_check: MisplacementCheck, metrics: ConsumerMetrics
    ) -> None:
        """Start without queues.

        Args:
            run: receives the deliveries.
            misplacement_check: knows which shard owns which key.
            metrics: counts records that arrive on a wrong shard.

        """
        self._run = run
        self._misplacement_check = misplacement_check
        self._metrics = metrics
        self.readers: dict[str, QueueReader] = {}  # by consumer tag
        self.cancelled: list[str] = []  # the tags of subscriptions that the broker has cancelled
        self._sources: dict[str, ReadableQueue] = {}  # by consumer tag
        self._unread: set[str] = set()  # subscriptions without a delivery so far
        # Old queues that this consumer has left, because another consumer reads them, too.
        self._left_to_others: list[ReadableQueue] = []
        self._uses_lanes = False  # whether queues of several generations are read
        self._fences_due: dict[str, float] = {}  # when to process the fence of a subscription

    def reset(self, *, use_lanes: bool = False) -> None:
        """Forget all queues, because a new connection begins.

        Args:
            use_lanes: whether queues of several generations are read at the same time.

        """
        self.readers = {}
        self.cancelled = []
        self._sources, self._left_to_others, self._unread = {}, [], set()
        self._fences_due = {}
        self._uses_lanes = use_lanes
        self._run.buffer.clear()

    def take_left_to_others(self) -> list[ReadableQueue]:
        """Return and forget the old queues that this consumer has left to another consumer."""
        queues, self._left_to_others = self._left_to_others, []
        return queues

    def leave_to_others(self, tag: str) -> None:
        """Note an old queue that another consumer reads.

        This consumer subscribes to the queue again when the other one has stopped.
        """
        source = self._sources[tag]
        if source.only_if_unread:
            self._left_to_others.append(source)

    def subscribe(self, connection: Connection, source: ReadableQueue) -> bool:
        """Start to read a queue; return False if another consumer has it for itself.

        If an old queue was deleted, the method does nothing and returns True.
        """
        try:
            return self._subscribe(connection, source)
        except NotFound:
            if not source.only_if_unread:
                raise
            return True

    def _subscribe(self, connection: Connection, source: ReadableQueue) -> bool:
        queue, waiting = self._run.consumer.queue, self._run.waiting
        tag = f"{self._run.consumer.name}.{source.queue}"
        cancel = self.cancelled.append
        if source.only_if_unread:
            readers = broker.count_consumers(connection, source.queue)
            if readers is None:
                return True  # the queue is deleted
            if readers:
                return False
        if waiting is not None and not waiting.open(
            connection, source.queue, tag, cancel, source.generation_number
        ):
            return False
        self._sources[tag] = source
        if self._uses_lanes:
            self._run.buffer.assign_lane(tag, source.generation_number)
        try:
            reader = QueueReader.begin(
                connection,
                source.queue,
                tag=tag,
                prefetch=max(queue.prefetch, min(queue.batch.size, 1000)),
                exclusive=source.exclusive,
                pause_seconds=broker.in_flight_seconds(self._run.topology),
                needs_fence=source.needs_fence,
                on_message=self._on_message,
                on_cancel=cancel,
            )
        except NotFound:
            if waiting is not None:
                waiting.delete(tag)
            raise
        if reader is not None:
            self.readers[tag] = reader
            self._unread.add(tag)
            self._run.dispatch.calls.query_outbox_again()
        elif queue.external_name:
            msg = (
                f"broker: another program consumes the external queue '{source.queue}' exclusively;"
                " end it, or let it share the queue"
            )
            raise BrokerOutage(msg)
        self._run.limits.restart_idle_time(self._run.clock.monotonic())
        return reader is not None

    def _on_message(self, message: Any) -> None:
        now, delivery = self._run.clock.monotonic(), Delivery.of(message)
        if self._unread and delivery.consumer_tag in self._unread:
            # With a single active consumer, another process may have read the queue until now. It
            # may have left messages in the outbox.
            self._unread.remove(delivery.consumer_tag)
            self._run.dispatch.calls.query_outbox_again()
        self._run.buffer.add(delivery, now)
        self._run.limits.restart_idle_time(now)

    def settle(
        self, consumer_tag: str, delivery_tags: Sequence[int], *, one_by_one: bool = False
    ) -> None:
        """Acknowledge deliveries of a subscription, unless the subscription has ended.

        Args:
            consumer_tag: the tag of the subscription.
            delivery_tags: the tags of the deliveries, in the order of arrival.
            one_by_one: True if an earlier delivery still waits, and must not be acknowledged yet.

        """
        reader = self.readers.get(consumer_tag)
        if reader is None:
            return
        if one_by_one:
            reader.settle_each(delivery_tags)
        else:
            reader.settle_up_to(delivery_tags[-1])

    def check_placement(self, delivery: Delivery) -> None:
        """Count a delivery as misplaced if it came to a shard that does not own its key.

        It is called with the first delivery of each batch.
        """
        reader = self.readers.get(delivery.consumer_tag)
        if reader is not None and self._misplacement_check.is_misplaced(reader.queue, delivery):
            self._metrics.misplaced()

    def must_process_fence(self) -> bool:
        """Whether a fence must be processed next.

        If this fence is postponed, the buffer goes on with the deliveries of another generation.
        """
        buffer = self._run.buffer
        if buffer.next_is_fence and self._seconds_until_fence() > 0:
            buffer.go_to_lane_without_fence()
        return buffer.next_is_fence

    def _seconds_until_fence(self) -> float:
        """Return in how many seconds the fence that is first in the buffer is to be processed."""
        due_at = self._fences_due.get(self._run.buffer.next_delivery.consumer_tag, -math.inf)
        return due_at - self._run.clock.monotonic()

    def postpone_fence(self, seconds: float) -> None:
        """Postpone the fence that is first in the buffer by some seconds."""
        tag = self._run.buffer.next_delivery.consumer_tag
        self._fences_due[tag] = self._run.clock.monotonic() + seconds

    def process_fence(self, raw: RawConnection) -> bool:
        """Process the fence that is first in the buffer.

        Returns:
            False if the queue is in use. Then another program has published this message, and it
            is handled as an ordinary message. True in all other cases.

        """
        run, fence = self._run, self._run.buffer.next_delivery
        reader = self.readers[fence.consumer_tag]
        seconds = self._seconds_until_fence()
        if seconds > 0:
            run.receive(raw, max(min(seconds, run.seconds_until_due(), run.check_seconds), 0.0))
            return True
        if not reader.probes.is_pending:
            phase = phase_of(raw, run.topology, run.consumer, reader.queue)
            if phase == "in use":
                return False
            consumers = reader.count_consumers()
            if consumers > 1:  # other consumers have deliveries; the last one deletes the queue
                self.stop_reading(reader.tag)
                self.leave_to_others(reader.tag)
                return True
            if phase == "switching" or not consumers:
                self.postpone_fence(SWITCHING_POLL_SECONDS)
                return True
        if not self._move_waiting_records(raw, reader):
            # The waiting records are not moved yet. The next calls receive deliveries until the
            # fence is due, even if the buffer is full.
            self.postpone_fence(WAITING_POLL_SECONDS)
            return True
        run.buffer.pop()
        reader.accept_fence(fence.tag, fence.message_id)
        return True

    def _move_waiting_records(self, raw: RawConnection, reader: QueueReader) -> bool:
        """Move the waiting records of an old queue; return False if this must be repeated."""
        run = self._run
        if run.waiting is None or not run.topology.on_ring(run.consumer.queue):
            return True  # a queue without shards keeps its waiting queue
        return run.waiting.move_records(raw, reader.queue, reader.tag)

    def put_missing_fences(self, raw: RawConnection) -> None:
        """Put a fence into each old queue that has none, for example because it was full."""
        for reader in [*self.readers.values()]:
            if not reader.probes.is_fence_due:
                continue
            phase = phase_of(raw, self._run.topology, self._run.consumer, reader.queue)
            if phase == "ending":
                reader.probes.put_fence()
            elif phase == "switching":
                reader.probes.postpone_fence()
            else:
                # The queue is in use. The next switch will put a fence into it, and will wait for
                # room, because the queue has a consumer now.
                reader.probes.fence_needed = False

    def delete_empty_queues(self, has_unsettled_of: Callable[[str], bool]) -> bool:
        """Delete the queues that are proved to be empty, unless more messages have arrived.

        Args:
            has_unsettled_of: called with a consumer tag; returns whether deliveries of it are
                handled now.

        Returns:
            Whether one of them was the queue that this consumer took for the current one. Then
            there is a newer generation.

        """
        deleted_newest = False
        for reader in [*self.readers.values()]:
            if not reader.may_be_empty:
                continue
            tag = reader.tag

            def in_flight(tag: str = tag) -> bool:
                return self._run.buffer.has_deliveries_of(tag) or has_unsettled_of(tag)

            if reader.delete_if_empty(in_flight):
                del self.readers[tag]
                self.close_waiting_queue(tag)
                deleted_newest |= not self._sources[tag].only_if_unread
        return deleted_newest

    def stop_reading(self, tag: str) -> None:
        """Stop reading a queue.

        The broker returns the unsettled deliveries to the queue, unless the queue was deleted.
        """
        self.close_reader(tag)
        self.close_waiting_queue(tag)

    def close_reader(self, tag: str) -> None:
        """Stop reading a queue, but keep its waiting records."""
        reader = self.readers.pop(tag, None)
        if reader is not None:
            reader.close()
        self._run.buffer.remove(tag)

    def close_waiting_queue(self, tag: str) -> None:
        """Stop reading the waiting queue of a queue."""
        if self._run.waiting is not None:
            self._run.waiting.close(tag)

    def return_deliveries(
        self, queues: Sequence[ReadableQueue], unsubscribed: Sequence[ReadableQueue]
    ) -> list[ReadableQueue]:
        """Give back all unsettled deliveries, and return the queues to subscribe to again.

        Each channel is closed without cancelling its subscription first. After a cancel, the next
        consumer would get later messages before the unsettled ones: these return to the queue only
        when the channel is closed.

        Args:
            queues: all queues that this consumer has to read.
            unsubscribed: those of them that are not read now, and have to be subscribed to again.

        """
        read_queues = {reader.queue for reader in self.readers.values()}
        for tag in list(self.readers):
            self.stop_reading(tag)
        return [
            source for source in queues if source.queue in read_queues or source in unsubscribed
        ]

    def close(self) -> None:
        """Stop reading all queues."""
        for reader in self.readers.values():
            reader.close()
        if self._run.waiting is not None:
            self._run.waiting.close()
        # When the channels were closed, the broker returned the deliveries in the buffer.
        self._run.buffer.clear()
