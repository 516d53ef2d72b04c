"""Dramatiq: one queue of dicts, one thread."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from bench.comparators.counting import QUEUE, counted

broker = RabbitmqBroker(url=os.environ["FEEDBUS_BROKER_URL"], confirm_delivery=True)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE)
def handle(message: dict[str, Any]) -> None:
    """Count the message."""
    counted.handle(message)
