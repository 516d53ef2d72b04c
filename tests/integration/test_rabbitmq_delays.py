"""Delays on RabbitMQ: they survive a broker that is killed, and come when they are due."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from feedbus import broker
from feedbus.broker import timer
from feedbus.broker_names import Names
from feedbus.bus import LiveBus
from feedbus.errors import Retry
from tests.projects import PATIENCE_SECONDS, wait_until
from tests.small_topologies import queue, sharded
from tests.systems import System

MESSAGES = 40
LONGEST_SECONDS = 8.0
NOTHING = timer.DelayedCounts(0, 0)


def test_nothing_delayed_is_lost_when_the_broker_is_killed_right_after_the_first_use_of_a_delay(
    rabbitmq, tmp_path: Path
):
    system = System.at(tmp_path, queue(), sharded(3), broker_url=rabbitmq.url)
    with LiveBus(system.topology, timeout_seconds=PATIENCE_SECONDS) as bus:
        started = time.monotonic()
        for n in range(MESSAGES):
            # During the outage some are in each place of the timer, and some between two places.
            delay = 0.05 * 1.15**n
            exchange, key = ("ring", f"key-{n}") if n % 2 else ("work", "")
            options = {
                "headers": {"n": n},
                "priority": n % 10,
                "delay": min(delay, LONGEST_SECONDS),
                "message_id": f"message-{n}",
            }
            bus.publish(exchange, {"n": n}, key, **options)
    rabbitmq.kill()
    rabbitmq.start()
    wait_until(lambda: len(arrived(system)) == MESSAGES)
    assert time.monotonic() - started >= LONGEST_SECONDS
    with broker.connect(system.topology) as connection:
        # What arrives twice does so under the same id, by which `once` knows it again.
        wait_until(lambda: timer.count_delayed(connection, Names(system.topology)) == NOTHING)
    assert arrived(system) == {f"message-{n}": {"n": n} for n in range(MESSAGES)}


def test_the_first_use_of_a_delay_does_not_count_towards_the_time_of_its_handler(
    rabbitmq, tmp_path: Path
):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    system.publish([1])
    again = []

    def handle(message: dict[str, Any], _bus: Any) -> None:
        if not again:
            again.append(message)
            raise Retry(after_seconds=1.5)
        system.note(message)

    with system.running(handle):
        # The timer's queues have to be on the broker's disk first.
        wait_until(lambda: system.seen or system.pauses())
        assert system.seen == []
        wait_until(lambda: system.seen == [1])


def arrived(system: System) -> dict[str, Any]:
    """Return the payloads of the messages in the queues, by message id; the messages stay there."""
    found = {}
    with broker.connect(system.topology) as connection:
        channel = connection.default_channel
        names, ring = Names(system.topology), system.topology.generation("ring")
        queues = [names.member(ring, member) for member, _ in ring.members]
        for each in (names.queue(system.topology.consumers["work"]), *queues):
            while (message := channel.basic_get(each)) is not None:
                payload = json.loads(message.body)
                assert found.setdefault(message.properties["message_id"], payload) == payload
    return found


def test_a_high_priority_does_not_hold_up_what_is_due_before_it(rabbitmq, tmp_path: Path, caplog):
    caplog.set_level("INFO", logger="feedbus.broker.timer_objects")
    # In a quorum queue of RabbitMQ 4 it would pass the others, and only the first can expire.
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    with LiveBus(system.topology, timeout_seconds=PATIENCE_SECONDS) as bus:
        bus.publish("work", {"n": 1}, delay=1)
    time.sleep(0.9)
    with LiveBus(system.topology, timeout_seconds=PATIENCE_SECONDS) as bus:
        bus.publish("work", {"n": 2}, delay=1, priority=9)
    system.run(system.note, max_messages=2, idle_seconds=10)
    assert system.seen == [1, 2]
    # The first bus has waited until the timer's queues were on the broker's disk.
    assert sum("timer_declared" in record.message for record in caplog.records) == 1
