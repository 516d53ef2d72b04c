"""Track the old queues of a ring until all are deleted; records of newer queues wait for them.

Old queues belong to older generations of the ring. A generation is *drained* when all its queues
are deleted.
"""

from __future__ import annotations

import math

from feedbus import broker
from feedbus.generations.consumer_queues import ConsumerQueues
from feedbus.generations.predecessors import Predecessors
from feedbus.runner.run_state import Run
from feedbus.runner.waiting_limit import SwitchLimit
from feedbus.runner.waiting_queues import WaitingQueues
from feedbus.wire.amqp_protocols import RawConnection

CHECK_SECONDS = 0.05  # between two checks of the old queues for which records wait
CHECK_SHARE = 0.2  # the largest share of the consumer's time that these checks may take
SLOW_CHECK_SECONDS = 0.5  # between two checks of the other old queues
# Each consumer of a ring tries to remove the drained generations from the ring's state. Each begins
# this time later than the previous consumer of the ring, so that they do not all try at once.
APART_SECONDS = 0.2
STATE_SECONDS = 1.0  # between two checks of the ring's state


class SwitchProgress:
    """Tracks the old queues of a ring until all are deleted.

    A record of a newer queue waits in the waiting queue, another queue on the broker, until the old
    queues of its key are deleted. Before an old queue is deleted, its waiting records are handled,
    or moved to the waiting queues of the current ring. When this consumer has found that the old
    queue is deleted, the consumer publishes a probe, a message with a random id, to each waiting
    queue that it reads. When all probes have returned, the moved records have arrived, too. Only
    then are the records of the key handled, the moved ones first.

    The runner creates one SwitchProgress object for each connection, if the consumer reads old
    queues together with its own queue. The object is used until all old queues are deleted, and
    their generations are removed from the state of the ring.
    """

    def __init__(
        self,
        run: Run,
        consumer_queues: ConsumerQueues,
        waiting: WaitingQueues,
        predecessors: Predecessors,
    ) -> None:
        """Track the old queues of a run.

        Args:
            run: the run of the consumer.
            consumer_queues: knows the state of the ring.
            waiting: the waiting queues of the run.
            predecessors: the old queues that exist. When a queue was deleted, SwitchProgress
                removes the queue from this argument.

        """
        self._run = run
        self._consumer_queues = consumer_queues
        self._waiting = waiting
        self._predecessors = predecessors
        self._deleted_queues: list[str] = []  # deleted queues, until the probes have returned
        self._limit = SwitchLimit(run.consumer)
        self._is_over = False  # whether the drained generations are removed from the ring's state
        now = run.clock.monotonic()
        self._check_at = self._slow_check_at = now
        self._forget_at: float | None = None  # when to remove drained generations
        self._state_at = now + STATE_SECONDS  # when to check the ring's state

    @classmethod
    def begin(
        cls, run: Run, consumer_queues: ConsumerQueues, raw: RawConnection
    ) -> SwitchProgress | None:
        """Begin to track the old queues of a ring; from now on, records wait for these queues.

        The runner calls this after each connect.

        Args:
            run: the run of the consumer.
            consumer_queues: knows the state of the ring.
            raw: the new connection.

        Returns:
            The object, or None if the consumer reads no old queues together with its own queue.

        """
        if run.waiting is None:
            return None
        # A notice reports that the ring has changed. A notice from before this connection is
        # ignored, because the state of the ring was read after it.
        run.waiting.take_notice()
        predecessors = consumer_queues.predecessors(raw)
        run.waiting.set_predecessors(predecessors)
        return (
            None if predecessors is None else cls(run, consumer_queues, run.waiting, predecessors)
        )

    def finish(self) -> None:
        """Stop tracking old queues: from now on, no record waits for an old queue.

        If too many records waited, the buffer returned only deliveries of the oldest generation. It
        now returns the deliveries of all queues again. QueuesToRead calls this when is_over is
        true.
        """
        self._waiting.set_predecessors(None)
        self._run.check_seconds = math.inf
        self._run.buffer.exclude_generations_after(None)

    @property
    def is_over(self) -> bool:
        """Whether all old queues are deleted, and the state of the ring has no old generation.

        Then finish() must be called.
        """
        return self._is_over

    def must_restart(self, raw: RawConnection) -> bool:
        """Whether the ring has changed again, so that consumers must divide its old queues again.

        The runner calls this often. If the result is True, the runner connects again.

        Args:
            raw: the connection of the consumer.

        """
        now = self._run.clock.monotonic()
        if now < self._state_at:
            return False
        self._state_at = now + STATE_SECONDS
        return self._consumer_queues.has_switched(raw)

    def check(self, raw: RawConnection) -> None:
        """Check which old queues are deleted, if the next check is due; called often.

        Records that wait for a deleted queue are released. While too many records wait for old
        queues, the buffer returns only deliveries of the oldest generation.

        Args:
            raw: the connection of the consumer.

        """
        limit_reached = self._limit.check(self._waiting.count_behind_old_queues)
        self._run.buffer.exclude_generations_after(
            self._predecessors.oldest_generation_number if limit_reached else None
        )
        self._run.check_seconds = self._seconds_until_check
        now = self._run.clock.monotonic()
        if self._deleted_queues:
            if self._waiting.check_probes():
                self._predecessors.forget_deleted(self._deleted_queues)
                self._waiting.release_records(self._deleted_queues)
                self._deleted_queues = []
        elif now >= self._check_at:
            self._find_deleted(raw)
            seconds = self._run.clock.monotonic() - now
            self._check_at = now + max(CHECK_SECONDS, seconds / CHECK_SHARE)
        if not self._predecessors.queues:
            self._forget_drained(raw, now)

    def _forget_drained(self, raw: RawConnection, now: float) -> None:
        """Remove the generations without queues from the ring's state, after a short wait.

        Each consumer of the ring tries this, but not all at the same time: the length of the wait
        depends on the index of the consumer's shard.
        """
        if self._forget_at is None:
            self._forget_at = now + self._consumer_queues.index * APART_SECONDS
        if now >= self._forget_at:
            self._is_over = self._consumer_queues.forget_drained(raw)
            self._forget_at = now + SLOW_CHECK_SECONDS

    @property
    def _seconds_until_check(self) -> float:
        """Return in how many seconds check() must be called."""
        return (
            CHECK_SECONDS
            if self._deleted_queues or self._waiting.awaited_queues
            else SLOW_CHECK_SECONDS
        )

    def _find_deleted(self, raw: RawConnection) -> None:
        """Find old queues that were deleted; if there are any, put a probe into each waiting queue.

        When the probes have returned, the records that were moved from the deleted queues have
        arrived, too. The old queues that records wait for are checked each time, the others less
        often.
        """
        now = self._run.clock.monotonic()
        awaited_queues = sorted(self._waiting.awaited_queues)
        deleted = [each for each in awaited_queues if not broker.queue_exists(raw, each)]
        if now >= self._slow_check_at:
            self._slow_check_at = now + SLOW_CHECK_SECONDS
            deleted += self._find_others(raw, {*awaited_queues}, {*deleted})
        if deleted:
            self._waiting.put_probes()
            self._deleted_queues = deleted

    def _find_others(self, raw: RawConnection, awaited: set[str], deleted: set[str]) -> list[str]:
        """Return deleted queues for which no record waits, from the oldest generation on.

        Usually the search ends at the first of these queues that still exists. But while too many
        records wait for old queues, the consumer handles only the deliveries of the oldest
        generation, and must notice when the last queue of this generation is deleted. So in that
        case, all queues of the oldest generation are checked.

        Args:
            raw: the connection.
            awaited: the queues that records wait for.
            deleted: the awaited queues that were deleted.

        """
        others: list[str] = []
        for queues in self._predecessors.by_generation():
            queue_remains = False
            for queue in queues:
                if queue in awaited:
                    queue_remains |= queue not in deleted
                elif not broker.queue_exists(raw, queue):
                    others.append(queue)
                elif self._limit.reached:
                    queue_remains = True
                else:
                    return others
            if queue_remains:
                break
        return others
