"""What changing a ring does to keys, exactly: how much of the key space goes whence and where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from struct import Struct

from feedbus.errors import UsageError
from feedbus.ring.jumping import (
    CLASSES,
    HIGH,
    LANE_BITS,
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

LANE_BYTES = LANE_BITS // 8
SEEDS = HIGH + 1
_WORDS = Struct("<" + "Q8x" * SEEDS)


def flows(old: Ring, new: Ring) -> dict[tuple[str, str], float]:
    """Return the share of all keys for each (queue in old, queue in new) that any key takes.

    Placement tells 2**21 classes of keys apart, all equally likely. Every one is placed, which
    takes about two seconds for tens of buckets and nine for ten thousand.

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
    counts: dict[int, int] = defaultdict(int)
    jump = jumper()
    # Enough for all but a hundredth of the classes: the jumps grow with the logarithm.
    depth = min(STATE_WORDS - 1, more.bit_length() + 2)
    for seeds, columns in _outputs(depth):
        for seed, outputs in zip(seeds, zip(*columns, strict=True), strict=True):
            following, among_fewer = 1, -1
            for draw in outputs:
                bucket = following - 1
                following = int(ONE * following / draw) + 1
                if following > fewer:
                    if among_fewer < 0:
                        among_fewer = bucket
                    if following > more:
                        counts[among_fewer * more + bucket] += 1
                        break
            else:
                key_hash = (seed - 1) % CLASSES
                counts[jump(key_hash, fewer) * more + jump(key_hash, more)] += 1
    return {divmod(place, more): classes for place, classes in counts.items()}


def _outputs(depth: int) -> Iterator[tuple[range, list[tuple[int, ...]]]]:
    """Yield seeds and, for each of the first draws, a column of outputs aligned with the seeds.

    Seeds of the same low bits come together. Their words stand in the lanes of one long integer,
    so that one operation of Python's serves them all.
    """
    low, *highs = tables()
    known: list[int] = []
    shared: list[int] = []
    lanes = _repeat(WORD)
    for index, entry in enumerate(low):
        # How much the low bits carry into the high ones has but 49 values, in runs.
        carries = [factor * index >> LOW_BITS for factor in SEED_FACTORS]
        if carries != known:
            known, shared = carries, _high_words(highs, carries, depth)
        columns = []
        word = 0
        for lane, high_words in enumerate(shared):
            own = _repeat(entry >> LANE_BITS * lane & WORD)
            state = (high_words ^ own) * STATE_FACTOR & lanes
            if lane:
                state ^= state << 31 & lanes
                word = (state ^ state >> 11 ^ word ^ word >> 30) & lanes
                columns.append(_split(word * OUTPUT_FACTOR & lanes))
            else:
                word = state
        yield range(index, CLASSES, LOW + 1), columns


def _high_words(highs: list[Sequence[int]], carries: list[int], depth: int) -> list[int]:
    """Return what the high bits of all seeds give to each word that so many draws need."""
    found = [0] * SEEDS
    for table, carry, factor in zip(highs, carries, SEED_FACTORS, strict=True):
        found = [words ^ table[carry + factor * high & HIGH] for high, words in enumerate(found)]
    return [
        _join([words >> LANE_BITS * lane & WORD for words in found]) for lane in range(depth + 1)
    ]


def _join(words: Sequence[int]) -> int:
    return int.from_bytes(b"".join(word.to_bytes(LANE_BYTES, "little") for word in words), "little")


def _repeat(word: int) -> int:
    return int.from_bytes(word.to_bytes(LANE_BYTES, "little") * SEEDS, "little")


def _split(lanes: int) -> tuple[int, ...]:
    return _WORDS.unpack(lanes.to_bytes(LANE_BYTES * SEEDS, "little"))
