"""The timer: a delayed message comes back when it is due, with its key, and always has a target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from feedbus.broker import timer_objects
from feedbus.broker.timer import delay_message, retry_target
from feedbus.broker.timer_objects import Timer
from feedbus.broker_names import Names
from feedbus.topology import Exchange, Queue, Topology
from feedbus.urls import parse_broker_url
from feedbus.wire import Outgoing
from tests.conformance import drive
from tests.conformance.drive import (
    Publisher,
    contents,
    depth,
    drain_quietly,
    eventually,
    exchange,
    queue,
)

WORK = Queue("work", "orders", "app:work", ("k",))
NAMES = Names(
    Topology(
        "shop",
        Path("topology.toml"),
        parse_broker_url("sqlite:///unused.db"),
        {"orders": Exchange("orders", "direct")},
        {"work": WORK},
    )
)


@pytest.fixture
def delay(channel):
    """Return what delays a message with a text for the queue shop.work."""
    queue(channel, "shop.work")
    declared = Timer(NAMES.topology)
    publisher = Publisher(channel)

    def publish(text, milliseconds, key="k"):
        message = delay_message(
            NAMES,
            Outgoing("", key, text.encode(), None, text),
            milliseconds,
            retry_target(NAMES, WORK),
        )
        declared.declare(channel, [message])
        publisher.send(text, message.exchange, key, headers=message.headers, delivery_mode=2)
        publisher.wait()

    return publish


def test_what_is_delayed_comes_when_it_is_due_and_keeps_its_routing_key(channel, delay):
    started = drive.clock.monotonic()
    delay("late", 1_203, "a.key")
    delay("early", 17, "another")
    assert depth(channel, "shop.work") == 0
    eventually(lambda: depth(channel, "shop.work") == 2)
    assert drive.clock.monotonic() - started >= 1.2
    first, last = (channel.basic_get("shop.work", no_ack=True) for _ in range(2))
    assert [bytes(each.body) for each in (first, last)] == [b"early", b"late"]
    assert [each.delivery_info["routing_key"] for each in (first, last)] == ["another", "a.key"]


def test_what_has_no_target_any_more_waits_until_it_is_back(broker, channel, delay):
    delay("kept", 2_500)
    channel.queue_delete("shop.work")
    eventually(lambda: depth(channel, NAMES.timer_undelivered) == 1)
    timer_objects.restore(broker.feedbus_channel(), NAMES)
    drain_quietly(channel)
    assert depth(channel, NAMES.timer_undelivered) == 1
    queue(channel, "shop.work")
    timer_objects.restore(broker.feedbus_channel(), NAMES)
    eventually(lambda: depth(channel, "shop.work") == 1)
    assert contents(channel, "shop.work") == ["kept"]
    assert depth(channel, NAMES.timer_undelivered) == 0


def test_what_a_full_queue_refuses_stays_until_it_has_room(broker, channel, delay):
    delay("1", 2_500)
    delay("2", 2_500)
    channel.queue_delete("shop.work")
    eventually(lambda: depth(channel, NAMES.timer_undelivered) == 2)
    queue(channel, "shop.work", max_length=1, overflow="reject-publish")
    for body, undelivered in (("1", 1), ("2", 0)):
        timer_objects.restore(broker.feedbus_channel(), NAMES)
        eventually(lambda: depth(channel, NAMES.timer_undelivered) == undelivered)  # noqa: B023
        assert contents(channel, "shop.work") == [body]


def test_a_retry_of_an_external_queue_comes_back_without_a_binding_of_it(channel):
    theirs = replace(WORK, exchange="", routing_keys=(), external_name="erp.work")
    names = Names(replace(NAMES.topology, queues={"work": theirs}))
    queue(channel, "erp.work")
    message = delay_message(
        names, Outgoing("", "k", b"m", None, "m"), 30, retry_target(names, theirs)
    )
    Timer(names.topology).declare(channel, [message])
    Publisher(channel).send("m", message.exchange, "k", headers=message.headers)
    eventually(lambda: depth(channel, "erp.work") == 1)
    assert contents(channel, "erp.work") == ["m"]


def test_what_no_queue_takes_when_it_is_due_is_kept_and_holds_up_nothing(broker, channel):
    exchange(channel, "shop.orders", "direct")
    queue(channel, "shop.work")
    channel.queue_bind("shop.work", "shop.orders", "k")
    declared, publisher = Timer(NAMES.topology), Publisher(channel)
    for number in range(50):
        key = "k" if number == 49 else "nobody"
        message = Outgoing("", key, b"m", None, str(number))
        message = delay_message(NAMES, message, 1_000, "exchange shop.orders")
        declared.declare(channel, [message])
        publisher.send("m", message.exchange, key, headers=message.headers)
    publisher.wait()
    eventually(lambda: depth(channel, NAMES.timer_undelivered) == 49)
    eventually(lambda: depth(channel, "shop.work") == 1)
    timer_objects.restore(broker.feedbus_channel(), NAMES)
    eventually(lambda: depth(channel, NAMES.timer_undelivered) == 49)


def test_what_is_due_arrives_once_where_two_keys_match_and_where_an_alternate_exchange_takes_it(
    channel,
):
    exchange(channel, "shop.spare", "fanout")
    queue(channel, "shop.rest")
    channel.queue_bind("shop.rest", "shop.spare", "")
    on = {"alternate-exchange": "shop.spare"}
    exchange(channel, "shop.own", "topic", alternate_exchange="shop.spare")
    exchange(channel, "shop.orders", "topic")
    queue(channel, "shop.work")
    for key in ("a.#", "#.b"):
        channel.queue_bind("shop.work", "shop.orders", key)
    exchanges = {"orders": Exchange("orders", "topic"), "own": Exchange("own", "topic", 0, on)}
    queues = {"work": replace(WORK, routing_keys=("a.#", "#.b"))}
    topology = replace(NAMES.topology, exchanges=exchanges, queues=queues)
    declared, publisher = Timer(topology), Publisher(channel)
    for name, key in (("orders", "a.b"), ("own", "x")):
        message = Outgoing("", key, b"m", None, name)
        message = delay_message(Names(topology), message, 100, f"exchange shop.{name}")
        declared.declare(channel, [message])
        publisher.send(name, message.exchange, key, headers=message.headers)
    publisher.wait()
    eventually(lambda: depth(channel, "shop.work") + depth(channel, "shop.rest") == 2)
    assert contents(channel, "shop.work") == ["orders"]
    assert contents(channel, "shop.rest") == ["own"]


def test_a_wait_of_a_year_stays(channel, delay):
    delay("next year", 366 * 24 * 3_600_000)
    drain_quietly(channel)
    assert depth(channel, NAMES.timer_queue(14, 1)) == 1
