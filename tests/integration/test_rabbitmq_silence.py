"""A RabbitMQ that keeps its connections open and sends nothing: each wait for it ends in time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker.rabbitmq import transport as connections
from feedbus.bus import Bus, LiveBus
from feedbus.errors import BrokerOutage
from feedbus.metrics import Metrics
from feedbus.urls import parse_broker_url
from servers.proxy import SilentProxy
from tests.ordered_queues import LATER, Failing, published, work
from tests.projects import PATIENCE_SECONDS, wait_until
from tests.small_topologies import BATCH, queue
from tests.systems import System

pytestmark = pytest.mark.integration
OUTAGES = "feedbus_outages_total"
WAITING = {"retry": LATER}
FULL = {"retry": LATER, "waiting_limit": 1}


def through(system: System, proxy: SilentProxy, options: str = "") -> System:
    """Return the same system, its broker reached through a proxy."""
    node = system.topology.broker_url.nodes[0]
    url = f"amqp://{node.user}:{node.password}@127.0.0.1:{proxy.port}//{options}"
    return System(replace(system.topology, broker_url=parse_broker_url(url)), system.seen)


@pytest.mark.parametrize(
    "options",
    [{}, WAITING, FULL, {"concurrency": 3, **WAITING}, {"batch": BATCH}],
    ids=["idle", "a record waits", "too many wait", "concurrent", "batch"],
)
def test_a_consumer_gives_up_a_broker_that_is_silent_for_two_heartbeats(
    rabbitmq, tmp_path: Path, options: dict[str, Any]
):
    system = System.at(tmp_path, work(**options), broker_url=rabbitmq.url)
    failing, batch = "retry" in options, "batch" in options
    handler = Failing({1: 1} if failing else {})
    handle = handler.batch if batch else handler.one
    with SilentProxy(rabbitmq.port) as proxy:
        metrics = Metrics.none()
        slow = through(system, proxy, "?heartbeat=1")
        with slow.running(handle, metrics=metrics, batch=batch):
            published(system, [1])
            if failing:
                wait_until(lambda: rabbitmq.unacknowledged(".waiting") == 1)
            else:
                wait_until(lambda: handler.seen == [1])
            before = proxy.accepted
            proxy.swallow()
            wait_until(lambda: metrics.value(OUTAGES, "work", "broker") == 1)
            wait_until(lambda: proxy.accepted > before)
            if "waiting_limit" not in options:
                published(system, [2])
                wait_until(lambda: 2 in handler.seen)
        assert metrics.value(OUTAGES, "work", "broker") == 1


def test_after_a_silent_broker_a_consumer_also_publishes_on_another_connection(
    rabbitmq, tmp_path: Path
):
    metrics = Metrics.none()

    def publish(message: dict[str, Any], bus: Bus) -> None:
        bus.publish("other", message, "n")
        system.note(message)

    system = System.at(
        tmp_path,
        queue(),
        queue("next", exchange="other", routing_keys=("n",)),
        broker_url=rabbitmq.url,
    )
    with (
        SilentProxy(rabbitmq.port) as proxy,
        through(system, proxy, "?heartbeat=1").running(publish, metrics=metrics),
    ):
        system.publish([1])
        wait_until(lambda: system.ready() == {"work": 0, "next": 1})
        wait_until(
            lambda: rabbitmq.unacknowledged("work") == 0
        )  # a lost ack would repeat the record
        proxy.swallow()
        wait_until(lambda: metrics.value(OUTAGES, "work", "broker") == 1)
        system.publish([2])
        wait_until(lambda: system.ready() == {"work": 0, "next": 2})
    assert system.seen == [1, 2]
    assert metrics.value(OUTAGES, "work", "broker") == 1
    assert metrics.value("feedbus_published_total", "other", "unconfirmed") == 0


def test_a_publisher_gives_up_a_broker_that_is_silent(
    rabbitmq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(LiveBus, "CONFIRM_SECONDS", (1.0, 1.0))
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    with (
        SilentProxy(rabbitmq.port) as proxy,
        LiveBus(through(system, proxy).topology, timeout_seconds=PATIENCE_SECONDS) as bus,
    ):
        bus.publish("work", {"n": 1})
        first = proxy.accepted  # to see the declared objects, and to publish
        proxy.swallow()
        bus.publish("work", {"n": 2})
        assert proxy.accepted == 2 * first
    system.run(system.note)
    assert system.seen == [1, 2]


def test_no_answer_is_waited_for_without_a_deadline(
    rabbitmq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 0.5)
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    with SilentProxy(rabbitmq.port) as proxy:
        topology = through(system, proxy).topology
        connection = broker.connect(topology)
        channel = connection.channel()
        proxy.swallow()
        with (
            pytest.raises(BrokerOutage, match="did not answer a request within"),
            broker.outage(connection, topology.broker_url),
        ):
            channel.queue_declare("any", passive=True)
        broker.close(connection)  # without waiting for a goodbye
