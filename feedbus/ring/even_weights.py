"""Find the most even weights for given keys, for each number of buckets.

The load of a key is its number of records. The bucket of a key depends only on the hash of the key
and the number of buckets of the ring. So weights only cut the sequence of buckets into runs, one
run for each queue. The most even cut is computed exactly.
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

Loads = Mapping[int, int]  # the load of each class of keys; see key_class()
Cut = tuple[int, ...]  # the number of buckets of each run


@dataclass(frozen=True, slots=True)
class Balance:
    """The weights of a ring, and the load of its busiest queue.

    frontier() returns it as one of the choices for a ring.

    Attributes:
        weights: the weight of each queue, in the order in which the queues are bound.
        busiest_load: the largest load of a queue with these weights: its number of records.

    """

    weights: Cut
    busiest_load: int

    @property
    def buckets(self) -> int:
        """The number of buckets of the ring with these weights."""
        return sum(self.weights)


def key_class(key: str) -> int:
    """Return the class of a key; all keys of one class are in the same bucket of every ring.

    Traffic is counted by class, because no weights can separate the keys of a class.

    Args:
        key: the routing key.

    Returns:
        The number of the class: the 21 low bits of the key's hash.

    """
    return phash2(key.encode()) % CLASSES


def placer(ring: Ring) -> Callable[[int], str]:
    """Return a function that returns the name of the queue for a class of keys.

    The argument of the function is the number of the class, a result of key_class().

    Args:
        ring: the ring that selects the queue.

    Raises:
        UsageError: the ring has no buckets.

    """
    owners = [queue for queue, weight in ring.buckets for _ in range(weight)]
    if not owners:
        msg = "the ring has no queues, so it cannot route messages: bind a queue first"
        raise UsageError(msg)
    jump, buckets = jumper(), len(owners)
    return lambda each: owners[jump(each, buckets)]


def frontier(loads: Loads, queues: int, max_buckets: int) -> list[Balance]:
    """Return the most even weights for several numbers of buckets, in ascending order.

    A number of buckets is left out if a smaller number allows weights that are as even.

    `feedbus balance` calls this, and chooses one of the results.

    Args:
        loads: maps each class of keys to its load, an integer from 0.
        queues: the number of queues, at least 1.
        max_buckets: the largest sum of the weights; each weight is at least 1.

    Returns:
        The weights for an ascending number of buckets; the load of the busiest queue becomes
        smaller from each item to the next. Empty if max_buckets is smaller than the number of
        queues.

    """
    total = sum(loads.values())
    # No weights can make the load of the busiest queue smaller than this limit.
    floor = max(-(-total // queues), max(loads.values(), default=0))
    balances: list[Balance] = []
    for row in _bucket_loads(loads, queues, max_buckets):
        sums = [0, *accumulate(row)]
        cutter = _Cutter(sums, queues)
        # The busiest queue must have this load at most, to be better than in the last balance.
        better_load = balances[-1].busiest_load - 1 if balances else total
        if max(row) <= better_load and cutter.fits(better_load):
            busiest_load = _least(max(floor, *row), better_load, cutter.fits)
            balances.append(Balance(cutter.evenest(busiest_load), busiest_load))
        if balances[-1].busiest_load == floor:
            break
    return balances


def _bucket_loads(loads: Loads, min_buckets: int, max_buckets: int) -> Iterator[list[int]]:
    """Yield the load of each bucket of a ring, for each number of buckets in ascending order.

    All items are the same list: it is changed for each further number of buckets.
    """
    # The item of a bucket maps each earlier bucket to the load that this bucket takes from the
    # earlier bucket when this bucket is added.
    taken: list[dict[int, int]] = [defaultdict(int) for _ in range(max_buckets)]
    row = [sum(loads.values())]
    for each, load in loads.items():
        former = 0
        for bucket in visits(each, max_buckets):
            taken[bucket][former] += load
            former = bucket
    for bucket in range(1, max_buckets + 1):
        if bucket >= min_buckets:
            yield row
        if bucket < max_buckets:
            for former, load in taken[bucket].items():
                row[former] -= load
            row.append(sum(taken[bucket].values()))


def _least(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Return the smallest number from `low` to `high` for which a condition is true.

    Args:
        low: the smallest possible result.
        high: the largest possible result; the condition must be true for it.
        holds: returns whether the condition is true for a number. If the condition is true for a
            number, it must be true for all larger numbers.

    """
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


@dataclass(frozen=True, slots=True)
class _Cutter:
    """Cuts the sequence of buckets into one run for each queue.

    Attributes:
        sums: for each bucket, the load of all buckets before it; the last item is the load of all
            buckets.
        runs: the number of runs.

    """

    sums: Sequence[int]
    runs: int

    def fits(self, max_load: int) -> bool:
        """Whether the buckets can be cut into runs of which none has a load above `max_load`."""
        buckets, index = len(self.sums) - 1, 0
        for _ in range(self.runs):
            index = bisect_right(self.sums, self.sums[index] + max_load) - 1
            if index >= buckets:
                return True
        return False

    def cut(self, min_load: int, max_load: int) -> Cut | None:
        """Return a cut in which each load is from `min_load` to `max_load`; None if impossible.

        The cut is the number of buckets of each run.

        For each run in turn, the method computes every index where the run may end, and for each
        end one index where the run may start. Then it follows the starts back from the last bucket.
        """
        # The item of a run maps each index where the run may end to an index where it may start.
        layers: list[dict[int, int]] = [{0: 0}]
        for run in range(1, self.runs + 1):
            layer: dict[int, int] = {}
            first, last = self._window(run, min_load, max_load)
            for start in layers[-1]:
                load = self.sums[start]
                begin = max(first, start + 1, bisect_left(self.sums, load + min_load))
                end = min(last, bisect_right(self.sums, load + max_load) - 1)
                layer.update((index, start) for index in range(begin, end + 1))
            if not layer:
                return None
            layers.append(layer)
        sizes, index = [], len(self.sums) - 1
        for layer in reversed(layers[1:]):
            sizes.append(index - layer[index])
            index = layer[index]
        return tuple(reversed(sizes))

    def evenest(self, max_load: int) -> Cut:
        """Return a cut with loads of at most `max_load` and the largest possible smallest load.

        The cut is the number of buckets of each run. Such a cut must exist: fits(max_load) has
        returned True.
        """
        mean = self.sums[-1] // self.runs
        # By how much the smallest load must be below the mean.
        lack = _least(0, mean, lambda lack: self.cut(mean - lack, max_load) is not None)
        sizes = self.cut(mean - lack, max_load)
        if sizes is None:
            raise AssertionError
        return sizes

    def _window(self, run: int, min_load: int, max_load: int) -> tuple[int, int]:
        """Return the first and last index where a run can end, so that all other runs are possible.

        Args:
            run: the number of the run, from 1.
            min_load: the smallest load that a run may have.
            max_load: the largest load that a run may have.

        """
        buckets, total, later_runs = len(self.sums) - 1, self.sums[-1], self.runs - run
        if not later_runs:
            return buckets, buckets
        first = bisect_left(self.sums, max(run * min_load, total - later_runs * max_load))
        last = bisect_right(self.sums, min(run * max_load, total - later_runs * min_load)) - 1
        return max(first, run), min(last, buckets - later_runs)
