"""Print how many keys a ring places per second: new keys, and keys in its cache."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from feedbus.ring import Ring

KEYS = 100_000
ROUNDS = 5


def measure(members: Sequence[tuple[str, int]], keys: Sequence[str]) -> tuple[float, float]:
    """Return keys per second, for new and for cached keys: the best of some rounds."""
    fresh = remembered = 0.0
    for _ in range(ROUNDS):
        ring = Ring.of(members)
        started = time.perf_counter()
        for key in keys:
            ring.route(key)
        fresh = max(fresh, len(keys) / (time.perf_counter() - started))
        latest = keys[-10_000:]
        for key in latest:
            ring.route(key)
        started = time.perf_counter()
        for _ in range(10):
            for key in latest:
                ring.route(key)
        remembered = max(remembered, 10 * len(latest) / (time.perf_counter() - started))
    return fresh, remembered


def main() -> None:
    """Measure short keys and UUIDs on a ring of ten, two hundred and a thousand buckets."""
    kinds = {
        "user ids 1 to 100,000": [str(number) for number in range(1, KEYS + 1)],
        "UUIDs of 36 characters": [
            str(uuid.UUID(int=(n * 0x9E3779B97F4A7C15) ** 2 % 2**128)) for n in range(KEYS)
        ],
    }
    heads = ("buckets", "fresh keys/s", "100,000 take", "remembered/s")
    print(f"{'keys':<24}", "{:>8} {:>14} {:>13} {:>14}".format(*heads))
    for label, keys in kinds.items():
        for weight in (1, 20, 100):
            fresh, remembered = measure([(f"q{n}", weight) for n in range(10)], keys)
            took = f"{KEYS / fresh:.3f} s"
            print(f"{label:<24} {10 * weight:>8} {fresh:>14,.0f} {took:>13} {remembered:>14,.0f}")


if __name__ == "__main__":
    main()
