"""Measure how even the loads of a ring's queues are, relative to their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def max_over_share(records: Mapping[str, float], members: Iterable[tuple[str, int]]) -> float:
    """Return the largest ratio of a queue's load to its share by weight; 1 if all have their share.

    `feedbus plan` and `feedbus spread` print it.

    Args:
        records: maps the name of a queue to its load, the number of its records. A missing queue
            has the load 0. At least one load is not 0.
        members: the (name, weight) of each queue of the ring.

    Example:
        >>> max_over_share({"a": 100, "b": 210}, [("a", 1), ("b", 2)])
        1.016...

    """
    weights = dict(members)
    total, buckets = sum(records.get(name, 0) for name in weights), sum(weights.values())
    loads = (records.get(name, 0) / weight for name, weight in weights.items())
    return max(loads) * buckets / total
