"""A consumer on RabbitMQ survives the loss of its channel, its peer, its queue or its rights."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.bus import Bus, LiveBus
from feedbus.generations import topology_setup
from feedbus.metrics import Metrics
from feedbus.store.peewee import close_bound
from feedbus.urls import parse_broker_url
from servers.rabbitmq import RabbitMQ
from tests.projects import wait_until
from tests.small_topologies import queue
from tests.systems import System

pytestmark = pytest.mark.integration
OUTAGES = "feedbus_outages_total"
libc_with_interpreter_lock = ctypes.PyDLL(None)


@pytest.fixture(autouse=True)
def _closed_store():
    yield
    close_bound()


@contextmanager
def consumer_timeout(node: RabbitMQ, milliseconds: int):
    """Set the consumer timeout of a node, and let the node check it often."""
    before = node.evaluate("application:get_env(rabbit, consumer_timeout)")
    change = (
        "application:set_env(rabbit, consumer_timeout, {}),"
        " application:set_env(rabbit, channel_tick_interval, {})"
    )
    node.evaluate(change.format(milliseconds, 200))
    try:
        yield
    finally:
        node.evaluate(change.format(before.strip("{}").partition(",")[2], 60000))


def permit(node: RabbitMQ, user: str, host: str = "/", **patterns: str) -> None:
    """Give a user permissions in a virtual host."""
    node.request("PUT", f"/api/permissions/{quote(host, safe='')}/{user}", patterns)


def test_after_a_lost_connection_only_what_is_in_the_handler_is_handled_again(
    rabbitmq, tmp_path: Path
):
    system = System.at(tmp_path, queue(prefetch=10), broker_url=rabbitmq.url)
    system.publish(range(4))

    def lose(message: dict[str, Any], bus: Bus) -> None:
        system.note(message)
        if system.seen == [0]:
            rabbitmq.close_connections()

    system.run(lose, idle_seconds=1.0)
    assert system.seen == [0, 0, 1, 2, 3]


def test_a_connection_that_was_closed_while_nothing_was_published_costs_no_outage(
    rabbitmq, tmp_path: Path
):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    metrics = Metrics.none()
    with LiveBus(system.topology, metrics) as bus:
        bus.publish("work", {"n": 1})
        rabbitmq.close_connections()
        bus.publish("work", {"n": 2})
    assert metrics.value("feedbus_published_total", "work", "unconfirmed") == 0
    assert system.ready() == {"work": 2}


def test_messages_that_wait_for_their_turn_are_given_back_before_they_time_out(
    rabbitmq, tmp_path: Path
):
    system = System.at(tmp_path, queue(prefetch=10), broker_url=rabbitmq.url)
    system = System(replace(system.topology, consumer_timeout_seconds=3.0), system.seen)
    metrics = Metrics.none()

    def slow(message: dict[str, Any], _bus: Bus) -> None:
        system.note(message)
        time.sleep(1.0)

    system.publish(range(6))
    with consumer_timeout(rabbitmq, 3000):
        system.run(slow, idle_seconds=0.6, metrics=metrics)
    assert system.seen == list(range(6))
    assert metrics.value(OUTAGES, "work", "broker") == 0


def test_a_timeout_that_the_topology_does_not_know_is_learned_from_the_broker(
    rabbitmq, tmp_path: Path
):
    system = System.at(tmp_path, queue(prefetch=10), broker_url=rabbitmq.url)

    def slow(message: dict[str, Any], _bus: Bus) -> None:
        system.note(message)
        time.sleep(1.0)

    system.publish(range(6))
    with consumer_timeout(rabbitmq, 2500):
        system.run(slow, idle_seconds=1.0)
    assert set(system.seen) == set(range(6))
    assert len(system.seen) <= 8  # at most what was in the handler, when it was learned
    assert system.ready() == {"work": 0}


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("server", ["rabbitmq", "rabbitmq4"])
def test_a_message_whose_handling_takes_longer_than_the_brokers_timeout_is_given_up(
    server: str,
    concurrency: int,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
):
    """RabbitMQ 4.3 has a timeout of quorum queues alone: it cancels the consumer.

    It cancels it once for each time of a delivery: the messages that are delivered after record 0
    make a second cancel.
    """
    node: RabbitMQ = request.getfixturevalue(server)
    cancels = node.version.number >= (4, 3)
    options = {"delivery_limit": 2, "concurrency": concurrency, "prefetch": 6}
    work = queue(**options, type="quorum" if cancels else "classic")
    system = System.at(tmp_path, work, broker_url=node.url)

    queue_name = Names(system.topology).queue(system.topology.consumer("work"))

    def are_given_back() -> bool:
        with broker.connect(system.topology) as connection:
            ready = broker.count_messages(connection, queue_name)
        return ready >= 8 - len({*system.seen} - {1})

    def slow(message: dict[str, Any], _bus: Bus) -> None:
        if message["n"] == 1:
            wait_until(are_given_back)
            time.sleep(0.5)  # until the second cancel
        else:
            time.sleep(0.1)
        system.note(message)

    system.publish(range(8))
    with consumer_timeout(node, 1000):
        system.run(slow, idle_seconds=1.5)
    (letter,) = system.dead()
    assert letter.payload == {"n": 1}
    assert "ended 2 times" in letter.reason
    lost = f"the broker delivers message {letter.message_id} of work again: "
    assert caplog.text.count(lost) == 2
    assert caplog.text.count("event=channel_lost consumer=work ") >= 2
    if cancels:
        assert (
            "the broker cancelled the consumer, probably because handling the message took"
            in letter.reason
        )
    else:
        assert "the broker waits only 1 s for an acknowledgement" in letter.reason
    assert system.seen.count(1) == 2
    assert set(system.seen) == set(range(8))
    assert system.ready() == {"work": 0}


def test_after_a_lost_connection_what_ran_at_once_is_repeated_when_it_has_ended(
    rabbitmq, tmp_path: Path
):
    system = System.at(tmp_path, queue(concurrency=4, prefetch=20), broker_url=rabbitmq.url)
    running: set[int] = set()
    lock = threading.Lock()
    begun: list[int] = []

    def slow(message: dict[str, Any], _bus: Bus) -> None:
        n = message["n"]
        with lock:
            assert n not in running, f"{n} is handled beside its own repetition"
            running.add(n)
            begun.append(n)
            fourth = len(begun) == 4
        if fourth:
            rabbitmq.close_connections()
        time.sleep(0.3)
        with lock:
            running.discard(n)
        system.note(message)

    system.publish(range(12))
    system.run(slow, idle_seconds=1.5)
    assert system.dead() == []
    assert set(system.seen) == set(range(12))
    assert len(begun) <= 12 + 4  # only the records that ran, not the ones that waited


def test_a_message_whose_handler_stops_the_heartbeats_is_given_up(rabbitmq, tmp_path: Path):
    system = System.at(tmp_path, queue(delivery_limit=2), broker_url=f"{rabbitmq.url}?heartbeat=1")

    def stop_every_thread(message: dict[str, Any], _bus: Bus) -> None:
        system.note(message)
        if message["n"] == 1:
            libc_with_interpreter_lock.usleep(5_000_000)

    system.publish([1, 2])
    system.run(stop_every_thread, idle_seconds=1.0)
    (letter,) = system.dead()
    assert "no heartbeat was sent for 5 s" in letter.reason
    assert (system.seen.count(1), system.seen.count(2)) == (2, 1)


def test_a_queue_that_is_deleted_is_waited_for_and_named(
    rabbitmq, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    name = Names(system.topology).queue(system.topology.consumer("work"))
    with caplog.at_level(logging.INFO), system.running(system.note) as thread:
        system.publish([1])
        wait_until(lambda: system.seen == [1])
        with broker.connect(system.topology) as connection:
            connection.default_channel.queue_delete(name)
        wait_until(lambda: f"there is no queue {name} for work; `feedbus apply`" in caplog.text)
        assert thread.is_alive()
        topology_setup.set_up(system.topology)
        system.publish([2])
        wait_until(lambda: system.seen == [1, 2])
        wait_until(lambda: "event=consumer_resumed consumer=work" in caplog.text)


def test_a_user_who_may_not_configure_consumes_and_publishes(rabbitmq, tmp_path: Path):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    rabbitmq.request("PUT", "/api/users/reader", {"password": "secret", "tags": ""})
    try:
        permit(rabbitmq, "reader", configure="^$", write=".*", read=".*")
        url = parse_broker_url(f"amqp://reader:secret@127.0.0.1:{rabbitmq.port}//")
        reader = System(replace(system.topology, broker_url=url), system.seen)
        reader.publish([1, 2])
        assert reader.run(system.note) == "idle for 0.3 s"
        assert system.seen == [1, 2]
    finally:
        rabbitmq.request("DELETE", "/api/users/reader")


def test_a_user_who_may_not_read_gets_the_missing_permission_named(
    rabbitmq, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    rabbitmq.request("PUT", "/api/users/writer", {"password": "secret", "tags": ""})
    try:
        permit(rabbitmq, "writer", configure="^$", write=".*", read="^$")
        url = parse_broker_url(f"amqp://writer:secret@127.0.0.1:{rabbitmq.port}//")
        writer = System(replace(system.topology, broker_url=url), system.seen)
        assert writer.run(system.note, max_runtime_seconds=1.0, idle_seconds=9) == "ran for 1 s"
    finally:
        rabbitmq.request("DELETE", "/api/users/writer")
    assert "access to queue" in caplog.text
    assert "rabbitmqctl set_permissions" in caplog.text
    assert "and write for amq.default" in caplog.text


def test_a_virtual_host_that_is_deleted_is_waited_for(
    rabbitmq, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    url = f"amqp://guest:guest@127.0.0.1:{rabbitmq.port}/doomed"

    def make_host() -> None:
        rabbitmq.request("PUT", "/api/vhosts/doomed", {})
        permit(rabbitmq, "guest", "doomed", configure=".*", write=".*", read=".*")

    make_host()
    try:
        system = System.at(tmp_path, queue(), broker_url=url)
        with system.running(system.note):
            system.publish([1])
            wait_until(lambda: system.seen == [1])
            rabbitmq.request("DELETE", "/api/vhosts/doomed")
            wait_until(lambda: "check the virtual host" in caplog.text)
            make_host()
            topology_setup.set_up(system.topology)
            system.publish([2])
            wait_until(lambda: system.seen == [1, 2])
    finally:
        rabbitmq.request("DELETE", "/api/vhosts/doomed")


def test_limits_end_a_run_whose_broker_is_away(tmp_path: Path, rabbitmq):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    url = parse_broker_url("amqp://guest:guest@127.0.0.1:1//")
    away = System(replace(system.topology, broker_url=url))
    assert away.run(away.note, max_runtime_seconds=0.5, idle_seconds=9) == "ran for 0.5 s"
