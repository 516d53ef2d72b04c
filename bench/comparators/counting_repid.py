"""Repid on AMQP 1.0: one queue of dicts, acknowledged after the actor."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from repid import AmqpServer, BasicConverter, Repid, Router, catch_all_routing_strategy

from bench.comparators.counting import PREFETCH, QUEUE, SLEEP_SECONDS, counted

SLEEPS = os.environ["BENCH_SCENARIO"] == "async"
router = Router()


@router.actor(channel=QUEUE, routing_strategy=catch_all_routing_strategy, converter=BasicConverter)
async def handle(**message: Any) -> None:
    """Count the message after a wait, as for the answer of a service."""
    if SLEEPS:
        await asyncio.sleep(SLEEP_SECONDS)
    counted.handle(message)


async def work() -> None:
    """Run a worker until a signal ends it."""
    app, server = Repid(), AmqpServer(os.environ["FEEDBUS_BROKER_URL"])
    app.servers.register_server("bench", server)
    app.include_router(router)
    async with server.connection():
        await app.run_worker(tasks_limit=PREFETCH, register_signals=[signal.SIGTERM])


if __name__ == "__main__":
    asyncio.run(work())
