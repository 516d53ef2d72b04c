"""Taskiq on aio-pika: one queue of dicts, acknowledged after the task."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.queue import Queue, QueueType

from bench.comparators.counting import PREFETCH, QUEUE, SLEEP_SECONDS, counted

broker = AioPikaBroker(os.environ["FEEDBUS_BROKER_URL"], qos=PREFETCH).with_queue(
    Queue(name=QUEUE, type=QueueType.CLASSIC)
)


@broker.task(task_name="handle")
async def handle(message: dict[str, Any]) -> None:
    """Wait, as for the answer of a service."""
    await asyncio.sleep(SLEEP_SECONDS)
    counted.handle(message)
