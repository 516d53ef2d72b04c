"""Compute the bucket of a key from its hash: jump consistent hashing with Erlang's exs1024 numbers.

Only 21 bits of a hash are used. These bits are the seed of a 64-bit xorshift generator. The first
sixteen outputs of this generator are the state of a second one, an xorshift1024* generator. Each
output of the second generator, divided by 2**64, is a random number R. Each R is one step of jump
consistent hashing (Lamping and Veach, https://arxiv.org/abs/1406.2294): from bucket b to bucket
trunc((b + 1) / R). The first step begins in bucket 0. A step to a bucket that the ring does not
have is not made, and ends the sequence: the key is in the bucket that was reached before.

Keys whose hashes have the same 21 bits are one class: they are in the same bucket of every ring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

SEED_BITS = 21
CLASSES = 1 << SEED_BITS  # the number of classes of keys
SEED_FACTORS = (-21, -19, -9)
STATE_WORDS = 16
STATE_FACTOR = 2685821657736338717
OUTPUT_FACTOR = 1181783497276652981
WORD = (1 << 64) - 1
ONE = float(1 << 64)

# The sixteen words of a state are kept in one integer, 128 bits (a lane) for each word. So one
# operation on this integer computes all words.
LANE_BITS = 128
LANES = sum(WORD << LANE_BITS * lane for lane in range(STATE_WORDS))  # the bits of the words
# tables() has one table for the 11 low bits of a seed, and three for its 10 high bits.
LOW_BITS = 11
LOW = (1 << LOW_BITS) - 1
HIGH = (1 << SEED_BITS - LOW_BITS) - 1

Jump = Callable[[int, int], int]


def draws(key_hash: int) -> Iterator[int]:
    """Yield the 64-bit outputs of the exs1024 (xorshift1024*) generator that a hash seeds.

    The outputs are the random numbers of jump consistent hashing for this hash. They do not end.

    Args:
        key_hash: the hash of a routing key, of which 21 bits are used.

    """
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
    outputs = []
    for _ in range(STATE_WORDS):
        word ^= word >> 12
        word ^= word << 25 & WORD
        word ^= word >> 27
        outputs.append(word)
    return outputs[::-1]


@cache
def tables() -> tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]:
    """Return four tables with which the sixteen xorshift words of a seed are computed fast.

    The seed is computed from the hash of a key. The words are the first outputs of a xorshift
    generator: they give the initial state of the generator of draws().

    Each entry of a table is an integer that contains sixteen words, LANE_BITS bits for each. The
    words of a seed are the XOR of four entries, one of each table: the words are linear over GF(2)
    in the bits of the xorshift generator's initial value.

    This initial value consists of three multiples of the seed (SEED_FACTORS). The low bits of all
    three multiples depend only on the low bits of the seed. So the low bits of the seed are the
    index in the first table. The high bits of the three multiples are the indexes in the other
    three tables.

    jumper() and visits() use the tables, which are computed once.
    """

    def words_of(bit: int) -> int:
        """Return the sixteen words for an initial value that has only this bit."""
        words = enumerate(_xorshift(1 << bit))
        return sum(word << LANE_BITS * lane for lane, word in words)

    def combinations_of(start: int, stop: int) -> list[int]:
        """Return the words for each combination of the bits from `start` to before `stop`."""
        combinations = [0]
        for bit in range(start, stop):
            entry = words_of(bit)
            combinations += [entry ^ other for other in combinations]
        return combinations

    starts = (43, 22, 1)  # the lowest bit of each multiple in the initial value, whose bit 0 is 1
    lows = [combinations_of(start, start + LOW_BITS) for start in starts]
    highs = [combinations_of(start + LOW_BITS, start + SEED_BITS) for start in starts]
    low = [words_of(0)] * (LOW + 1)
    for factor, table in zip(SEED_FACTORS, lows, strict=True):
        low = [entry ^ table[factor * seed & LOW] for seed, entry in enumerate(low)]
    return low, highs[0], highs[1], highs[2]


@cache
def jumper() -> Jump:
    """Return a function that returns the bucket of a hash, for a ring's number of buckets.

    The function contains the values of constants, because it runs for every message to a ring, and
    Python reads a literal faster than a global name.

    Ring calls the function for each key. Its arguments are the hash and the number of buckets.
    """
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
        # draws() makes these two shifts in each step, for one word. Here they are made for all.
        words ^= words << 31 & LANES
        words ^= words >> 11
        following = 1
        for _ in steps:
            words >>= 128
            word ^= (word >> 30) ^ (words & 0xFFFF_FFFF_FFFF_FFFF)
            bucket = following - 1
            # The division uses doubles, as in Erlang. The factor 2**64 (ONE) causes no rounding.
            draw = word * OUTPUT_FACTOR & 0xFFFF_FFFF_FFFF_FFFF
            following = int(ONE * following / draw) + 1
            if following > buckets:
                return bucket
        return _far(key_hash, buckets)

    return jump


def _far(key_hash: int, buckets: int) -> int:
    """Return the bucket of a hash that needs more random numbers than jumper() computes."""
    bucket = reached = 0
    for draw in draws(key_hash):
        bucket, reached = reached, int(ONE * (reached + 1) / draw)
        if reached >= buckets:
            return bucket
    raise AssertionError


def visits(key_hash: int, buckets: int) -> list[int]:
    """Return the buckets to which a hash would move while buckets are added one by one.

    On a ring with 1 bucket, every hash is in bucket 0. Example: [1, 5] means that the hash is in
    bucket 1 on a ring with 2 to 5 buckets, and in bucket 5 on a ring with 6 and more buckets.

    Args:
        key_hash: the hash of a routing key.
        buckets: the number of buckets of the largest ring.

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
    visited: list[int] = []
    reached = 0
    for _ in range(STATE_WORDS - 1):
        words >>= LANE_BITS
        word ^= (word >> 30) ^ (words & WORD)
        reached = int(ONE * (reached + 1) / (word * OUTPUT_FACTOR & WORD))
        if reached >= buckets:
            return visited
        visited.append(reached)
    return _visits_far(key_hash, buckets)


def _visits_far(key_hash: int, buckets: int) -> list[int]:
    """Return the result of visits() for a hash that needs more random numbers than visits() has."""
    visited: list[int] = []
    reached = 0
    for draw in draws(key_hash):
        reached = int(ONE * (reached + 1) / draw)
        if reached >= buckets:
            break
        visited.append(reached)
    return visited
