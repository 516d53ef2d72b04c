"""What changing a ring does to keys, exactly: how much of the key space goes whence and where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import repeat
from operator import xor

from feedbus.errors import UsageError
from feedbus.ring.jumping import (
    CLASSES,
    HIGH,
    LANE_BITS,
    LANES,
    LOW,
    LOW_BITS,
    ONE,
    OUTPUT_FACTOR,
    SEED_FACTORS,
    STATE_FACTOR,
    STATE_WORDS,
    WORD,
    jumper,
    tables,
)
from feedbus.ring.placing import Ring


def flows(old: Ring, new: Ring) -> dict[tuple[str, str], float]:
    """Return the share of all keys for each (queue in old, queue in new) that any key takes.

    Placement tells 2**21 classes of keys apart, all equally likely. Every one is placed, which
    takes two or three seconds for tens of buckets.

    Raises:
        UsageError: a ring has no buckets.

    """
    if not (old and new):
        msg = "expected two rings with buckets: one without places no key"
        raise UsageError(msg)
    shorter, longer = sorted((old, new), key=len)
    first, second = _owners(shorter), _owners(longer)
    found: dict[tuple[str, str], int] = defaultdict(int)
    for (low, high), classes in _count(len(shorter), len(longer)).items():
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


def _count(fewer: int, more: int) -> dict[tuple[int, int], int]:
    """Count the classes by their buckets among fewer and among more.

    One walk finds both: the jumps are the same, only their end differs.
    """
    counts: dict[tuple[int, int], int] = defaultdict(int)
    steps = (None,) * (STATE_WORDS - 1)
    jump = jumper()
    for seed, entry in _states():
        words = entry * STATE_FACTOR & LANES
        word = words & WORD
        words ^= words << 31 & LANES
        words ^= words >> 11
        following, among_fewer = 1, -1
        for _ in steps:
            words >>= LANE_BITS
            word ^= (word >> 30) ^ (words & WORD)
            bucket = following - 1
            following = int(ONE * following / (word * OUTPUT_FACTOR & WORD)) + 1
            if following > fewer:
                if among_fewer < 0:
                    among_fewer = bucket
                if following > more:
                    counts[among_fewer, bucket] += 1
                    break
        else:
            key_hash = (seed - 1) % CLASSES
            counts[jump(key_hash, fewer), jump(key_hash, more)] += 1
    return counts


def _states() -> Iterator[tuple[int, int]]:
    """Yield each seed with its sixteen xorshift words; seeds of the same low bits together."""
    low, *highs = tables()
    known: tuple[int, ...] = ()
    shared: Iterable[int] = ()
    for index, entry in enumerate(low):
        carries = tuple(factor * index >> LOW_BITS for factor in SEED_FACTORS)
        if carries != known:
            known = carries
            shared = [
                highs[0][carries[0] + SEED_FACTORS[0] * high & HIGH]
                ^ highs[1][carries[1] + SEED_FACTORS[1] * high & HIGH]
                ^ highs[2][carries[2] + SEED_FACTORS[2] * high & HIGH]
                for high in range(HIGH + 1)
            ]
        seeds = range(index, CLASSES, LOW + 1)
        yield from zip(seeds, map(xor, shared, repeat(entry)), strict=True)
