"""Groups: single records are handled one after the other, and settled together."""

from __future__ import annotations

from feedbus.bus.sender import Sender
from feedbus.errors import Outage
from feedbus.runner.batch_mode import BatchMode
from feedbus.runner.group import Group
from feedbus.runner.run_state import Run
from feedbus.runner.subscriptions import Subscriptions
from feedbus.wire.amqp_protocols import RawConnection


class GroupMode(BatchMode):
    """A mode of the runner for queues without transactions: messages are settled in groups."""

    def __init__(self, run: Run, subscriptions: Subscriptions, sender: Sender) -> None:
        """Create the mode for the deliveries of a run; the sender sends the handler's messages."""
        super().__init__(run, subscriptions)
        self._group = Group(
            run.dispatch,
            sender,
            buffer=run.buffer,
            crash_guard=run.crash_guard,
            heartbeats=run.heartbeats,
            prefetch=run.consumer.queue.prefetch,
            seconds=run.handler_seconds,
            clock=run.clock,
        )

    def forget(self) -> None:
        """Forget all unsettled deliveries: the broker delivers them again."""
        self._group.forget()

    def _handle(self, raw: RawConnection) -> bool:
        """Handle a group of single records; return False if it must go back to the broker."""
        run = self._run
        if run.crash_guard.is_suspected(run.buffer.next_delivery.message_id):
            return super()._handle(raw)
        arrived_at = run.buffer.oldest_at
        while (error := self._finish(raw)) is not None:
            if not self._hold(raw, error):
                return True
            if run.timeout.would_expire(arrived_at):
                self._group.forget()
                return False
        return True

    def _finish(self, raw: RawConnection) -> Outage | None:
        """Handle a group and settle it; return the outage, if there was one."""
        run, group = self._run, self._group
        started = run.clock.monotonic()
        outage = None
        if not group:  # otherwise the outage was at the end of the group
            if not run.resources.ready:  # a resource has ended by itself
                with run.heartbeats.while_working():
                    run.resources.open()
            outage = group.handle(
                raw.take_arrived,
                lambda: run.stop_requested.is_set() or bool(self._subscriptions.cancelled),
                run.limits.remaining_messages,
            )
        try:
            deliveries = group.finish()
        except Outage as error:
            return error
        if deliveries:
            self._finish_batch(raw, deliveries, run.clock.monotonic() - started, group.load)
        return outage
