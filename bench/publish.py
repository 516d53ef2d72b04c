"""`python -m bench.publish`: the cost of confirms, on a private RabbitMQ.

Persistent messages go to one durable queue: without confirms, with one wait for the confirms of
many messages as feedbus does, and with a wait for each message. The rates are medians of several
rounds, each of which has all three.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kombu.connection import Connection

from feedbus.broker.publisher import WINDOW, Publisher
from feedbus.wire import Outgoing
from servers.rabbitmq import RabbitMQ

ROUNDS = 5
MESSAGES, ALONE = 20_000, 2_000
BODY = b'{"tweetId": 1, "followerId": 123456, "text": "' + b"x" * 140 + b'"}'
QUEUE = "bench"


def main() -> None:
    """Measure and print the table."""
    rates: dict[str, list[float]] = {"unconfirmed": [], "pipelined": [], "one at a time": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        RabbitMQ(Path(folder)) as node,
        Connection(node.url.replace("amqp:", "pyamqp:")) as connection,
    ):
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True, auto_delete=False)
        for _ in range(ROUNDS):
            rates["unconfirmed"].append(_rate(channel, MESSAGES, _unconfirmed(connection)))
            rates["pipelined"].append(_rate(channel, MESSAGES, _confirmed(connection, WINDOW)))
            rates["one at a time"].append(_rate(channel, ALONE, _confirmed(connection, 1)))
    best = statistics.median(rates["unconfirmed"])
    print(f"{'':<16}{'messages/s':>12}{'of unconfirmed':>16}")
    for name, found in rates.items():
        median = statistics.median(found)
        print(f"{name:<16}{median:>12,.0f}{median / best:>15.0%}")


def _rate(channel: Any, count: int, publish: Callable[[Sequence[Outgoing]], None]) -> float:
    messages = [
        Outgoing("", QUEUE, BODY, "application/json", f"message-{number}")
        for number in range(count)
    ]
    started = time.perf_counter()
    publish(messages)
    seconds = time.perf_counter() - started
    # Only publishing is measured, so the broker may finish its work before the next round.
    while channel.queue_declare(QUEUE, passive=True).message_count < count:
        time.sleep(0.05)
    assert channel.queue_purge(QUEUE) == count
    return count / seconds


def _unconfirmed(connection: Connection) -> Callable[[Sequence[Outgoing]], None]:
    channel = connection.channel()

    def publish(messages: Sequence[Outgoing]) -> None:
        for message in messages:
            prepared = channel.prepare_message(
                message.body,
                content_type=message.content_type,
                content_encoding="utf-8",
                headers={"feedbus-published-at": time.time_ns() // 1000},
                properties={"delivery_mode": 2, "message_id": message.message_id},
            )
            channel.basic_publish(prepared, message.exchange, message.routing_key, mandatory=True)
        # An answer on the same channel shows that the broker has read the messages.
        channel.queue_declare(QUEUE, passive=True)

    return publish


def _confirmed(connection: Connection, window: int) -> Callable[[Sequence[Outgoing]], None]:
    publisher = Publisher(connection)

    def publish(messages: Sequence[Outgoing]) -> None:
        for start in range(0, len(messages), window):
            assert not publisher.send(messages[start : start + window])

    return publish


if __name__ == "__main__":
    main()
