"""Small deliveries that are handled before large ones that came earlier.

A shard that has many large packs of one fan-out handles them for seconds. A small delivery behind
them does not have to wait: it is handled first if no earlier delivery has a record of one of its
keys. So the records of each key stay in order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import islice

from feedbus.dispatch.queue_order import Order
from feedbus.errors import InvalidBody
from feedbus.records.packs import decode
from feedbus.runner.buffer import Buffer
from feedbus.topology import Queue
from feedbus.wire import Delivery
from feedbus.wire.constants import FENCE, PACK

SMALL_DIVISOR = 20  # a delivery is small if it has at most 1/20 of the records of a batch
MAX_SCANNED = 200  # the largest number of deliveries whose keys are compared

Keys = frozenset[Hashable]


class SmallDeliveries:
    """Chooses small deliveries that are handled before larger ones of other keys."""

    def __init__(self, queue: Queue) -> None:
        """Create the object for the order of a queue."""
        self._order = Order.of(queue)
        self._max_records = queue.batch.size
        self._max_small_records = max(queue.batch.size // SMALL_DIVISOR, 1)
        # The keys of deliveries that the latest call has compared and not chosen.
        self._known_keys: dict[tuple[str, int, str], Keys] = {}
        self._has_overtaken = False  # whether the latest take_first() has returned deliveries

    @classmethod
    def of(cls, queue: Queue) -> SmallDeliveries | None:
        """Return the object for a queue, or None if the queue has no `order_by`."""
        return cls(queue) if queue.order_by else None

    def take_first(
        self, buffer: Buffer, max_deliveries: float, is_suspected: Callable[[str], bool]
    ) -> list[Delivery]:
        """Take the small deliveries that are handled before the first delivery of the buffer.

        The result is empty if all deliveries fit into one batch. It is also empty directly after a
        call that returned deliveries, so that the large deliveries are handled, too.

        Args:
            buffer: the deliveries that wait.
            max_deliveries: the largest number of deliveries.
            is_suspected: called with a message id; returns whether this message may have ended a
                process, so that it must be handled alone.

        """

        def choose(deliveries: Sequence[Delivery], records: int) -> Sequence[int]:
            if (
                records <= self._max_records
                or deliveries[0].record_count <= self._max_small_records
            ):
                return ()
            return self.find_independent((), deliveries, is_suspected)

        picked = [] if self._has_overtaken else buffer.pick(choose, max_deliveries)
        self._has_overtaken = bool(picked)
        return picked

    def take_independent(
        self,
        keys_in_handlers: Sequence[Keys],
        buffer: Buffer,
        max_deliveries: float,
        is_suspected: Callable[[str], bool],
    ) -> list[Delivery]:
        """Take small deliveries that may be handled while records with these keys are handled.

        Args:
            keys_in_handlers: the keys of the records that are being handled.
            buffer: see take_first().
            max_deliveries: see take_first().
            is_suspected: see take_first().

        """
        return buffer.pick(
            lambda deliveries, _records: self.find_independent(
                keys_in_handlers, deliveries, is_suspected
            ),
            max_deliveries,
        )

    def find_independent(
        self,
        keys_in_handlers: Iterable[Keys],
        deliveries: Iterable[Delivery],
        is_suspected: Callable[[str], bool],
    ) -> list[int]:
        """Return the positions of small deliveries that may be handled now; at most a batch.

        No key of these deliveries is the key of a record that is being handled, or of an earlier
        delivery that waits.

        Args:
            keys_in_handlers: the keys of the records that are being handled.
            deliveries: the waiting deliveries, in the order of their arrival.
            is_suspected: see take_first().

        """
        scanned = list(islice(deliveries, MAX_SCANNED))
        if all(each.record_count > self._max_small_records for each in scanned):
            return []
        known_keys, self._known_keys = self._known_keys, {}
        earlier_keys = list(keys_in_handlers)
        chosen: list[int] = []
        records = 0
        for position, delivery in enumerate(scanned):
            if (
                FENCE in delivery.headers
                or delivery.undecodable
                or is_suspected(delivery.message_id)
            ):
                break
            name = delivery.consumer_tag, delivery.tag, delivery.message_id
            try:
                keys = known_keys.get(name) or self._keys_of(delivery)
            except InvalidBody:
                break  # the keys of this delivery are not known
            is_small = delivery.record_count <= self._max_small_records
            if is_small and records < self._max_records and all(map(keys.isdisjoint, earlier_keys)):
                chosen.append(position)
                records += delivery.record_count
            else:
                self._known_keys[name] = keys
                earlier_keys.append(keys)
        return chosen

    def keys(self, deliveries: Iterable[Delivery]) -> Keys | None:
        """Return the keys of deliveries, or None if one of them cannot be read."""
        try:
            return frozenset().union(*map(self._keys_of, deliveries))
        except InvalidBody:
            return None

    def _keys_of(self, delivery: Delivery) -> Keys:
        if self._order.by_routing_key and delivery.content_type != PACK:
            return frozenset([delivery.original_key])
        pack = decode(
            delivery.body,
            delivery.content_type,
            delivery.message_id,
            delivery.original_key,
            delivery.properties.get("content_encoding"),
        )
        if self._order.by_routing_key:
            return frozenset(pack.keys)
        try:
            return frozenset(self._order.key(delivery, pack, row) for row in range(len(pack)))
        except (LookupError, TypeError) as error:  # no such field, or not a key
            raise InvalidBody({"": [str(error)]}) from error
