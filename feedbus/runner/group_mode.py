"""The group mode: deliveries are handled one after the other, and then acknowledged together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from feedbus.bus.sender import Sender
from feedbus.errors import Outage
from feedbus.runner.batch_mode import BatchMode
from feedbus.runner.group import Arrived, Group, TakenDeliveries
from feedbus.runner.run_state import Run
from feedbus.runner.subscriptions import Subscriptions
from feedbus.wire import Delivery
from feedbus.wire.amqp_protocols import RawConnection


class GroupMode(BatchMode):
    """A mode of the runner for queues without transactions: messages are acknowledged in groups.

    A group has the messages that are handled in about 20 ms. A process whose queue has this mode
    creates one GroupMode object for its whole run.
    """

    def __init__(self, run: Run, subscriptions: Subscriptions, sender: Sender) -> None:
        """Create the mode for the deliveries of a run; the sender sends the handler's messages."""
        super().__init__(run, subscriptions)
        self._group = Group(
            run.dispatch,
            sender,
            crash_guard=run.crash_guard,
            heartbeats=run.heartbeats,
            prefetch=run.consumer.queue.prefetch,
            seconds=run.handler_seconds,
            clock=run.clock,
        )

    def forget(self) -> None:
        """Forget all unsettled deliveries, when the connection ends.

        The broker delivers them again.
        """
        self._group.forget()

    @property
    def _max_waiting_records(self) -> int:
        return self._group.max_deliveries

    def _handle_waiting(self, raw: RawConnection, deliveries: Sequence[Delivery]) -> bool:
        """Handle a group of these waiting records.

        If the group ends before all of them are handled, the other records wait again.

        Returns:
            False if all unsettled deliveries must be returned to the broker, because the broker's
            consumer timeout would expire.

        """
        if self._run.crash_guard.is_suspected(deliveries[0].message_id):
            return super()._handle_waiting(raw, deliveries)
        taken = TakenDeliveries(deliveries)
        in_time = self._handle_groups(raw, taken, self._run.clock.monotonic(), math.inf)
        if taken and self._run.waiting is not None:
            self._run.waiting.put_back(list(taken.remaining))
        return in_time

    def _handle(self, raw: RawConnection) -> bool:
        """Handle a group; return False if the consumer timeout would expire first.

        A message that may have ended a process is handled alone, as a batch.
        """
        run = self._run
        if run.crash_guard.is_suspected(run.buffer.next_delivery.message_id):
            return super()._handle(raw)
        return self._handle_groups(raw, run.buffer, run.buffer.oldest_at, self._new_records)

    def _handle_groups(
        self, raw: RawConnection, arrived: Arrived, arrived_at: float, max_deliveries: float
    ) -> bool:
        """Handle a group and settle it; during an outage, wait and try again.

        Args:
            raw: the connection of the deliveries.
            arrived: the deliveries, at least one. Those of the group are removed.
            arrived_at: when the first of them arrived, as a time of the monotonic clock.
            max_deliveries: the largest number of deliveries.

        Returns:
            False if all unsettled deliveries must be returned to the broker, because the broker's
            consumer timeout would expire. True also if an outage lasts until the run must end.

        """
        while (error := self._handle_group(raw, arrived, max_deliveries)) is not None:
            if not self._hold(raw, error):
                return True  # the run ends, and the broker gets the deliveries back
            if self._run.timeout.would_expire(arrived_at):
                self._group.forget()
                return False
        return True

    def _handle_group(
        self, raw: RawConnection, arrived: Arrived, max_deliveries: float
    ) -> Outage | None:
        """Handle a group and settle it; return the outage, if there was one.

        After an outage, this method is called again. group.finish() publishes the messages of the
        handled deliveries. If the outage came from group.finish(), the deliveries are not handled
        again: only group.finish() is repeated.
        """
        run, group = self._run, self._group
        started = run.clock.monotonic()
        outage = None
        try:
            if not run.resources.ready:  # see Resources.open()
                with run.heartbeats.while_working():
                    run.resources.open()
            if not group:
                outage = group.handle(
                    arrived,
                    raw.take_arrived,
                    lambda: run.stop_requested.is_set() or bool(self._subscriptions.cancelled),
                    min(max_deliveries, run.limits.remaining_messages),
                )
            # After an outage in handle(), the deliveries that were handled before it are finished.
            deliveries = group.finish()
        except Outage as error:
            return error
        if deliveries:
            self._finish_batch(raw, deliveries, run.clock.monotonic() - started, group.latest_call)
        return outage
