"""Handle deliveries of other keys while a handler publishes very many messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from feedbus.errors import Outage
from feedbus.runner.run_state import Run
from feedbus.runner.small_deliveries import Keys, SmallDeliveries
from feedbus.wire import Delivery
from feedbus.wire.amqp_protocols import RawConnection

MAX_CALLS = 8  # the largest number of nested handler calls


@dataclass(eq=False)
class _Call:
    """A call of the handler that has not returned.

    Attributes:
        raw: the connection of its deliveries.
        deliveries: the deliveries that it handles.
        small_deliveries: returns the keys of deliveries.
        may_pause: whether other deliveries may still be handled within the call.
        error: the error that is raised when the call has returned.

    """

    raw: RawConnection
    deliveries: Sequence[Delivery]
    small_deliveries: SmallDeliveries
    may_pause: bool = True
    error: Exception | None = None

    @cached_property
    def keys(self) -> Keys | None:
        """The keys of the records in these deliveries; None if a delivery cannot be decoded."""
        return self.small_deliveries.keys(self.deliveries)


class PublishingPauses:
    """The pauses of a handler on a queue with `stream` and `order_by`.

    While the handler runs, its messages are sent in slices of some thousands. After each slice, the
    running call pauses: the handler is called for small deliveries, those with few records, that
    have arrived. The keys of these deliveries differ from the keys of all records that are being
    handled. So the records of each key stay in order. A call in a pause can pause, too. A run has
    one PublishingPauses object.
    """

    def __init__(
        self,
        run: Run,
        small_deliveries: SmallDeliveries,
        cancelled: Callable[[], bool],
        handle: Callable[[RawConnection, Sequence[Delivery], Sequence[str]], None],
    ) -> None:
        """Create the object for a run.

        Args:
            run: the run, which has the buffer of deliveries.
            small_deliveries: chooses the deliveries.
            cancelled: returns whether the broker has cancelled a subscription.
            handle: handles deliveries in a block of allow(), and settles them after the block. It
                is called with the connection, the deliveries, and the ids of all messages in the
                handler.

        """
        self._run = run
        self._small_deliveries = small_deliveries
        self._cancelled = cancelled
        self._handle = handle
        self._calls: list[_Call] = []
        self._thread = 0

    @property
    def paused_tags(self) -> set[str]:
        """The consumer tags of the deliveries that are in a handler, running or paused.

        Other deliveries of these subscriptions are acknowledged one by one, because an earlier
        delivery is not handled yet.
        """
        return {each.consumer_tag for call in self._calls for each in call.deliveries}

    @contextmanager
    def allow(self, raw: RawConnection, deliveries: Sequence[Delivery]) -> Iterator[None]:
        """Let pause() handle other deliveries during a `with` block that calls the handler.

        The batch mode uses it around each call of the handler.

        Args:
            raw: the connection of the deliveries.
            deliveries: the deliveries with which the block calls the handler.

        Raises:
            Exception: the connection was lost in a pause, or the waiting records must be read
                again. Then no delivery may be settled.

        """
        call = _Call(raw, deliveries, self._small_deliveries)
        self._thread = threading.get_ident()
        self._calls.append(call)
        try:
            yield
        finally:
            self._calls.pop()
        if call.error is not None:
            self._run.crash_guard.release()  # no message is the cause
            raise call.error

    def pause(self) -> None:
        """Handle small deliveries in a pause; the dispatch calls this method after each slice.

        An error does not end the paused call: allow() raises the error after the call.
        """
        if not self._can_pause():
            return
        run, call = self._run, self._calls[-1]
        # While a handler runs, a second thread sends heartbeats. Two threads must not use the
        # connection at the same time. So the second thread stops while this method receives and
        # settles deliveries; it continues during each call of a handler.
        with run.heartbeats.paused(), run.crash_guard.nested() as message_ids:
            if any(map(run.crash_guard.is_suspected, message_ids)):
                call.may_pause = False  # a suspected message must be handled alone
                return
            try:
                run.receive(call.raw, 0.0)
                self._handle_some(call, message_ids)
            except Exception as error:  # noqa: BLE001 -- the paused handler must not get it
                call.may_pause, call.error = False, error

    def _can_pause(self) -> bool:
        """Whether the latest call may pause now."""
        run, calls = self._run, self._calls
        return (
            0 < len(calls) < MAX_CALLS
            and calls[-1].may_pause
            # Only the consumer's thread may use the connection.
            and threading.get_ident() == self._thread
            and not self._cancelled()
            and not run.must_read_again
            and not run.has_reached_waiting_limit()
            and run.must_continue(has_unsettled=True)
        )

    def _handle_some(self, call: _Call, message_ids: Sequence[str]) -> None:
        """Handle a batch in a pause of a call.

        Args:
            call: the latest call, which pauses.
            message_ids: the ids of the messages of all paused calls.

        """
        run = self._run
        if not run.buffer:
            return
        run.buffer.next_lane()
        keys_in_handlers = [keys for each in self._calls if (keys := each.keys) is not None]
        if len(keys_in_handlers) < len(self._calls):  # the keys of a paused call are not known
            call.may_pause = False
            return
        max_deliveries = run.limits.remaining_messages - sum(
            len(each.deliveries) for each in self._calls
        )
        arrived_at = run.buffer.oldest_at
        deliveries = self._small_deliveries.take_independent(
            keys_in_handlers, run.buffer, max_deliveries, run.crash_guard.is_suspected
        )
        if not deliveries:
            return
        ids = [*message_ids, *(delivery.message_id for delivery in deliveries)]
        try:
            self._handle(call.raw, deliveries, ids)
        except Outage:
            if run.must_read_again:
                raise
            # These deliveries are handled again later. If the outage still lasts then, the consumer
            # holds.
            run.buffer.put_back(deliveries, arrived_at)
            call.may_pause = False
