"""A group: deliveries that are handled one after the other, and then acknowledged together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from feedbus.bus.sender import Sender
from feedbus.clock import Clock
from feedbus.dispatch import Dispatch
from feedbus.dispatch.single_calls import SingleCalls
from feedbus.errors import Outage
from feedbus.runner.amqp_heartbeats import Heartbeats
from feedbus.runner.connection_loss_causes import NO_CALL, ReturnedCall
from feedbus.runner.crash_guard import CrashGuard
from feedbus.wire import Delivery

# The longest time of a group. So the deliveries of a slow handler are settled one by one.
GROUP_SECONDS = 0.02
CHECK_SECONDS = 0.005  # the time between two checks of the connection


class Arrived(Protocol):
    """Deliveries from which groups are taken: a Buffer, or TakenDeliveries.

    Group.handle() removes the deliveries that it handles.
    """

    def __len__(self) -> int:
        """Count the deliveries."""

    @property
    def next_delivery(self) -> Delivery:
        """The next delivery; it is not removed."""

    @property
    def next_is_fence(self) -> bool:
        """Whether the next delivery is marked as a fence, so that it cannot be part of a group."""

    def pop(self) -> Delivery:
        """Remove and return the next delivery."""


class TakenDeliveries:
    """Deliveries of waiting queues that were taken to be handled; none is a fence.

    The group mode creates one TakenDeliveries object each time that it takes records out of waiting
    queues.

    Attributes:
        remaining: the deliveries that are not part of a group yet, in order.

    """

    next_is_fence = False

    def __init__(self, deliveries: Iterable[Delivery]) -> None:
        """Start with these deliveries."""
        self.remaining = deque(deliveries)

    def __len__(self) -> int:
        """Count the deliveries."""
        return len(self.remaining)

    @property
    def next_delivery(self) -> Delivery:
        """The first of the remaining deliveries; it is not removed."""
        return self.remaining[0]

    def pop(self) -> Delivery:
        """Remove and return the first of the remaining deliveries."""
        return self.remaining.popleft()


class Group:
    """Deliveries that were handled one after the other, and are acknowledged together.

    The crash guard's file names the message that is in the handler, so a crash is counted only
    against this message. While finish() sends the messages of the calls, the file names all
    messages of the group. A crash at that time is counted against none of several messages.

    The group mode has one Group object for its whole run. The object is empty again after each
    finish() or forget().
    """

    def __init__(  # noqa: PLR0913 -- a group's parts, each given by name
        self,
        dispatch: Dispatch,
        sender: Sender,
        *,
        crash_guard: CrashGuard,
        heartbeats: Heartbeats,
        prefetch: int,
        seconds: float,
        clock: Clock,
    ) -> None:
        """Create a group without deliveries.

        A group gets at most half of the prefetch, so that other messages can arrive during its
        calls.

        Args:
            dispatch: calls the handler.
            sender: sends the messages of the calls.
            crash_guard: its file contains the messages in the handler.
            heartbeats: sends heartbeats while the handler runs.
            prefetch: the largest number of unacknowledged deliveries.
            seconds: the time limit of the handler for a record.
            clock: determines when groups end.

        """
        self._calls = SingleCalls(
            dispatch, sender, lambda each: crash_guard.set_messages((each,), seconds)
        )
        self._clock = clock
        self._crash_guard = crash_guard
        self._heartbeats = heartbeats
        self._seconds = seconds
        self.max_deliveries = max(prefetch // 2, 1)
        # After an outage, the call for this delivery is repeated.
        self._delivery_in_call: Delivery | None = None
        # The call after which the group was complete. A slow call is always the last one of its
        # group.
        self.latest_call = NO_CALL

    def __len__(self) -> int:
        """Count the deliveries."""
        return len(self._calls)

    def handle(
        self,
        arrived: Arrived,
        check_connection: Callable[[], None],
        is_stopped: Callable[[], bool],
        max_deliveries: float,
    ) -> Outage | None:
        """Call the handler with arrived deliveries until the group is complete.

        The group is also complete if the next delivery has not arrived, or cannot be part of it.

        Args:
            arrived: the deliveries, at least one. Those of the group are removed.
            check_connection: reads the data that has arrived; raises an exception if the connection
                is lost: the broker then delivers the messages again.
            is_stopped: returns whether no further call may begin.
            max_deliveries: the largest number of deliveries, at least one.

        Returns:
            The outage that the handler raised, or None. After an outage, the next call of this
            method begins with the same delivery.

        """
        ends_at = self._clock.monotonic() + GROUP_SECONDS
        max_deliveries = min(max_deliveries, self.max_deliveries)
        complete = False
        while not complete:
            try:
                with self._heartbeats.while_working():
                    message_id, seconds = self._handle_some(
                        arrived, ends_at, is_stopped, max_deliveries
                    )
            except Outage as error:
                self._crash_guard.release()  # a kill during the hold is counted against no message
                self.latest_call = NO_CALL
                return error
            self.latest_call = ReturnedCall(seconds, self._heartbeats.missed_seconds, (message_id,))
            complete = self._is_complete(seconds, ends_at, max_deliveries)
            if not complete:
                try:
                    check_connection()
                except Exception:
                    self._crash_guard.release()  # a later crash is counted against no message
                    raise
                complete = is_stopped() or not self._can_continue(arrived)
        return None

    def _handle_some(
        self,
        arrived: Arrived,
        ends_at: float,
        is_stopped: Callable[[], bool],
        max_deliveries: float,
    ) -> tuple[str, float]:
        """Handle deliveries until the connection must be checked, or the group is complete.

        Args:
            arrived: the deliveries, at least one.
            ends_at: when the group is complete at the latest, as a time of the monotonic clock.
            is_stopped: returns whether no further call may begin.
            max_deliveries: the largest number of deliveries in the group.

        Returns:
            The message id of the last delivery, and the duration of its call in seconds.

        """
        calls = self._calls
        now = self._clock.monotonic()
        check_at = now + CHECK_SECONDS
        while True:
            before = now
            latest = self._delivery_in_call = self._delivery_in_call or arrived.pop()
            calls.call(latest)
            self._delivery_in_call = None
            now = self._clock.monotonic()
            if (
                now > check_at
                or self._is_complete(now - before, ends_at, max_deliveries)
                or is_stopped()
                or not self._can_continue(arrived)
            ):
                return latest.message_id, now - before

    def _is_complete(self, seconds: float, ends_at: float, max_deliveries: float) -> bool:
        """Whether the group is complete, after a delivery whose call took `seconds`.

        The group is complete in three cases: one more call of this duration would end after
        `ends_at`; the group has `max_deliveries`; or SingleCalls.is_full is true, for example
        because the handler has published very many messages, which must be sent now.
        """
        calls = self._calls
        return (
            self._clock.monotonic() + seconds > ends_at
            or len(calls) >= max_deliveries
            or calls.is_full
        )

    def _can_continue(self, arrived: Arrived) -> bool:
        """Whether the next delivery has arrived and can be part of the group."""
        return (
            bool(arrived)
            and not arrived.next_is_fence
            and not self._crash_guard.is_suspected(arrived.next_delivery.message_id)
        )

    def finish(self) -> list[Delivery]:
        """Publish the messages of all handled records, and return the deliveries to acknowledge.

        The group is then empty. The caller acknowledges the deliveries.

        Raises:
            Outage: the broker is unavailable, or the dead handler raised Outage. The dead handler
                is a function of the project that is called with each new dead letter. The caller
                may call finish() again.

        """
        if not self._calls:
            return []
        self._crash_guard.set_messages(self._calls.message_ids, self._seconds)
        with self._heartbeats.while_working():
            return self._calls.finish()

    def forget(self) -> None:
        """Forget all unsettled deliveries, when they are returned or the connection ends.

        The broker delivers them again.
        """
        self._delivery_in_call = None
        self._calls.forget()
