"""What changing a ring does to keys, exactly: how much of the key space goes whence and where."""

from __future__ import annotations

from collections import defaultdict

from feedbus.errors import UsageError
from feedbus.ring.jumping import CLASSES
from feedbus.ring.placing import Ring


def flows(old: Ring, new: Ring) -> dict[tuple[str, str], float]:
    """Return the share of all keys for each (queue in old, queue in new) that any key takes.

    Placement distinguishes 2**21 classes of keys, all equally likely. Every one is placed.

    Raises:
        UsageError: a ring has no buckets.

    """
    if not (old and new):
        msg = "expected two rings with buckets: one without places no key"
        raise UsageError(msg)
    from feedbus.ring.bulk import pairs_of_classes  # numpy takes a tenth of a second to load

    shorter, longer = sorted((old, new), key=len)
    first, second = _owners(shorter), _owners(longer)
    found: dict[tuple[str, str], int] = defaultdict(int)
    for (low, high), classes in pairs_of_classes(len(shorter), len(longer)).items():
        pair = first[low], second[high]
        found[pair if shorter is old else pair[::-1]] += classes
    return {pair: classes / CLASSES for pair, classes in found.items()}


def share_moved(old: Ring, new: Ring) -> float:
    """Return the share of all keys that go to another queue once new takes the place of old.

    Raises:
        UsageError: a ring has no buckets.

    """
    if old and old.buckets == new.buckets:
        return 0.0
    return sum(share for (before, after), share in flows(old, new).items() if before != after)


def _owners(ring: Ring) -> list[str]:
    return [queue for queue, weight in ring.buckets for _ in range(weight)]
