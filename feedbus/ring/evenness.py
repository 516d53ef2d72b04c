"""How even the load of a ring's members is, measured against the weights that they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def max_over_share(records: Mapping[str, float], members: Iterable[tuple[str, int]]) -> float:
    """Return the most that a member gets over its share by weight: 1 is perfectly even.

    Args:
        records: what each member gets; one that is missing gets nothing. They are not all 0.
        members: names with their weights.

    Example:
        >>> max_over_share({"a": 100, "b": 210}, [("a", 1), ("b", 2)])
        1.016...

    """
    weights = dict(members)
    total, buckets = sum(records.get(name, 0) for name in weights), sum(weights.values())
    loads = (records.get(name, 0) / weight for name, weight in weights.items())
    return max(loads) * buckets / total
