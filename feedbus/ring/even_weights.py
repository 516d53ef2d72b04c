"""Find the most even weights for given keys, for each number of buckets.

The bucket of a key depends only on the number of buckets. So weights only cut the sequence of
buckets into one run for each queue. The best cut is computed exactly.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from feedbus.errors import UsageError
from feedbus.ring.jump_hash import CLASSES, jumper, visits
from feedbus.ring.phash2 import phash2
from feedbus.ring.placement import Ring

Loads = Mapping[int, int]
Cut = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Balance:
    """Weights in the order of the bindings, and the load of the busiest queue."""

    weights: Cut
    busiest: int

    @property
    def buckets(self) -> int:
        """The number of buckets of the ring with these weights."""
        return sum(self.weights)


def key_class(key: str) -> int:
    """Return the class of a key; all keys of one class are on the same bucket of every ring."""
    return phash2(key.encode()) % CLASSES


def placer(ring: Ring) -> Callable[[int], str]:
    """Return a function that returns the queue for a key class; see key_class().

    Raises:
        UsageError: the ring has no buckets.

    """
    owners = [queue for queue, weight in ring.buckets for _ in range(weight)]
    if not owners:
        msg = "the ring has no queues, so it cannot route messages: bind a queue first"
        raise UsageError(msg)
    jump, buckets = jumper(), len(owners)
    return lambda each: owners[jump(each, buckets)]


def frontier(loads: Loads, queues: int, most_buckets: int) -> list[Balance]:
    """Return the most even weights for increasing numbers of buckets.

    Weights are left out unless they are more even than all weights with fewer buckets.

    Args:
        loads: the load of each class of keys, as integers from 0.
        queues: the number of queues, at least 1.
        most_buckets: the largest sum of the weights; each weight is at least 1.

    """
    total = sum(loads.values())
    floor = max(-(-total // queues), max(loads.values(), default=0))
    found: list[Balance] = []
    for row in _rows(loads, queues, most_buckets):
        sums = [0, *accumulate(row)]
        cutter = _Cutter(sums, queues)
        worth = found[-1].busiest - 1 if found else total
        if max(row) <= worth and cutter.fits(worth):
            busiest = _least(max(floor, *row), worth, cutter.fits)
            found.append(Balance(cutter.evenest(busiest), busiest))
        if found[-1].busiest == floor:
            break
    return found


def _rows(loads: Loads, fewest: int, most: int) -> Iterator[list[int]]:
    """Yield the loads of the buckets for each number of buckets."""
    taken: list[dict[int, int]] = [defaultdict(int) for _ in range(most)]
    row = [sum(loads.values())]
    for each, load in loads.items():
        former = 0
        for bucket in visits(each, most):
            taken[bucket][former] += load
            former = bucket
    for bucket in range(1, most + 1):
        if bucket >= fewest:
            yield row
        if bucket < most:
            for former, load in taken[bucket].items():
                row[former] -= load
            row.append(sum(taken[bucket].values()))


def _least(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Return the smallest number for which a condition is true; it is true for all larger ones."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


@dataclass(frozen=True, slots=True)
class _Cutter:
    """Cuts the sequence of buckets into one run for each queue, by the sums of their loads."""

    sums: Sequence[int]
    runs: int

    def fits(self, most: int) -> bool:
        """Whether the buckets can be cut into runs of which none has a load above `most`."""
        buckets, place = len(self.sums) - 1, 0
        for _ in range(self.runs):
            place = bisect_right(self.sums, self.sums[place] + most) - 1
            if place >= buckets:
                return True
        return False

    def cut(self, least: int, most: int) -> Cut | None:
        """Return the sizes of runs whose loads are from `least` to `most`, or None.

        For each run in turn, the method computes every index where the run may end. For each such
        index, it also computes an index where the run may start.
        """
        layers: list[dict[int, int]] = [{0: 0}]
        for run in range(1, self.runs + 1):
            layer: dict[int, int] = {}
            first, last = self._window(run, least, most)
            for start in layers[-1]:
                load = self.sums[start]
                begin = max(first, start + 1, bisect_left(self.sums, load + least))
                end = min(last, bisect_right(self.sums, load + most) - 1)
                layer.update((place, start) for place in range(begin, end + 1))
            if not layer:
                return None
            layers.append(layer)
        sizes, place = [], len(self.sums) - 1
        for layer in reversed(layers[1:]):
            sizes.append(place - layer[place])
            place = layer[place]
        return tuple(reversed(sizes))

    def evenest(self, most: int) -> Cut:
        """Return a cut with loads of at most `most`; its smallest load is as large as possible."""
        mean = self.sums[-1] // self.runs
        lack = _least(0, mean, lambda lack: self.cut(mean - lack, most) is not None)
        sizes = self.cut(mean - lack, most)
        if sizes is None:
            raise AssertionError
        return sizes

    def _window(self, run: int, least: int, most: int) -> tuple[int, int]:
        """Return the first and last index where a run can end."""
        buckets, total, behind = len(self.sums) - 1, self.sums[-1], self.runs - run
        if not behind:
            return buckets, buckets
        first = bisect_left(self.sums, max(run * least, total - behind * most))
        last = bisect_right(self.sums, min(run * most, total - behind * least)) - 1
        return max(first, run), min(last, buckets - behind)
