"""The function that each framework's handler calls: count messages and measure processor time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

QUEUE = "bench"
PREFETCH = 1_000
SLEEP_SECONDS = 0.05  # of the async handlers
MESSAGES = int(os.environ.get("BENCH_MESSAGES", "0"))
WARM = MESSAGES // 10  # are handled before the measurement begins
RESULT = Path(os.environ.get("BENCH_RESULT", "result.json"))
ORDERED = os.environ.get("BENCH_ORDERED") == "1"


class Counted:
    """How many messages this process has handled, and in which order for each key."""

    def __init__(self) -> None:
        """Begin with no messages."""
        self.count = 0
        self._begun = (0.0, 0.0)
        self._latest: dict[str, int] = {}

    def handle(self, payload: Mapping[str, Any]) -> None:
        """Count one message; the last message writes the result.

        Raises:
            AssertionError: messages of one key came out of order, although the queue must keep it.

        """
        if ORDERED:
            key, number = payload["key"], payload["number"]
            assert self._latest.get(key, -1) < number, f"{key}: {number} after {self._latest[key]}"
            self._latest[key] = number
        self.count += 1
        if self.count == WARM:
            self._begun = (time.perf_counter(), time.process_time())
        if self.count == MESSAGES:
            seconds = time.perf_counter() - self._begun[0]
            processor_seconds = time.process_time() - self._begun[1]
            measured = MESSAGES - WARM
            found = {"rate": measured / seconds, "processor": processor_seconds / measured}
            temporary = RESULT.with_suffix(".part")
            temporary.write_text(json.dumps(found))
            temporary.rename(RESULT)


counted = Counted()


def payload(number: int, keys: int) -> dict[str, Any]:
    """Return the payload of message n."""
    return {
        "key": f"customer-{number % keys}",
        "number": number,
        "product": "chair",
        "text": "the ring turns and every key finds its shard",
        "price": 19.5,
        "tags": ["new", "wood"],
    }
