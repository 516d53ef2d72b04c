"""What changing a ring does to keys: which share of all keys goes from which queue to which."""

from __future__ import annotations

from collections.abc import Mapping

from feedbus.errors import UsageError
from feedbus.ring.jumping import CLASSES
from feedbus.ring.placing import Ring


def flows(old: Ring, new: Ring) -> dict[tuple[str, str], float]:
    """Return the share of all keys for each (queue in old, queue in new) that any key takes.

    Placement distinguishes 2**21 classes of keys, all equally likely. Every one is placed.

    Raises:
        UsageError: a ring has no buckets.

    """
    from feedbus.ring.bulk import count_pairs  # numpy takes a tenth of a second to load

    numbers = _numbers(old, new)
    names = list(numbers)
    pairs = count_pairs(_owners(old, numbers), _owners(new, numbers))
    return {
        (names[first], names[second]): count / CLASSES for (first, second), count in pairs.items()
    }


def share_moved(old: Ring, new: Ring) -> float:
    """Return the share of all keys that go to another queue when new replaces old.

    Raises:
        UsageError: a ring has no buckets.

    """
    if old and old.buckets == new.buckets:
        return 0.0
    from feedbus.ring.bulk import count_moved

    numbers = _numbers(old, new)
    return count_moved(_owners(old, numbers), _owners(new, numbers)) / CLASSES


def _numbers(old: Ring, new: Ring) -> dict[str, int]:
    """Number the queues of two rings."""
    if not (old and new):
        msg = "expected two rings with buckets: one without places no key"
        raise UsageError(msg)
    names = dict.fromkeys(queue for ring in (old, new) for queue, _ in ring.buckets)
    return {name: number for number, name in enumerate(names)}


def _owners(ring: Ring, numbers: Mapping[str, int]) -> list[int]:
    return [numbers[queue] for queue, weight in ring.buckets for _ in range(weight)]
