"""Use a connection while its thread sends heartbeats all the time."""

from __future__ import annotations

import os
import time

import pytest

from feedbus import broker
from feedbus.broker.rabbitmq import background_heartbeats
from feedbus.topology import Topology

BYTES = 300_000  # larger than a frame


def stays_open(topology: Topology, seconds: float) -> None:
    """Check that the broker keeps a connection that is not used for some seconds."""
    with broker.connect(topology) as connection:
        time.sleep(seconds)
        assert connection.channel().queue_declare(exclusive=True).message_count == 0


def exchange_messages(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that messages arrive unchanged while a heartbeat is sent every 0.1 ms."""
    monkeypatch.setattr(background_heartbeats, "BEATS_AN_INTERVAL", 10_000)
    with broker.connect(topology) as connection:
        channel = connection.connection.channel()
        channel.auto_decode = False
        queue = channel.queue_declare(exclusive=True).queue
        for _ in range(100):
            body = os.urandom(BYTES)
            message = channel.prepare_message(body)
            channel.basic_publish(message, "", queue)
            while (received := channel.basic_get(queue, no_ack=True)) is None:
                pass
            assert received.body == body
