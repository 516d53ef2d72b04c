"""`python -m bench.comparators.counting_publish FRAMEWORK KEYS`: fill a framework's queue."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from bench.comparators.counting import MESSAGES, QUEUE, payload

Payloads = Sequence[dict[str, Any]]


def by_feedbus(payloads: Payloads) -> None:
    """Publish with each message's key as its routing key."""
    import feedbus

    with feedbus.connect("topology.toml") as bus:
        bus.publish_many("work", [(each, each["key"]) for each in payloads])


def by_kombu(payloads: Payloads) -> None:
    """Publish as plain JSON, which FastStream and Repid read."""
    import kombu

    with kombu.Connection(os.environ["FEEDBUS_BROKER_URL"]) as connection:
        queue = kombu.Queue(QUEUE, durable=True)
        with connection.Producer() as producer:
            for each in payloads:
                producer.publish(
                    each, routing_key=QUEUE, declare=[queue], serializer="json", delivery_mode=2
                )


def by_celery(payloads: Payloads) -> None:
    """Send tasks."""
    from bench.comparators.counting_celery import handle

    for each in payloads:
        handle.apply_async(args=[each])


def by_dramatiq(payloads: Payloads) -> None:
    """Send to the actor."""
    from bench.comparators.counting_dramatiq import handle

    for each in payloads:
        handle.send(each)


def by_taskiq(payloads: Payloads) -> None:
    """Send tasks, a hundred at a time."""
    from bench.comparators.counting_taskiq import broker, handle

    async def publish() -> None:
        broker.is_worker_process = True  # otherwise it does not declare its queues
        await broker.startup()
        for start in range(0, len(payloads), 100):
            await asyncio.gather(*map(handle.kiq, payloads[start : start + 100]))
        await broker.shutdown()

    asyncio.run(publish())


PUBLISHERS: dict[str, Callable[[Payloads], None]] = {
    "feedbus": by_feedbus,
    "faststream": by_kombu,
    "repid": by_kombu,
    "celery": by_celery,
    "dramatiq": by_dramatiq,
    "taskiq": by_taskiq,
}

if __name__ == "__main__":
    PUBLISHERS[sys.argv[1]]([payload(number, int(sys.argv[2])) for number in range(MESSAGES)])
