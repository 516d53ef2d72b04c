"""FastStream: one queue of dicts, acknowledged after the handler."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from faststream import FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from bench.comparators.counting import PREFETCH, QUEUE, SLEEP_SECONDS, counted

broker = RabbitBroker(
    os.environ["FEEDBUS_BROKER_URL"], default_channel=Channel(prefetch_count=PREFETCH), logger=None
)
app = FastStream(broker)
queue = RabbitQueue(QUEUE, durable=True)

if os.environ["BENCH_SCENARIO"] == "async":

    @broker.subscriber(queue)
    async def handle(message: dict[str, Any]) -> None:
        """Wait, as for the answer of a service."""
        await asyncio.sleep(SLEEP_SECONDS)
        counted.handle(message)

else:

    @broker.subscriber(queue)
    async def handle(message: dict[str, Any]) -> None:
        """Count the message."""
        counted.handle(message)
