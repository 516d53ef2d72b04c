"""Deliveries: order, content, and consumers."""

from __future__ import annotations

import pytest
from amqp.exceptions import AccessRefused, AMQPNotImplementedError

from tests.conformance.drive import (
    consume,
    contents,
    depth,
    drain_quietly,
    drain_until,
    exchange,
    make,
    put,
    queue,
    raw,
    tag,
    text,
    texts,
)

NUMBERS = [str(number) for number in range(10)]


def test_messages_arrive_in_the_order_of_publishing(channel):
    queue(channel, "q")
    put(channel, "q", *NUMBERS)
    got = consume(channel, "q")
    put(channel, "q", "later")
    drain_until(channel, lambda: len(got) == 11)
    assert texts(got) == [*NUMBERS, "later"]


def test_a_delivery_reports_where_it_comes_from(channel):
    exchange(channel, "x", "direct")
    queue(channel, "q")
    channel.queue_bind("q", "x", "some.key")
    channel.basic_publish(make(channel, "m"), "x", "some.key")
    got = consume(channel, "q", tag="c")
    drain_until(channel, lambda: got)
    assert got[0].delivery_info == {
        "consumer_tag": "c",
        "delivery_tag": 1,
        "redelivered": False,
        "exchange": "x",
        "routing_key": "some.key",
    }
    assert got[0].delivery_tag == 1


def test_delivery_tags_count_from_one_on_each_channel(broker):
    connection = broker.connect()
    for name in ("a", "b"):
        channel = connection.channel()
        queue(channel, name)
        put(channel, name, "1", "2")
        got = consume(channel, name)
        drain_until(channel, lambda: len(got) == 2)  # noqa: B023
        assert [tag(message) for message in got] == [1, 2]


@pytest.mark.parametrize("body", [b"", b"text", b"\x00\xff\xfe binary", b"x" * 300_000])
def test_a_body_arrives_byte_for_byte(channel, body):
    queue(channel, "q")
    put(channel, "q", body)
    assert raw(channel.basic_get("q", no_ack=True)) == body


def test_a_body_with_a_declared_encoding_arrives_as_text(channel):
    queue(channel, "q")
    put(channel, "q", "ключ 🙂".encode(), content_encoding="utf-8", content_type="text/plain")
    assert channel.basic_get("q", no_ack=True).body == "ключ 🙂"


def test_properties_and_headers_arrive_as_sent(channel):
    queue(channel, "q")
    properties = {
        "content_type": "application/json",
        "content_encoding": "binary",
        "delivery_mode": 2,
        "priority": 3,
        "correlation_id": "c",
        "reply_to": "r",
        "message_id": "m",
        "timestamp": 1_700_000_000,
        "type": "t",
        "app_id": "a",
    }
    headers = {
        "text": "ключ",
        "number": 7,
        "large": 2**40,
        "negative": -5,
        "float": 1.5,
        "yes": True,
        "list": [1, "two", {"three": 3}],
        "table": {"nested": {"deep": "x"}},
        "empty": {},
    }
    put(channel, "q", "m", headers=headers, **properties)
    got = channel.basic_get("q", no_ack=True)
    assert got.headers == headers
    assert {name: got.properties[name] for name in properties} == properties


def test_a_cancelled_consumer_gets_no_more_and_still_may_settle(channel):
    queue(channel, "q")
    put(channel, "q", "1")
    got = consume(channel, "q", tag="c")
    drain_until(channel, lambda: got)
    channel.basic_cancel("c")
    put(channel, "q", "2")
    drain_quietly(channel)
    assert texts(got) == ["1"]
    channel.basic_ack(tag(got[0]))
    assert contents(channel, "q") == ["2"]


@pytest.mark.parametrize("no_ack", [False, True])
def test_what_is_on_its_way_to_a_cancelled_consumer_arrives_with_the_cancel(channel, no_ack):
    queue(channel, "q")
    put(channel, "q", "1", "2", "3")
    got = consume(channel, "q", tag="c", no_ack=no_ack)
    drain_until(channel, lambda: got)
    channel.basic_cancel("c")
    assert texts(got) == ["1", "2", "3"]
    assert depth(channel, "q") == 0
    if not no_ack:
        channel.basic_ack(tag(got[-1]), multiple=True)


def test_a_callback_may_cancel_its_own_consumer(channel):
    queue(channel, "q")
    put(channel, "q", "1", "2", "3")
    got = []

    def cancel(message):
        got.append(message)
        channel.basic_cancel("c")

    channel.basic_consume("q", consumer_tag="c", callback=cancel)
    drain_until(channel, lambda: len(got) == 3)
    assert channel.queue_declare("q", passive=True).consumer_count == 0


def test_a_client_cannot_stop_a_channels_flow(channel):
    channel.flow(True)
    with pytest.raises(AMQPNotImplementedError):
        channel.flow(False)


def test_a_cancelled_consumer_is_no_longer_counted(channel):
    queue(channel, "q")
    consume(channel, "q", tag="c")
    assert channel.queue_declare("q", passive=True).consumer_count == 1
    channel.basic_cancel("c")
    assert channel.queue_declare("q", passive=True).consumer_count == 0


def test_two_consumers_on_one_channel_share_a_queue(channel):
    queue(channel, "q")
    first = consume(channel, "q", tag="a", prefetch=5)
    second = consume(channel, "q", tag="b", prefetch=5)
    put(channel, "q", *NUMBERS)
    drain_until(channel, lambda: len(first) + len(second) == 10)
    assert sorted(texts(first) + texts(second)) == NUMBERS
    assert (len(first), len(second)) == (5, 5)
    assert {message.delivery_info["consumer_tag"] for message in second} == {"b"}


def test_consumers_of_several_connections_share_a_queue(broker):
    channels = [broker.channel() for _ in range(3)]
    queue(channels[0], "q")
    got = [consume(channel, "q", prefetch=1) for channel in channels]
    put(channels[0], "q", *NUMBERS[:3])
    for channel, messages in zip(channels, got, strict=True):
        drain_until(channel, lambda: messages)  # noqa: B023
    assert sorted(text(messages[0]) for messages in got) == NUMBERS[:3]
    assert [len(messages) for messages in got] == [1, 1, 1]


def test_one_channel_consumes_from_several_queues(channel):
    queue(channel, "a")
    queue(channel, "b")
    first, second = consume(channel, "a"), consume(channel, "b")
    put(channel, "a", "for a")
    put(channel, "b", "for b")
    drain_until(channel, lambda: first and second)
    assert (texts(first), texts(second)) == (["for a"], ["for b"])


def test_an_exclusive_consumer_is_alone(broker):
    channel, other = broker.channel(), broker.channel()
    queue(channel, "q")
    channel.basic_consume("q", exclusive=True, callback=print)
    with pytest.raises(AccessRefused):
        other.basic_consume("q", callback=print)


def test_getting_from_an_empty_queue_gives_nothing(channel):
    queue(channel, "q")
    assert channel.basic_get("q") is None


def test_a_message_that_was_got_reports_how_many_are_left(channel):
    queue(channel, "q")
    put(channel, "q", "1", "2", "3")
    got = channel.basic_get("q")
    assert text(got) == "1"
    assert got.delivery_info["message_count"] == 2


def test_what_is_published_in_a_callback_arrives(channel):
    queue(channel, "in")
    queue(channel, "out")
    channel.basic_consume(
        "in", callback=lambda message: channel.basic_publish(make(channel, message.body), "", "out")
    )
    put(channel, "in", "m")
    got = consume(channel, "out")
    drain_until(channel, lambda: got)
    assert texts(got) == ["m"]
