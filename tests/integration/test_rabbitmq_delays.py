"""Delays on RabbitMQ: they survive a broker that restarts, and come when they are due.

A kill -9 is not tested: within seconds of the first use of a delay RabbitMQ 3.10 can lose some.
"""

from __future__ import annotations

import time
from pathlib import Path

from feedbus import broker
from feedbus.broker import timer
from feedbus.broker.names import Names
from feedbus.bus import LiveBus
from tests.projects import wait_until
from tests.systems import System, queue, sharded

MESSAGES = 60
LONGEST_SECONDS = 12.0


def test_what_is_delayed_survives_a_restart_of_the_broker(fragile_rabbitmq, tmp_path: Path):
    system = System.at(tmp_path, queue(), sharded(3), broker_url=fragile_rabbitmq.url)
    started = time.monotonic()
    with LiveBus(system.topology, timeout_seconds=30.0) as bus:
        for n in range(MESSAGES):
            # Some are in each place of the timer, and on the way between two, while it is away.
            delay = 0.05 * 1.15**n
            exchange, key = ("ring", f"key-{n}") if n % 2 else ("work", "")
            options = {
                "headers": {"n": n},
                "priority": n % 10,
                "delay": min(delay, LONGEST_SECONDS),
            }
            bus.publish(exchange, {"n": n}, key, **options)
    fragile_rabbitmq.restart()
    wait_until(lambda: sum(system.ready().values()) >= MESSAGES, 90)
    assert time.monotonic() - started >= LONGEST_SECONDS
    with broker.connect(system.topology) as connection:
        assert timer.count(connection, Names(system.topology)) == timer.Delayed(0, 0)
    for name in system.topology.consumers:
        system.run(system.note, name, max_messages=system.ready()[name])
    assert set(system.seen) == set(range(MESSAGES))


def test_a_high_priority_does_not_hold_up_what_is_due_before_it(fragile_rabbitmq, tmp_path: Path):
    # In a quorum queue of RabbitMQ 4 it would pass the others, and only the first can expire.
    system = System.at(tmp_path, queue(), broker_url=fragile_rabbitmq.url)
    with LiveBus(system.topology, timeout_seconds=30.0) as bus:
        bus.publish("work", {"n": 1}, delay=1)
        time.sleep(0.9)
        bus.publish("work", {"n": 2}, delay=1, priority=9)
    system.run(system.note, max_messages=2, idle_seconds=10)
    assert system.seen == [1, 2]
