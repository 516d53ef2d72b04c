"""The data that a handler gets about the message of a record, from any publisher and broker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from feedbus import Message, broker
from feedbus.broker_names import Names
from feedbus.store.peewee import close_bound
from feedbus.wire import Delivery
from tests.small_topologies import queue
from tests.systems import System, publish_confirmed


@pytest.fixture(params=["embedded", "rabbitmq"])
def system(request, tmp_path):
    url = request.getfixturevalue("rabbitmq").url if request.param == "rabbitmq" else ""
    yield System.at(tmp_path, queue(exchange="other", routing_keys=("#",)), broker_url=url)
    close_bound()


def publish(system: System, **properties: Any) -> None:
    """Publish as a program that does not know feedbus."""
    connection = broker.connect(system.topology)
    channel: Any = connection.default_channel
    priority, headers = properties.pop("priority", None), properties.pop("headers", None)
    message = channel.prepare_message(
        b'{"n": 1}', priority, "application/json", "utf-8", headers, properties
    )
    publish_confirmed(channel, message, Names(system.topology).exchange("other"), "a.b")
    broker.close(connection)


def test_a_foreign_message_says_what_its_publisher_gave_at_each_attempt(system):
    seen: list[Message] = []

    def handle(record: dict[str, Any], message: Message) -> None:
        seen.append(message)
        if message.attempt == 1:
            raise ValueError(record)

    headers = {"source": "web", "count": 7, "feedbus-mine": "no", "x-delivery-count": 3}
    publish(
        system,
        headers=headers,
        priority=5,
        message_id="order-7",
        timestamp=1_700_000_000,
        type="order.created",
        correlation_id="c-1",
    )
    system.run(handle)
    expected = Message(
        routing_key="a.b",
        headers={"source": "web", "count": 7},
        message_id="order-7",
        attempt=1,
        priority=5,
        published_at=datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        queue="work",
        consumer="work",
        content_type="application/json",
        type="order.created",
        correlation_id="c-1",
    )
    first, second = seen
    assert first == expected
    assert (second.attempt, second.headers, second.routing_key) == (2, expected.headers, "a.b")
    assert second.message_id == "order-7"


def test_a_message_of_which_its_publisher_says_nothing(system):
    seen: list[Message] = []

    def handle(_: dict[str, Any], message: Message) -> None:
        seen.append(message)

    publish(system)
    system.run(handle)
    (message,) = seen
    assert (message.priority, message.published_at, message.type) == (None, None, None)
    assert message.message_id  # derived from the message
    assert message.headers == {}


@pytest.mark.parametrize("moment", [2**62, -(2**62), True, "yesterday", None])
def test_a_moment_that_no_calendar_has_is_none(moment):
    properties = {"timestamp": moment}
    delivery = Delivery(1, b"", None, "id", "", "", {}, redelivered=True, properties=properties)
    message = Message.of(delivery, routing_key="", message_id="id", queue="q", consumer="q_1")
    assert (message.published_at, message.redelivered, message.consumer) == (None, True, "q_1")
