"""The share of keys that a change of a ring moves, by old and new queue."""

from __future__ import annotations

from collections.abc import Mapping

from feedbus.errors import UsageError
from feedbus.ring.placement import Ring


def flows(old: Ring, new: Ring) -> dict[tuple[str, str], float]:
    """Return the share of all keys by (queue in the old ring, queue in the new ring).

    The shares, from 0 to 1, have the sum 1. Keys that stay in their queue are included. A ring uses
    21 bits of the hash of a key, so there are 2**21 classes of keys, all equally likely. The
    function computes the queues of only a quarter of the classes. So a share differs from the exact
    share by about 0.001 at most.

    `feedbus plan` uses the function to predict which keys a change of a ring moves.

    Args:
        old: the ring before the change.
        new: the ring after the change.

    Raises:
        UsageError: a ring has no buckets.

    """
    from feedbus.ring.bulk_placement import (  # numpy takes a tenth of a second to load
        SAMPLED,
        count_pairs,
    )

    numbers = _numbers(old, new)
    names = list(numbers)
    pairs = count_pairs(_owners(old, numbers), _owners(new, numbers))
    return {
        (names[first], names[second]): count / SAMPLED for (first, second), count in pairs.items()
    }


def _numbers(old: Ring, new: Ring) -> dict[str, int]:
    """Return a number, from 0, for each queue of two rings; refuse a ring without buckets."""
    if not (old and new):
        msg = "expected two rings with buckets, got a ring without buckets: bind a queue first"
        raise UsageError(msg)
    names = dict.fromkeys(queue for ring in (old, new) for queue, _ in ring.buckets)
    return {name: number for number, name in enumerate(names)}


def _owners(ring: Ring, numbers: Mapping[str, int]) -> list[int]:
    """Return a list with one item for each bucket of a ring: the number of the bucket's queue."""
    return [numbers[queue] for queue, weight in ring.buckets for _ in range(weight)]
