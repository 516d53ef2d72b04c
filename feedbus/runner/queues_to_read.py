"""The queues that a run has to read: when to subscribe to each, and when to determine them again.

These are the consumer's own queue, and its share of the *old queues*: the queues of older
generations of the ring. The consumers of the current ring divide the old queues among themselves.
When the ring changes, they divide the old queues again.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedbus.generations.consumer_queues import ConsumerQueues, ReadableQueue
from feedbus.logs import EventLog
from feedbus.runner.base_mode import Mode
from feedbus.runner.fences import Fences
from feedbus.runner.old_queue_tracking import SwitchProgress
from feedbus.runner.run_state import Run
from feedbus.runner.subscriptions import Subscriptions
from feedbus.wire.amqp_protocols import RawConnection

events = EventLog(__name__)

RETRY_SECONDS = 0.1  # between two checks whether other consumers have stopped reading their queues


class QueuesToRead:
    """The queues that one run reads at the same time, on one connection.

    Usually, the runner creates one object after each connect. But for example with `block_on_dead`,
    the old queues are read before the own queue. Then the runner creates one object after the
    other, the last one for the own queue. The object is true while a queue is left to read.
    """

    def __init__(  # noqa: PLR0913 -- the parts of a run, each given by name
        self,
        run: Run,
        mode: Mode,
        subscriptions: Subscriptions,
        raw: RawConnection,
        *,
        queues: Sequence[ReadableQueue],
        consumer_queues: ConsumerQueues,
        progress: SwitchProgress | None,
    ) -> None:
        """Begin without subscriptions.

        Args:
            run: the run of the consumer.
            mode: handles the deliveries.
            subscriptions: the queues that are subscribed to.
            raw: the connection.
            queues: the queues to read.
            consumer_queues: knows the generations of the ring.
            progress: tracks the old queues; None if no old queue is read with the own queue.

        """
        self._run = run
        self._mode = mode
        self._subscriptions = subscriptions
        self._raw = raw
        self._fences = Fences(run, subscriptions)
        self._consumer_queues = consumer_queues
        self._progress = progress
        self._reads_old_queues = any(each.only_without_reader for each in queues)
        # Whether subscribe() was called since the start, or since deliveries were last returned.
        self._has_tried = False
        self._retry_at = run.clock.monotonic()  # when to try again to subscribe
        subscriptions.begin(queues, separate_generations=progress is not None)

    def __bool__(self) -> bool:
        """Whether a queue is left to read; an old queue is left until it is deleted.

        If the old queues are read before the own queue, an old queue that another consumer reads
        is not left to read here. When nothing is left, ConsumerQueues waits until the other
        consumer has deleted the old queue.
        """
        if self._subscriptions.readers:
            return True
        if not self._has_tried or self._progress is not None:
            return bool(self._subscriptions.unsubscribed)
        return not all(each.only_without_reader for each in self._subscriptions.unsubscribed)

    def subscribe(self) -> None:
        """Subscribe to the queues that no other consumer reads; called often."""
        self._has_tried = True
        subscriptions = self._subscriptions
        if subscriptions.unsubscribed and self._is_retry_due():
            subscriptions.subscribe(self._raw)
        self._run.set_standby(stands_by=bool(subscriptions.unsubscribed))

    def _is_retry_due(self) -> bool:
        """Whether it is time to check whether other consumers have stopped reading their queues.

        The result is True at most once in RETRY_SECONDS. But it is always True if this consumer
        reads no queue, and has no old queues to check. Then the run waits for `standby_seconds`
        between two calls.
        """
        now = self._run.clock.monotonic()
        reads_nothing = self._progress is None and not self._subscriptions.readers
        if now < self._retry_at and not reads_nothing:
            return False
        self._retry_at = now + RETRY_SECONDS
        return True

    def ring_has_changed(self) -> bool:
        """Whether there is a newer ring, so that the consumers must divide the queues again.

        The runner calls this often. After a change, it connects again.
        """
        waiting = self._run.waiting
        # A notice is a message in a waiting queue; it reports that the ring has changed.
        notice = None if waiting is None else waiting.take_notice()
        if notice is not None and self._consumer_queues.is_announced(self._raw, notice):
            return True
        return self._progress is not None and self._progress.must_restart(self._raw)

    def check_old_queues(self) -> None:
        """Check which old queues are deleted, and put a fence into each old queue without one.

        The records that waited for a deleted queue can then be handled. An old queue can have no
        fence, for example because it was full during the switch. The runner calls this often.
        """
        if self._progress is not None:
            self._progress.check(self._raw)
            if self._progress.is_over:
                self._progress.finish()
                self._progress = None
                self._reads_old_queues = False
        elif self._run.dispatch.calls.inbox.earlier_names:
            self._forget_earlier_names()
        self._fences.put_missing(self._raw)

    def _forget_earlier_names(self) -> None:
        """Search the inbox only under the present name of the queue, if no old record is left.

        If the table `[queues.NAME]` was renamed, the inbox can have the ids of messages of the old
        queues under the earlier name. Records that were moved from the waiting queues of old queues
        may still wait. Until they are handled, the inbox is searched under the earlier name, too.
        """
        if not self._reads_old_queues and not self._run.waiting:
            self._run.dispatch.calls.inbox.earlier_names = ()

    def end_queues(self) -> bool:
        """Delete old queues that are empty; stop reading queues whose subscription was cancelled.

        The runner calls this after each batch.

        Returns:
            True if the queues must be divided among the consumers again: the runner then connects
            again. Always False if this consumer reads no old queues together with its own queue:
            then it reads until no queue is left.

        """
        must_divide = self._fences.delete_empty_queues(self._raw, self._mode.has_unsettled_of)
        if self._subscriptions.cancelled:
            must_divide = True
            self._stop_reading_cancelled()
        return must_divide and self._progress is not None

    def _stop_reading_cancelled(self) -> None:
        """Stop reading queues whose subscription the broker has cancelled.

        If deliveries are being handled (only in the concurrent mode), they are finished first. Then
        all unsettled deliveries are returned to the broker, and all queues are read again.
        """
        mode, subscriptions = self._mode, self._subscriptions
        had_unsettled = mode.has_unsettled
        mode.on_cancel()
        tags = [*subscriptions.cancelled]
        subscriptions.cancelled.clear()
        for tag in tags:
            # Example: the broker cancels the subscription to a queue, and the one to its waiting
            # queue. Both add the tag of the queue to `cancelled`. At the second one, the tag has no
            # reader any more.
            subscriptions.leave_to_others(tag)
        if had_unsettled:
            # Records that run now may have come from the waiting queues. So these records are
            # finished before the waiting queues are closed.
            mode.finish_running()
        for tag in tags:
            subscriptions.close_waiting_queue(tag)
        if had_unsettled:
            self._return_deliveries("the broker has cancelled the subscription to a queue")

    def return_before_timeout(self) -> None:
        """Return deliveries to the broker, because its consumer timeout would expire.

        The runner calls this when the broker would soon close the channel. The running records are
        finished, and all other deliveries are returned to the broker. Then the consumer subscribes
        again to the queues that it has read.
        """
        timeout_seconds = self._run.timeout.seconds
        self._return_deliveries(
            f"the broker's consumer_timeout ({timeout_seconds:g} s) would expire"
        )

    def _return_deliveries(self, cause: str) -> None:
        """Finish the running records, and return all other deliveries to the broker.

        Then the consumer subscribes again to the queues that it has read.

        Args:
            cause: why the deliveries are returned, for the log; it follows the word "because".

        """
        name = self._run.consumer.name
        events.info(
            "prefetched_returned",
            f"{name} gives back to the broker the messages that no handler has begun, because"
            f" {cause}; they are delivered again",
            consumer=name,
        )
        self._mode.finish_running()
        self._subscriptions.return_deliveries()
        self._has_tried = False
