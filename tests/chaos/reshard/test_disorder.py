"""A ring in another order than predicted: the bindings prevent it, and consumers detect it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.bus import Bus
from feedbus.generations import state_queues, topology_setup
from feedbus.metrics import Metrics
from feedbus.records import Records
from feedbus.ring import Ring
from feedbus.store.peewee import close_bound
from feedbus.topology import Exchange
from servers.rabbitmq import RabbitMQ
from tests.small_topologies import BATCH, sharded
from tests.systems import System

WEIGHTS = (10, 9, 1, 2, 30, 3, 1, 1, 4, 12, 2, 1)
KEYS = [f"key-{number}" for number in range(600)]


@pytest.fixture(autouse=True)
def _store() -> Iterator[None]:
    yield
    close_bound()


def placed(system: System) -> dict[str, str]:
    """Return the shard that the broker gives each key to, read from its queues."""
    names = Names(system.topology)
    found: dict[str, str] = {}
    with broker.connect(system.topology) as connection:
        channel = connection.default_channel
        state = state_queues.states(connection, system.topology)["ring"]
        message = channel.prepare_message(b'{"n": 1}', properties={"delivery_mode": 2})
        for key in KEYS:
            channel.basic_publish(message, names.exchange("ring"), key)
        while len(found) < len(KEYS):
            for member, _ in state.current.members:
                queue = names.member(state.current, member)
                while (got := channel.basic_get(queue, no_ack=True)) is not None:
                    found[got.delivery_info["routing_key"]] = member
    return found


@pytest.mark.integration
def test_a_restart_of_the_broker_leaves_every_key_where_it_is_predicted(
    tmp_path: Path, rabbitmq: RabbitMQ
) -> None:
    system = System.at(tmp_path, sharded(12, weights=WEIGHTS), broker_url=rabbitmq.url)
    ring = Ring.of(system.topology.generation("ring").members)
    predicted = {key: ring.route(key) for key in KEYS}
    assert placed(system) == predicted
    rabbitmq.restart()
    assert placed(system) == predicted


def disordered(system: System) -> None:
    """Bind the current ring's queues again in the opposite order, as a restart might."""
    names = Names(system.topology)
    with broker.connect(system.topology) as connection:
        channel = connection.default_channel
        current = state_queues.states(connection, system.topology)["ring"].current
        for member, weight in current.members:
            channel.queue_unbind(names.member(current, member), names.ring(current), str(weight))
        for member, weight in reversed(current.members):
            channel.queue_bind(names.member(current, member), names.ring(current), str(weight))


def consume(system: System, seen: list[tuple[str, int]], metrics: Metrics) -> None:
    """Run every consumer for a short time, each in a thread, and collect its records."""

    def note(records: Records, _bus: Bus) -> None:
        seen.extend((row["text"], row["n"]) for row in records)

    threads = [
        threading.Thread(
            target=system.run,
            args=(note, name),
            kwargs={"batch": True, "idle_seconds": 1.5, "metrics": metrics},
        )
        for name in system.topology.consumers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def publish_plain(system: System, number: int) -> None:
    """Publish a record of each key as a foreign publisher does: only the ring places it."""
    plain = replace(system.topology, exchanges={"ring": Exchange("ring", "x-consistent-hash")})
    with System(plain).bus() as bus:
        bus.publish_many("ring", [({"n": number, "text": key}, key) for key in KEYS])


def misplaced(metrics: Metrics, system: System) -> float:
    """Return the value of the counter, over all consumers."""
    name = "feedbus_misplaced_deliveries_total"
    return sum(metrics.value(name, consumer) for consumer in system.topology.consumers)


@pytest.mark.parametrize("on", ["embedded", "rabbitmq"])
def test_a_ring_in_another_order_is_noticed_reported_and_mended(
    on: str, tmp_path: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    url: Any = request.getfixturevalue("rabbitmq").url if on == "rabbitmq" else ""
    system = System.at(tmp_path, sharded(4, batch=BATCH), broker_url=url)
    disordered(system)
    publish_plain(system, 1)
    seen: list[tuple[str, int]] = []
    metrics = Metrics.none()
    with caplog.at_level(logging.ERROR):
        consume(system, seen, metrics)
    assert misplaced(metrics, system) > 0
    assert "run `feedbus apply` to repair the ring" in caplog.text
    mended = topology_setup.set_up(system.topology)["ring"]
    assert (mended.disordered, mended.current.number, len(mended.draining)) == (False, 1, 1)
    assert mended.current.members == mended.draining[0].members
    before = misplaced(metrics, system)
    publish_plain(system, 2)
    consume(system, seen, metrics)
    assert misplaced(metrics, system) == before
    assert sorted(seen) == sorted((key, number) for key in KEYS for number in (1, 2))
