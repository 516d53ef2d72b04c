"""The publisher knows the outcome of every message that it publishes on RabbitMQ."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from amqp.exceptions import PreconditionFailed

from feedbus import broker
from feedbus.broker.publisher import Publisher
from feedbus.broker_names import Names
from feedbus.bus import LiveBus
from feedbus.errors import Outage, PublishError
from feedbus.generations import topology_setup
from feedbus.metrics import Metrics
from feedbus.store.peewee import close_bound
from feedbus.wire import Outgoing
from servers.rabbitmq import RabbitMQ
from tests.projects import PATIENCE_SECONDS, wait_until
from tests.small_topologies import queue
from tests.systems import System

pytestmark = pytest.mark.integration
BLOCKED = "feedbus_publisher_blocked_seconds_total"
FULL = {"max_length": 1, "overflow": "reject-publish"}


@pytest.fixture(autouse=True)
def _closed_store():
    yield
    close_bound()


@contextmanager
def alarm(node: RabbitMQ):
    """Let a node have too little memory, so that it blocks publishers, until the block ends."""
    node.evaluate("vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1})")
    try:
        yield
    finally:
        end_alarm(node)


def end_alarm(node: RabbitMQ) -> None:
    """Let a node have memory again."""
    node.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.6)")


@pytest.fixture
def large_messages_are_refused(rabbitmq: RabbitMQ):
    """Let the node refuse messages of more than 200,000 bytes."""
    before = rabbitmq.evaluate("element(2, application:get_env(rabbit, max_message_size))")
    change = (
        "application:set_env(rabbit, max_message_size, {0}),"
        " persistent_term:put(max_message_size, {0})"  # where RabbitMQ 4 reads it
    )
    rabbitmq.evaluate(change.format(200_000))
    yield
    rabbitmq.evaluate(change.format(before))


def numbers(system: System) -> list[int]:
    """Take all messages of "work"."""
    system.run(system.note)
    return system.seen


def test_a_window_is_distinguished_message_by_message(rabbitmq, tmp_path: Path):
    system = System.at(
        tmp_path, queue(), queue("full", routing_keys=("full",), **FULL), broker_url=rabbitmq.url
    )
    exchange = Names(system.topology).exchange("work")
    keys = ["", "full", "nowhere", "full", "", "full", "nowhere"]
    window = [
        Outgoing(exchange, key, b'{"n": 1}', "application/json", f"m{number}")
        for number, key in enumerate(keys)
    ]
    with broker.connect(system.topology) as connection:
        refusals = Publisher(connection).send(window)
        again = Publisher(connection).send(window[:1])
    reported = {refusal.message.message_id: refusal.outcome for refusal in refusals}
    assert reported == {"m2": "returned", "m3": "nacked", "m5": "nacked", "m6": "returned"}
    assert again == []
    assert system.ready() == {"work": 3, "full": 1}


def test_few_headers_that_do_not_fit_into_a_small_frame_are_an_error(rabbitmq, tmp_path: Path):
    change = "application:set_env(rabbit, frame_max, {})"
    before = rabbitmq.evaluate("element(2, application:get_env(rabbit, frame_max))")
    rabbitmq.evaluate(change.format(8192))
    try:
        system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
        with LiveBus(system.topology, timeout_seconds=0.3) as bus:
            with pytest.raises(PublishError, match="expected at most 8172 bytes of headers"):
                bus.publish("work", {"n": 1}, headers={"large": "x" * 9_000})
            bus.publish("work", {"n": 2})
        assert numbers(system) == [2]
    finally:
        rabbitmq.evaluate(change.format(before))


def test_a_full_queue_is_an_error_that_says_so(rabbitmq, tmp_path: Path):
    system = System.at(tmp_path, queue(**FULL), broker_url=rabbitmq.url)
    with LiveBus(system.topology, timeout_seconds=0.3) as bus:
        bus.publish("work", {"n": 1})
        with pytest.raises(PublishError, match=r"nack.*a queue is full"):
            bus.publish("work", {"n": 2})
    assert numbers(system) == [1]


def test_a_full_queue_that_is_read_in_time_slows_its_publisher_only(rabbitmq, tmp_path: Path):
    system = System.at(tmp_path, queue(**FULL), broker_url=rabbitmq.url)
    with (
        system.running(system.note),
        LiveBus(system.topology, timeout_seconds=PATIENCE_SECONDS) as bus,
    ):
        for number in range(10):
            bus.publish("work", {"n": number})
        wait_until(lambda: len(system.seen) == 10)
    assert system.seen == list(range(10))


def test_what_a_handler_publishes_to_a_full_queue_is_its_failure_and_not_lost(
    rabbitmq, tmp_path: Path
):
    full = queue("next", exchange="other", routing_keys=("n",), **FULL)
    system = System.at(tmp_path, queue(), full, broker_url=rabbitmq.url)
    system.publish([1, 2])
    system.run(lambda message, bus: bus.publish("other", message, "n"), idle_seconds=3.0)
    (letter,) = system.dead()
    assert "nack" in letter.reason
    assert letter.body == b'{"n":2}'
    assert system.ready() == {"work": 0, "next": 1}


def test_an_alarm_slows_the_publisher_and_loses_nothing(
    rabbitmq, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    metrics = Metrics.none()
    published: list[int] = []

    def publish() -> None:
        with LiveBus(system.topology, metrics, timeout_seconds=PATIENCE_SECONDS) as bus:
            for number in range(40):
                bus.publish_many("work", [({"n": number}, ""), ({"n": number + 1000}, "")])
                published.append(number)

    with caplog.at_level(logging.WARNING):
        thread = threading.Thread(target=publish)
        with alarm(rabbitmq):
            thread.start()
            wait_until(lambda: metrics.value(BLOCKED) > 1.5)
            assert published == []
        thread.join()
    assert published == list(range(40))
    assert numbers(system) == [each for n in range(40) for each in (n, n + 1000)]
    logged = [record.msg.name for record in caplog.records if "bus" in record.name]
    assert logged == ["broker_blocked", "broker_unblocked"]


def test_an_alarm_does_not_count_towards_the_time_of_the_handler_that_publishes(
    rabbitmq, tmp_path: Path
):
    other = queue("next", exchange="other", routing_keys=("n",))
    system = System.at(tmp_path, queue(), other, broker_url=rabbitmq.url)
    system.publish([1])
    with alarm(rabbitmq):
        handled = system.running(lambda message, bus: bus.publish("other", message, "n"))
        with handled:
            wait_until(system.pauses)
            end_alarm(rabbitmq)
            wait_until(lambda: system.ready() == {"work": 0, "next": 1})


def test_a_publisher_does_not_wait_for_an_alarm_longer_than_it_may(
    rabbitmq, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    with LiveBus(system.topology, timeout_seconds=0.2) as bus:
        with alarm(rabbitmq):
            started = time.monotonic()
            for _ in range(2):
                with pytest.raises(
                    Outage, match="short of memory or disk space and blocks publishers"
                ):
                    bus.publish("work", {"n": 1}, message_id="the-same")
            assert time.monotonic() - started < 20  # neither for the alarm's end nor for a goodbye
        bus.publish("work", {"n": 2})
    assert set(numbers(system)) == {1, 2}
    assert caplog.text.count("event=broker_blocked") == 1


@pytest.mark.usefixtures("large_messages_are_refused")
def test_a_message_that_the_broker_never_takes_is_an_error_and_not_an_outage(
    rabbitmq, tmp_path: Path
):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    with system.bus() as bus:
        with pytest.raises(PublishError, match="larger than configured max size"):
            bus.publish("work", {"n": 1, "text": "x" * 300_000})
        bus.publish("work", {"n": 2})
    assert numbers(system) == [2]


@pytest.mark.usefixtures("large_messages_are_refused")
def test_a_message_over_which_the_channel_is_closed_fails_none_of_those_beside_it(
    rabbitmq, tmp_path: Path
):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    exchange, large = (
        Names(system.topology).exchange("work"),
        b'{"n": 9, "t": "%s"}' % (b"x" * 300_000),
    )
    window = [
        Outgoing(
            exchange,
            "" if number != 450 else "nowhere",
            large if number in {200, 201, 400} else b'{"n": %d}' % number,
            "application/json",
            f"m{number}",
        )
        for number in range(500)
    ]
    with broker.connect(system.topology) as connection, Publisher(connection) as publisher:
        refusals = publisher.send(window)
        assert publisher.send(window[:1]) == []
    found = {
        refusal.message.message_id: (refusal.outcome, refusal.is_permanent) for refusal in refusals
    }
    closing = ("nacked", True)
    refused = {"m200": closing, "m201": closing, "m400": closing, "m450": ("returned", False)}
    assert found == refused
    assert set(numbers(system)) == {*range(500)} - {200, 201, 400, 450}


def test_a_channel_that_is_closed_beside_the_publisher_refuses_no_message(rabbitmq, tmp_path: Path):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    message = Outgoing(Names(system.topology).exchange("work"), "", b'{"n": 1}', None, "m")
    with broker.connect(system.topology) as connection:
        beside = connection.channel()
        publisher = Publisher(connection)
        beside.basic_ack(7)  # an error of that channel
        with pytest.raises(PreconditionFailed, match="unknown delivery tag"):
            publisher.send([message] * 500)


@pytest.mark.usefixtures("large_messages_are_refused")
def test_a_child_that_is_too_large_is_its_parents_failure(rabbitmq, tmp_path: Path):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)

    def grow(message, bus) -> None:
        system.note(message)
        if message["n"] == 1:
            bus.publish("work", {"n": 9, "text": "x" * 300_000})

    system.publish([1, 2])
    system.run(grow, idle_seconds=1.0)
    (letter,) = system.dead()
    assert "larger than configured max size" in letter.reason
    assert 2 in system.seen


def test_an_exchange_that_is_gone_is_waited_for(rabbitmq, tmp_path: Path):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    with LiveBus(system.topology, timeout_seconds=0.2) as bus:
        bus.publish("work", {"n": 1})
        with broker.connect(system.topology) as connection:
            connection.default_channel.exchange_delete(Names(system.topology).exchange("work"))
        with pytest.raises(Outage, match=r"no exchange .*work.*; `feedbus up` declares it"):
            bus.publish("work", {"n": 2})
        topology_setup.set_up(system.topology)
        bus.publish("work", {"n": 3})
    assert numbers(system) == [1, 3]


def test_a_broker_under_an_alarm_is_reported_as_taking_no_messages(
    rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    topology = System.at(tmp_path, queue(), broker_url=rabbitmq.url).topology
    assert broker.refusal(topology) == ""
    with alarm(rabbitmq):
        assert "short of memory or disk and blocks publishers" in broker.refusal(topology)
    wait_until(lambda: not broker.refusal(topology))
