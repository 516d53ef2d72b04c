"""Compute the bucket of a key from its hash: jump consistent hashing with Erlang's exs1024 numbers.

Only 21 bits of a hash are used. They seed a 64-bit xorshift generator. Its first sixteen outputs
are the state of an xorshift1024* generator. Each output R of this generator, in (0, 1], is one step
of jump consistent hashing (Lamping and Veach, https://arxiv.org/abs/1406.2294): from bucket b to
bucket trunc((b + 1) / R), while the ring has such a bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

SEED_BITS = 21
CLASSES = 1 << SEED_BITS  # keys with the same seed are one class, and are always placed together
SEED_FACTORS = (-21, -19, -9)
STATE_WORDS = 16
STATE_FACTOR = 2685821657736338717
OUTPUT_FACTOR = 1181783497276652981
WORD = (1 << 64) - 1
ONE = float(1 << 64)

# The sixteen words of a state are kept in one integer, each in a lane of 128 bits.
LANE_BITS = 128
LANES = sum(WORD << LANE_BITS * lane for lane in range(STATE_WORDS))
LOW_BITS = 11
LOW = (1 << LOW_BITS) - 1
HIGH = (1 << SEED_BITS - LOW_BITS) - 1

Jump = Callable[[int, int], int]


def draws(key_hash: int) -> Iterator[int]:
    """Yield the 64-bit outputs of the exs1024 generator that a hash seeds."""
    seed = key_hash % CLASSES + 1
    first, second, third = (seed * factor % CLASSES for factor in SEED_FACTORS)
    words = [
        word * STATE_FACTOR & WORD
        for word in _xorshift(first << 43 | second << 22 | third << 1 | 1)
    ]
    index = 0
    while True:
        former = words[index]
        index = (index + 1) % STATE_WORDS
        word = words[index]
        word ^= word << 31 & WORD
        words[index] = word ^ word >> 11 ^ former ^ former >> 30
        yield words[index] * OUTPUT_FACTOR & WORD


def _xorshift(word: int) -> list[int]:
    """Return the next sixteen numbers of a 64-bit xorshift generator, the last number first."""
    found = []
    for _ in range(STATE_WORDS):
        word ^= word >> 12
        word ^= word << 25 & WORD
        word ^= word >> 27
        found.append(word)
    return found[::-1]


@cache
def tables() -> tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]:
    """Return four tables with which the sixteen xorshift words of a seed are computed fast.

    Each entry of a table is an integer that contains sixteen words, LANE_BITS bits for each. The
    words of a seed are the XOR of four entries, one of each table: the words are linear over GF(2)
    in the bits of the initial value.

    The initial value consists of three multiples of the seed (SEED_FACTORS). The low bits of all
    three depend only on the low bits of the seed. So the low bits of the seed are the index in the
    first table. The high bits of the three multiples are the indexes in the other three tables.
    """

    def spread(bit: int) -> int:
        words = enumerate(_xorshift(1 << bit))
        return sum(word << LANE_BITS * lane for lane, word in words)

    def span(start: int, stop: int) -> list[int]:
        found = [0]
        for bit in range(start, stop):
            entry = spread(bit)
            found += [entry ^ other for other in found]
        return found

    starts = (43, 22, 1)
    lows = [span(start, start + LOW_BITS) for start in starts]
    highs = [span(start + LOW_BITS, start + SEED_BITS) for start in starts]
    low = [spread(0)] * (LOW + 1)
    for factor, table in zip(SEED_FACTORS, lows, strict=True):
        low = [entry ^ table[factor * seed & LOW] for seed, entry in enumerate(low)]
    return low, highs[0], highs[1], highs[2]


@cache
def jumper() -> Jump:
    """Return a function that returns the bucket of a hash for a number of buckets."""
    low, first, second, third = tables()
    steps = (None,) * (STATE_WORDS - 1)

    def jump(key_hash: int, buckets: int) -> int:
        seed = (key_hash & 0x1F_FFFF) + 1
        words = (
            low[seed & 2047]
            ^ first[-21 * seed >> 11 & 1023]
            ^ second[-19 * seed >> 11 & 1023]
            ^ third[-9 * seed >> 11 & 1023]
        ) * STATE_FACTOR & LANES
        word = words & 0xFFFF_FFFF_FFFF_FFFF
        words ^= words << 31 & LANES
        words ^= words >> 11
        following = 1
        for _ in steps:
            words >>= 128
            word ^= (word >> 30) ^ (words & 0xFFFF_FFFF_FFFF_FFFF)
            bucket = following - 1
            # The division uses doubles, as in Erlang. The factor 2**64 causes no rounding.
            draw = word * OUTPUT_FACTOR & 0xFFFF_FFFF_FFFF_FFFF
            following = int(ONE * following / draw) + 1
            if following > buckets:
                return bucket
        return _far(key_hash, buckets)

    return jump


def _far(key_hash: int, buckets: int) -> int:
    """Follow the jumps on the whole sequence, for the few keys that need more than one state."""
    bucket = reached = 0
    for draw in draws(key_hash):
        bucket, reached = reached, int(ONE * (reached + 1) / draw)
        if reached >= buckets:
            return bucket
    raise AssertionError


def visits(key_hash: int, buckets: int) -> list[int]:
    """Return the buckets to which a hash would move while buckets are added one by one.

    The hash begins in bucket 0. Example: [1, 5] means that it is in bucket 0 on a ring with 1
    bucket, in bucket 1 with 2 to 5 buckets, and in bucket 5 with 6 and more, up to `buckets`.
    """
    low, first, second, third = tables()
    seed = (key_hash & 0x1F_FFFF) + 1
    words = (
        low[seed & LOW]
        ^ first[-21 * seed >> LOW_BITS & HIGH]
        ^ second[-19 * seed >> LOW_BITS & HIGH]
        ^ third[-9 * seed >> LOW_BITS & HIGH]
    ) * STATE_FACTOR & LANES
    word = words & WORD
    words ^= words << 31 & LANES
    words ^= words >> 11
    found: list[int] = []
    reached = 0
    for _ in range(STATE_WORDS - 1):
        words >>= LANE_BITS
        word ^= (word >> 30) ^ (words & WORD)
        reached = int(ONE * (reached + 1) / (word * OUTPUT_FACTOR & WORD))
        if reached >= buckets:
            return found
        found.append(reached)
    return _visits_far(key_hash, buckets)


def _visits_far(key_hash: int, buckets: int) -> list[int]:
    found: list[int] = []
    reached = 0
    for draw in draws(key_hash):
        reached = int(ONE * (reached + 1) / draw)
        if reached >= buckets:
            break
        found.append(reached)
    return found
