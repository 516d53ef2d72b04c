"""Small deliveries that are handled before large ones that came earlier.

A handler can publish 100,000 records for one record. Then a shard gets many large packs, and needs
seconds to handle them. A small delivery, one with few records, can arrive behind these packs. It is
handled first, unless an earlier delivery has a record with one of its keys. So the records of each
key stay in order.
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

Keys = frozenset[Hashable]  # the keys of the records of one delivery, or of several


class SmallDeliveries:
    """Chooses small deliveries, with few records, to be handled before larger ones of other keys.

    Each batch mode has one SmallDeliveries object if the queue has `order_by`.
    """

    def __init__(self, queue: Queue) -> None:
        """Create the object for a queue, whose option `order_by` determines the keys."""
        self._order = Order.of(queue)
        self._max_records = queue.batch.size
        self._max_small_records = max(queue.batch.size // SMALL_DIVISOR, 1)
        # The keys of the deliveries that the latest find_independent() has compared and not chosen,
        # by consumer tag, delivery tag and message id. So the next call need not decode these
        # deliveries again.
        self._known_keys: dict[tuple[str, int, str], Keys] = {}
        self._has_overtaken = False  # whether the latest take_first() has returned deliveries

    @classmethod
    def of(cls, queue: Queue) -> SmallDeliveries | None:
        """Return the object for a queue, or None if the queue has no `order_by`.

        The batch mode calls this once.

        Args:
            queue: the queue as the topology declares it.

        """
        return cls(queue) if queue.order_by else None

    def take_first(
        self, buffer: Buffer, max_deliveries: float, is_suspected: Callable[[str], bool]
    ) -> list[Delivery]:
        """Take the small deliveries that are handled before the first delivery of the buffer.

        The result is empty if there are no such deliveries, and in these cases:

        - all deliveries of the buffer fit into one batch;
        - the first delivery of the buffer is small;
        - the previous call returned deliveries: the large deliveries must be handled, too.

        The batch mode calls this before each batch.

        Args:
            buffer: the deliveries that wait.
            max_deliveries: the largest number of deliveries to take.
            is_suspected: a function that gets a message id. It returns whether this message may
                have ended a process. Such a message must be handled alone.

        """

        def choose(deliveries: Sequence[Delivery], records: int) -> Sequence[int]:
            if (
                records <= self._max_records
                or deliveries[0].record_count <= self._max_small_records
            ):
                return ()
            return self.find_independent((), deliveries, is_suspected)

        deliveries = [] if self._has_overtaken else buffer.pick(choose, max_deliveries)
        self._has_overtaken = bool(deliveries)
        return deliveries

    def take_independent(
        self,
        keys_in_handlers: Sequence[Keys],
        buffer: Buffer,
        max_deliveries: float,
        is_suspected: Callable[[str], bool],
    ) -> list[Delivery]:
        """Take small deliveries that may be handled while records with these keys are handled.

        This method is called in the pauses of a handler that publishes very many messages.

        Args:
            keys_in_handlers: the keys of the records that are being handled.
            buffer: the deliveries that wait.
            max_deliveries: the largest number of deliveries to take.
            is_suspected: a function that gets a message id. It returns whether this message may
                have ended a process. Such a message must be handled alone.

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
        """Return the indexes of the small deliveries that may be handled now.

        No key of these deliveries is the key of a record that is being handled, or of an earlier
        delivery that is not chosen. The number of their records is about the size of a batch, or
        less.

        The search ends at a delivery that no other delivery may overtake: a fence, a message that
        must be handled alone, or a message that cannot be decoded.

        take_first() and take_independent() call this.

        Args:
            keys_in_handlers: the keys of the records that are being handled.
            deliveries: the deliveries that wait, in the order of their arrival.
            is_suspected: a function that gets a message id. It returns whether this message may
                have ended a process. Such a message must be handled alone.

        """
        scanned = list(islice(deliveries, MAX_SCANNED))
        if all(each.record_count > self._max_small_records for each in scanned):
            return []
        known_keys, self._known_keys = self._known_keys, {}
        earlier_keys = list(keys_in_handlers)
        chosen: list[int] = []
        records = 0
        for index, delivery in enumerate(scanned):
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
                chosen.append(index)
                records += delivery.record_count
            else:
                self._known_keys[name] = keys
                earlier_keys.append(keys)
        return chosen

    def keys(self, deliveries: Iterable[Delivery]) -> Keys | None:
        """Return the keys of all records of these deliveries; None if a body cannot be decoded.

        The keys are the values by which `order_by` keeps records in order.

        Args:
            deliveries: the deliveries, which are decoded for this.

        """
        try:
            return frozenset().union(*map(self._keys_of, deliveries))
        except InvalidBody:
            return None

    def _keys_of(self, delivery: Delivery) -> Keys:
        """Return the keys of the records of a delivery.

        Raises:
            InvalidBody: the body cannot be decoded, or a record has no key.

        """
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
        except (LookupError, TypeError) as error:  # the field is missing, or cannot be a key
            raise InvalidBody({"": [str(error)]}) from error
