"""Celery: one queue of dicts, one process, acknowledged after the task."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from bench.comparators.counting import PREFETCH, QUEUE, counted

app = Celery("bench", broker=os.environ["FEEDBUS_BROKER_URL"])
app.conf.update(
    task_default_queue=QUEUE,
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=PREFETCH,
    broker_connection_retry_on_startup=True,
)


@app.task(name="handle")
def handle(message: dict[str, Any]) -> None:
    """Count the message."""
    counted.handle(message)
