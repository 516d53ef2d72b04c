"""Distinguish new messages from repeated deliveries, if the messages have no ids.

On a queue with `once`, feedbus derives an id from the content of such a message. So equal messages
have the same derived id, whether they are new or repeated. A message without the flag `redelivered`
is certainly new. So it gets another id if its derived id is in use. A message with the flag can be
new or repeated. feedbus treats it as repeated, and logs and counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from feedbus.logs import EventLog
from feedbus.metrics import ConsumerMetrics
from feedbus.store import Inbox
from feedbus.wire import Delivery

events = EventLog(__name__)


class MessagesWithoutIds:
    """Distinguishes equal messages of one queue from repeated deliveries, as far as possible."""

    def __init__(
        self, queue: str, inbox: Inbox, metrics: ConsumerMetrics, unique: Callable[[], str]
    ) -> None:
        """Create the object for the inbox of a queue.

        Args:
            queue: the queue.
            inbox: the inbox of its store.
            metrics: counts the messages that are treated as repeated deliveries.
            unique: returns digits that no other id has.

        """
        self._unique = unique
        self._queue = queue
        self._inbox = inbox
        self._metrics = metrics
        # The deliveries of the latest call, each with its result.
        self._decided: list[tuple[Delivery, Delivery]] = []

    def with_distinct_ids(
        self, deliveries: Sequence[Delivery], running: Collection[str] = ()
    ) -> Sequence[Delivery]:
        """Return the deliveries; a delivery that equals an earlier message gets another id.

        The ids of the earlier messages are in the inbox, or in `running` if they are being handled.
        If the same deliveries are handled again after an outage, the result is the same.
        """
        if all(delivery.identified for delivery in deliveries):
            return deliveries
        known = {id(given): decided for given, decided in self._decided}
        unidentified = [one.message_id for one in deliveries if not one.identified]
        handled = set(self._inbox.seen(self._queue, unidentified))
        here = set(running)
        decided = [known.get(id(one)) or self._decide(one, handled, here) for one in deliveries]
        self._decided = list(zip(deliveries, decided, strict=True))
        return decided

    def _decide(self, delivery: Delivery, handled: set[str], here: set[str]) -> Delivery:
        if delivery.identified:
            return delivery
        if delivery.message_id not in handled | here:
            here.add(delivery.message_id)
            return delivery
        if delivery.redelivered and delivery.message_id in handled:
            self._metrics.taken_for_repeats()
            events.warning(
                "repeat_skipped",
                "a redelivered message without a message id was skipped, because an equal message"
                " was handled before; set a message id when you publish, so that feedbus can"
                " distinguish equal messages",
                queue=self._queue,
                message_id=delivery.message_id,
            )
            return delivery
        return replace(delivery, message_id=f"{delivery.message_id}.{self._unique()[:16]}")
