"""Hash a routing key in the same way as Erlang's phash2 hashes a binary."""

from __future__ import annotations

from struct import Struct

WORD = 0xFFFF_FFFF
RESULT = 0x7FF_FFFF  # the 27 bits of a result
GOLDEN_RATIO = 0x9E37_79B9
SEED = 0x08D1_2E65  # Erlang's first value for a binary
BLOCK_BYTES = 12

_blocks = Struct("<III").iter_unpack


def phash2(data: bytes) -> int:
    """Return the 27-bit value of Erlang's phash2 for a binary.

    The algorithm is Bob Jenkins' lookup2 (https://burtleburtle.net/bob/hash/evahash.html). The nine
    steps that mix three words are written out, because the value is computed for every message to a
    ring.

    Args:
        data: the routing key in UTF-8.

    """
    if not data:
        return SEED & RESULT
    length = len(data)
    whole = length - length % BLOCK_BYTES
    tail = int.from_bytes(data[whole:], "little")
    # The length is added to the last word, whose lowest byte is free of data.
    last = (tail & WORD, tail >> 32 & WORD, (tail >> 64 << 8) + length)
    a = b = GOLDEN_RATIO
    c = SEED
    for first, second, third in (*_blocks(data[:whole]), last) if whole else (last,):
        # Only b and c are shifted right, so only they must be cut to 32 bits.
        b += second
        c = c + third & 0xFFFF_FFFF
        a = (a + first - b - c) ^ (c >> 13)
        b = ((b - c - a) ^ (a << 8)) & 0xFFFF_FFFF
        c = ((c - a - b) ^ (b >> 13)) & 0xFFFF_FFFF
        a = (a - b - c) ^ (c >> 12)
        b = ((b - c - a) ^ (a << 16)) & 0xFFFF_FFFF
        c = ((c - a - b) ^ (b >> 5)) & 0xFFFF_FFFF
        a = (a - b - c) ^ (c >> 3)
        b = ((b - c - a) ^ (a << 10)) & 0xFFFF_FFFF
        c = ((c - a - b) ^ (b >> 15)) & 0xFFFF_FFFF
    return c & RESULT
