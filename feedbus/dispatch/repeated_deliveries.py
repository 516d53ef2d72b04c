"""Distinguish new messages from repeated deliveries, if they have no message ids.

Only other programs publish messages without ids, because a bus always sets an id. feedbus derives
an id from the content of such a message. So equal messages have the same derived id. On a queue
with `once = true`, feedbus skips a message whose id is in the inbox, the table with the ids of
handled messages. So feedbus would also skip a new message that equals a handled message. To prevent
that, this module checks each message without an id. If a message with the same derived id was
handled before, or is being handled, there are two cases:

- The message does not have the flag `redelivered`, which the broker sets. Then it is certainly new,
  and gets another id.
- The message has the flag. Then it can be new or repeated. If its id is in the inbox, feedbus
  treats the message as repeated, and logs and counts it. Otherwise the message gets another id.

If a new message fails, the id of its retry or dead letter gets a unique part. The reason: an outage
can make feedbus send the retry twice. Both copies then have the same unique id, and the second copy
is recognised as repeated. With `order_by`, the id of the retry gets no unique part, because a
waiting record is recognised by its position, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from feedbus.dispatch.queue_inbox import QueueInbox
from feedbus.logs import EventLog
from feedbus.metrics import ConsumerMetrics
from feedbus.wire import Delivery
from feedbus.wire.derived_ids import has_unique_part, with_unique_part

events = EventLog(__name__)


class RepeatedDeliveries:
    """Distinguishes equal messages of one queue from repeated deliveries, as far as possible.

    The class is used for messages without ids on queues with `once = true`: feedbus derives their
    ids from the content. The dispatch of a consumer has one RepeatedDeliveries object.
    """

    def __init__(
        self,
        queue: str,
        inbox: QueueInbox,
        metrics: ConsumerMetrics,
        unique_digits: Callable[[], str],
        *,
        in_order: bool,
    ) -> None:
        """Create the object for the inbox of a queue.

        Args:
            queue: the name of the queue.
            inbox: the ids that the queue has handled.
            metrics: counts the messages that are treated as repeated deliveries.
            unique_digits: returns a text of digits that is different at each call.
            in_order: whether the queue has `order_by`.

        """
        self._in_order = in_order
        self._unique_digits = unique_digits
        self._queue = queue
        self._inbox = inbox
        self._metrics = metrics
        # The deliveries of the latest call, each with its result. After an outage, the same
        # deliveries are handled again, and must get the same ids.
        self._latest: list[tuple[Delivery, Delivery]] = []

    def with_distinct_ids(
        self, deliveries: Sequence[Delivery], running: Collection[str] = ()
    ) -> Sequence[Delivery]:
        """Return the deliveries; a new message gets another id if an earlier message has its id.

        If the same deliveries are handled again after an outage, the result is the same.

        The dispatch calls this before it decodes the deliveries.

        Args:
            deliveries: the deliveries in the order of their arrival.
            running: the ids of messages that are being handled. These ids are not in the inbox yet.

        """
        if all(delivery.identified for delivery in deliveries):
            return deliveries
        results = {id(given): distinct for given, distinct in self._latest}
        derived_ids = [delivery.message_id for delivery in deliveries if not delivery.identified]
        handled_ids = self._inbox.seen(derived_ids)
        unsettled_ids = set(running)
        distinct = [
            results.get(id(delivery))
            or self._with_distinct_id(delivery, handled_ids, unsettled_ids)
            for delivery in deliveries
        ]
        self._latest = list(zip(deliveries, distinct, strict=True))
        return distinct

    def _with_distinct_id(
        self, delivery: Delivery, handled_ids: set[str], unsettled_ids: set[str]
    ) -> Delivery:
        if delivery.identified or has_unique_part(delivery.message_id):
            return delivery
        unique_id = with_unique_part(delivery.message_id, self._unique_digits())
        if delivery.message_id not in handled_ids | unsettled_ids:
            unsettled_ids.add(delivery.message_id)
            return delivery if self._in_order else replace(delivery, retry_id=unique_id)
        if delivery.redelivered and delivery.message_id in handled_ids:
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
        return replace(delivery, message_id=unique_id)
