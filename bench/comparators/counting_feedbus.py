"""feedbus: one queue of dicts, no store."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from bench.comparators.counting import SLEEP_SECONDS, counted
from feedbus import handler

if os.environ["BENCH_SCENARIO"] == "async":

    @handler
    async def handle(message: dict[str, Any]) -> None:
        """Wait, as for the answer of a service."""
        await asyncio.sleep(SLEEP_SECONDS)
        counted.handle(message)

else:

    @handler
    def handle(message: dict[str, Any]) -> None:
        """Count the message."""
        counted.handle(message)
