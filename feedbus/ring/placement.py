"""The ring of an x-consistent-hash exchange: the queue of each routing key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self, cast

from feedbus.errors import UsageError
from feedbus.ring.jump_hash import jumper
from feedbus.ring.phash2 import phash2

REMEMBERED = 65_536  # how many keys are cached
WORTH_BULK = 30_000  # to place so many keys one by one takes as long as to load numpy


class Ring:
    """The ring of an x-consistent-hash exchange; it finds the same queue for a key as RabbitMQ.

    A ring is a list of buckets, and each bucket has one queue. The hash of a key selects a bucket.
    The object caches the queues of the latest keys, so a repeated key costs one look-up.

    A publisher has one Ring object for each exchange with shards, to make packs. `feedbus plan`,
    `feedbus spread` and `feedbus balance` use the class for predictions.
    """

    __slots__ = ("_buckets", "_fresh_count", "_jump", "_placed", "_weights")

    def __init__(self) -> None:
        """Create a ring without buckets."""
        self._weights: dict[str, int] = {}
        self._buckets: list[str] = []
        self._placed: dict[str | bytes, str] = {}
        self._jump = jumper()
        self._fresh_count = 0  # how many keys route_many() did not find in the cache

    @classmethod
    def of(cls, members: Iterable[tuple[str, int]]) -> Self:
        """Return a ring to which these (queue, weight) pairs are bound in this order.

        Args:
            members: the name and the weight, its number of buckets, of each queue.

        Raises:
            UsageError: a weight is not a positive integer.

        """
        ring = cls()
        for queue, weight in members:
            ring._add(queue, weight)
        ring._rebuild()
        return ring

    def __len__(self) -> int:
        """Return the number of buckets."""
        return len(self._buckets)

    @property
    def buckets(self) -> tuple[tuple[str, int], ...]:
        """The buckets as (queue, number of buckets), from bucket 0 on.

        The buckets of one queue follow one another.
        """
        return tuple(self._weights.items())

    def bind(self, queue: str, weight: int) -> None:
        """Append buckets for a queue, as many as its weight.

        If the queue already has buckets, nothing changes, as on RabbitMQ.

        Args:
            queue: the name of the queue.
            weight: the number of buckets.

        Raises:
            UsageError: the weight is not a positive integer.

        """
        if self._add(queue, weight):
            self._rebuild()

    def unbind(self, queue: str) -> None:
        """Remove all buckets of a queue; the following buckets move down.

        If the queue has no buckets, nothing changes.

        Args:
            queue: the name of the queue.

        """
        if self._weights.pop(queue, None) is not None:
            self._rebuild()

    def route(self, routing_key: str | bytes) -> str:
        """Return the name of the queue to which RabbitMQ routes a key.

        Args:
            routing_key: the routing key; a text is encoded as UTF-8.

        Raises:
            UsageError: the ring has no buckets.

        """
        # Another thread may call _rebuild() meanwhile. _rebuild() replaces first the buckets, then
        # the cache. This method reads first the cache, then the buckets. So if this method has read
        # the old buckets, it puts the queue into the old cache, which is not used any more.
        placed = self._placed
        queue = placed.get(routing_key)
        if queue is not None:
            return queue
        buckets = self._buckets
        if not buckets:
            msg = "the ring has no queues, so it cannot route messages: bind a queue first"
            raise UsageError(msg)
        data = routing_key.encode() if isinstance(routing_key, str) else routing_key
        queue = buckets[self._jump(phash2(data), len(buckets))]
        if len(placed) >= REMEMBERED:
            placed.clear()
        placed[routing_key] = queue
        return queue

    def route_many(self, routing_keys: Sequence[str]) -> list[str]:
        """Return the name of the queue for each key, in the order of the keys.

        With many keys, it is faster than route().

        Args:
            routing_keys: the routing keys.

        Raises:
            UsageError: the ring has no buckets.

        """
        placed = self._placed
        queues = list(map(placed.get, routing_keys))
        if None not in queues:
            return cast("list[str]", queues)
        fresh = [index for index, queue in enumerate(queues) if queue is None]
        self._fresh_count += len(fresh)
        if self._fresh_count < WORTH_BULK or not self._buckets:
            for index in fresh:
                queues[index] = self.route(routing_keys[index])
            return cast("list[str]", queues)
        from feedbus.ring.bulk_placement import buckets_of

        buckets = self._buckets
        chosen = [routing_keys[index] for index in fresh]
        # These results are not cached: there are so many different keys that the cache would be
        # emptied before a key is repeated.
        for index, bucket in zip(fresh, buckets_of(chosen, len(buckets)), strict=True):
            queues[index] = buckets[bucket]
        return cast("list[str]", queues)

    def _add(self, queue: str, weight: int) -> bool:
        """Register the weight of a queue; return whether the queue had no buckets yet."""
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 1:
            msg = f"weight of {queue}: expected a positive integer, got {weight!r}"
            raise UsageError(msg)
        new = queue not in self._weights
        if new:
            self._weights[queue] = weight
        return new

    def _rebuild(self) -> None:
        self._buckets = [queue for queue, weight in self._weights.items() for _ in range(weight)]
        self._placed = {}
