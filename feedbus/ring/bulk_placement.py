"""Compute the buckets of many routing keys with numpy, ten times as fast as one by one.

The algorithms are those of feedbus.ring.phash2 and feedbus.ring.jump_hash, for many keys at once.
jump_hash explains the classes of keys and the generator of random numbers. numpy's integers drop
the bits beyond their width, so the code does not have to cut them off. Loading numpy takes a tenth
of a second and 16 MB, so a caller with few keys does not use this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedbus.ring.jump_hash import (
    CLASSES,
    ONE,
    OUTPUT_FACTOR,
    SEED_FACTORS,
    STATE_FACTOR,
    STATE_WORDS,
)
from feedbus.ring.phash2 import BLOCK_BYTES, GOLDEN_RATIO, RESULT, SEED

WORDS_OF_BLOCK = 3
AT_ONCE = 1 << 14  # how many classes of keys are placed together; their data fits into a cache
STEP = 4  # only every fourth class is counted; the error is a tenth of a per cent at most
SAMPLED = CLASSES // STEP  # how many classes are counted
# lookup2 mixes three words by nine steps. These are the shifts of the steps, in bits; a positive
# number shifts to the left.
SHIFTS = ((-13, 8, -13), (-12, 16, -5), (-3, 10, -15))

Words = NDArray[np.uint32]
Longs = NDArray[np.uint64]


def buckets_of(keys: Sequence[str], buckets: int) -> list[int]:
    """Return the number of the bucket of each key on a ring.

    Ring uses it if many keys are given at once.

    Args:
        keys: the routing keys.
        buckets: the number of buckets of the ring, at least 1.

    """
    if not keys:
        return []
    (placed,) = jump(_hash([key.encode() for key in keys]), buckets)
    numbers: list[int] = placed.tolist()
    return numbers


def _hash(keys: Sequence[bytes]) -> Words:
    """Return the phash2 value of each key."""
    lengths = np.fromiter(map(len, keys), np.uint32, len(keys))
    width = (int(lengths.max()) // BLOCK_BYTES + 1) * BLOCK_BYTES
    padded = np.array(keys, dtype=f"S{width}")
    words = padded.view("<u4").reshape(len(keys), -1)
    whole_blocks = lengths // BLOCK_BYTES
    hashes = np.empty(len(keys), np.uint32)
    for count in np.unique(whole_blocks).tolist():
        chosen = whole_blocks == count
        hashes[chosen] = _hash_alike(words[chosen], lengths[chosen], count)
    hashes[lengths == 0] = SEED  # phash2 does not mix for an empty binary
    return hashes & np.uint32(RESULT)


def _hash_alike(words: Words, lengths: Words, blocks: int) -> Words:
    """Hash keys that have the same number of whole blocks.

    Args:
        words: one row for each key: its bytes as words of 32 bits, followed by zeros.
        lengths: the length of each key in bytes.
        blocks: how many whole blocks of BLOCK_BYTES each key has.

    Returns:
        The hash of each key, before it is cut to 27 bits.

    """
    a = np.full(len(words), GOLDEN_RATIO, np.uint32)
    b, c = a.copy(), np.full(len(words), SEED, np.uint32)
    for block in range(blocks + 1):
        start = block * WORDS_OF_BLOCK
        a += words[:, start]
        b += words[:, start + 1]
        # In the last block, the length is added to the third word, whose lowest byte is free of
        # data.
        third = words[:, start + 2]
        c += third if block < blocks else (third << np.uint32(8)) + lengths
        for shifts in SHIFTS:
            _mix(a, b, c, shifts[0])
            _mix(b, c, a, shifts[1])
            _mix(c, a, b, shifts[2])
    return c


def _mix(one: Words, two: Words, three: Words, shift: int) -> None:
    """Mix the second and third word into the first one, in place.

    Args:
        one: the words that are changed.
        two: words that are subtracted.
        three: words that are subtracted, then shifted and combined by XOR.
        shift: the number of bits: positive to the left, negative to the right.

    """
    one -= two
    one -= three
    one ^= three << np.uint32(shift) if shift > 0 else three >> np.uint32(-shift)


def count_pairs(old: Sequence[int], new: Sequence[int]) -> dict[tuple[int, int], int]:
    """Count classes of keys by the pair of queues that own them in two rings.

    Keys whose hashes have the same 21 low bits are one class: they are in the same bucket of every
    ring.

    Only every STEP-th class is counted. The hash function finds the bucket of a key in jumps from
    bucket to bucket (feedbus.ring.jump_hash). The number of buckets only determines where the jumps
    end. So one sequence of jumps gives the buckets of both rings.

    `feedbus plan` predicts with it which keys a change of a ring moves.

    Args:
        old: a list with one item for each bucket of the old ring: the number of the bucket's queue,
            0 or more.
        new: the same for the buckets of the new ring.

    Returns:
        Maps (number of the queue in the old ring, in the new ring) to the number of classes.

    """
    before, after = np.array(old, np.int64), np.array(new, np.int64)
    fewer, more = sorted((len(old), len(new)))
    span = int(after.max()) + 1
    codes = []
    for start in range(0, CLASSES, AT_ONCE * STEP):
        hashes = np.arange(start, start + AT_ONCE * STEP, STEP, dtype=np.uint32)
        first, second = jump(hashes, fewer, more)
        if len(old) > len(new):
            first, second = second, first
        codes.append(before[first] * span + after[second])  # one number for each pair of queues
    used_codes, counts = np.unique(np.concatenate(codes), return_counts=True)
    pairs = zip((used_codes // span).tolist(), (used_codes % span).tolist(), strict=True)
    return dict(zip(pairs, counts.tolist(), strict=True))


def jump(hashes: Words, *sizes: int) -> list[NDArray[Any]]:
    """Return the bucket of each hash, in rings of several sizes.

    Each step is one of jump consistent hashing, for all hashes at once.

    Args:
        hashes: the hashes of routing keys, as an array of 32-bit integers.
        sizes: the numbers of buckets of the rings, in ascending order.

    Returns:
        For each size, an array with the bucket of each hash.

    """
    words = _state(hashes)
    buckets_by_size = [np.zeros(len(hashes), np.int64) for _ in sizes]
    active = np.arange(len(hashes))  # the indexes of the hashes that still jump
    following = np.ones(len(hashes), np.int64)  # the bucket of each active hash, plus 1
    place = 0
    while len(active):
        former = words[place][active]
        place = (place + 1) % STATE_WORDS
        word = words[place][active]
        word ^= word << np.uint64(31)
        word ^= word >> np.uint64(11)
        word ^= former ^ (former >> np.uint64(30))
        words[place][active] = word
        draws = word * np.uint64(OUTPUT_FACTOR)
        bucket = following - 1
        for buckets, size in zip(buckets_by_size, sizes, strict=True):
            within = bucket < size
            buckets[active[within]] = bucket[within]
        # A random number of 0 makes the jump infinite. Then minimum() selects the first bucket that
        # the largest ring does not have.
        with np.errstate(divide="ignore"):
            reached = np.minimum(ONE * following / draws.astype(np.float64), float(sizes[-1]))
        following = reached.astype(np.int64) + 1
        continues = following <= sizes[-1]
        active, following = active[continues], following[continues]
    return buckets_by_size


def _state(hashes: Words) -> list[Longs]:
    """Return the initial states of the random generators that the hashes seed.

    The generators are those of jump_hash.draws(). A state has 16 words. The result has one array
    for each word, and each array has one item for each hash.
    """
    seeds = hashes.astype(np.uint64) % np.uint64(CLASSES) + np.uint64(1)
    first, second, third = (
        seeds * np.uint64(factor % CLASSES) % np.uint64(CLASSES) for factor in SEED_FACTORS
    )
    word = first << np.uint64(43) | second << np.uint64(22) | third << np.uint64(1) | np.uint64(1)
    words: list[Longs] = []
    for _ in range(STATE_WORDS):
        word = word ^ (word >> np.uint64(12))
        word = word ^ (word << np.uint64(25))
        word = word ^ (word >> np.uint64(27))
        words.append(word * np.uint64(STATE_FACTOR))
    return words[::-1]
