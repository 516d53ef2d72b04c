"""Deliveries: order, prefetch, ack, reject, redelivery."""

from __future__ import annotations

import pytest
from amqp.exceptions import AccessRefused, AMQPNotImplementedError, PreconditionFailed

from tests.conformance.drive import (
    consume,
    contents,
    depth,
    drain_quietly,
    drain_until,
    eventually,
    exchange,
    make,
    put,
    queue,
    quorum,
    raw,
    redelivered,
    tag,
    take,
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


def test_without_an_ack_no_more_than_the_prefetch_is_delivered(channel):
    queue(channel, "q")
    put(channel, "q", *NUMBERS)
    got = consume(channel, "q", prefetch=3)
    drain_until(channel, lambda: len(got) == 3)
    drain_quietly(channel)
    assert texts(got) == NUMBERS[:3]
    assert depth(channel, "q") == 7


def test_each_ack_makes_room_for_one_more(channel):
    queue(channel, "q")
    put(channel, "q", *NUMBERS)
    got = consume(channel, "q", prefetch=3)
    drain_until(channel, lambda: len(got) == 3)
    channel.basic_ack(tag(got[0]))
    drain_until(channel, lambda: len(got) == 4)
    drain_quietly(channel)
    assert texts(got) == NUMBERS[:4]


def test_prefetch_counts_for_each_consumer_by_itself(channel):
    queue(channel, "a")
    queue(channel, "b")
    put(channel, "a", *NUMBERS)
    put(channel, "b", *NUMBERS)
    first = consume(channel, "a", prefetch=2)
    second = consume(channel, "b", prefetch=4)
    drain_until(channel, lambda: len(first) == 2 and len(second) == 4)
    drain_quietly(channel)
    assert (len(first), len(second)) == (2, 4)


def test_prefetch_of_the_channel_is_shared_by_its_consumers(broker, channel):
    shared = broker.version is None or broker.version < (4, 3)  # 4.3 counts for each consumer
    queue(channel, "a")
    queue(channel, "b")
    put(channel, "a", *NUMBERS)
    put(channel, "b", *NUMBERS)
    channel.basic_qos(0, 3, True)
    got = []
    channel.basic_consume("a", callback=got.append)
    channel.basic_consume("b", callback=got.append)
    drain_until(channel, lambda: len(got) == (3 if shared else 6))
    drain_quietly(channel)
    assert len(got) == (3 if shared else 6)


def test_an_ack_settles_one_delivery(broker):
    channel = broker.channel()
    queue(channel, "q")
    put(channel, "q", *NUMBERS[:3])
    got = consume(channel, "q")
    drain_until(channel, lambda: len(got) == 3)
    channel.basic_ack(tag(got[1]))
    channel.close()
    other = broker.channel()
    eventually(lambda: depth(other, "q") == 2)
    assert contents(other, "q") == ["0", "2"]


def test_a_multiple_ack_settles_all_up_to_it(broker):
    channel = broker.channel()
    queue(channel, "q")
    put(channel, "q", *NUMBERS)
    got = consume(channel, "q")
    drain_until(channel, lambda: len(got) == 10)
    channel.basic_ack(tag(got[6]), multiple=True)
    channel.close()
    other = broker.channel()
    eventually(lambda: depth(other, "q") == 3)
    assert contents(other, "q") == NUMBERS[7:]


def test_a_multiple_ack_of_tag_zero_settles_all(broker):
    channel = broker.channel()
    queue(channel, "q")
    put(channel, "q", *NUMBERS)
    got = consume(channel, "q")
    drain_until(channel, lambda: len(got) == 10)
    channel.basic_ack(0, multiple=True)
    channel.close()
    assert contents(broker.channel(), "q") == []


def test_a_multiple_ack_leaves_other_channels_alone(broker):
    connection = broker.connect()
    one, other = connection.channel(), connection.channel()
    queue(one, "q")
    put(one, "q", *NUMBERS[:4])
    held = [one.basic_get("q") for _ in range(2)]
    theirs = [other.basic_get("q") for _ in range(2)]
    one.basic_ack(tag(held[1]), multiple=True)
    other.basic_ack(tag(theirs[0]))
    other.close()
    checking = broker.channel()
    eventually(lambda: depth(checking, "q") == 1)
    assert contents(checking, "q") == ["3"]


@pytest.mark.parametrize("method", ["basic_ack", "basic_reject"])
def test_settling_a_tag_twice_is_refused(channel, method):
    queue(channel, "q")
    put(channel, "q", "m")
    held = channel.basic_get("q")
    channel.basic_ack(tag(held))

    def settle():
        getattr(channel, method)(tag(held), False)
        drain_until(channel, lambda: False)

    with pytest.raises(PreconditionFailed, match="unknown delivery tag"):
        settle()


def test_a_requeued_delivery_comes_again_at_its_place_marked_redelivered(channel):
    queue(channel, "q")
    put(channel, "q", *NUMBERS[:4])
    first, second = channel.basic_get("q"), channel.basic_get("q")
    channel.basic_reject(tag(second), True)
    channel.basic_reject(tag(first), True)
    eventually(lambda: depth(channel, "q") == 4)
    again = [channel.basic_get("q", no_ack=True) for _ in range(4)]
    assert texts(again) == NUMBERS[:4]
    assert [redelivered(message) for message in again] == [True, True, False, False]


def test_a_requeued_delivery_goes_to_its_queue_alone(channel):
    exchange(channel, "x", "fanout")
    for name in ("a", "b"):
        queue(channel, name)
        channel.queue_bind(name, "x")
    channel.basic_publish(make(channel, "m"), "x", "")
    held = take(channel, "a", no_ack=False)
    channel.basic_reject(tag(held), True)
    eventually(lambda: depth(channel, "a") == 1)
    eventually(lambda: depth(channel, "b") == 1)
    assert contents(channel, "b") == ["m"]


def test_a_rejected_delivery_does_not_come_again(channel):
    queue(channel, "q")
    put(channel, "q", "bad", "good")
    got = consume(channel, "q", prefetch=1)
    drain_until(channel, lambda: got)
    channel.basic_reject(tag(got[0]), False)
    drain_until(channel, lambda: len(got) == 2)
    channel.basic_ack(tag(got[1]))
    drain_quietly(channel)
    assert texts(got) == ["bad", "good"]
    assert depth(channel, "q") == 0


def test_recover_brings_all_unsettled_deliveries_again(channel):
    queue(channel, "q")
    put(channel, "q", *NUMBERS[:3])
    got = consume(channel, "q")
    drain_until(channel, lambda: len(got) == 3)
    channel.basic_ack(tag(got[0]))
    channel.basic_recover(True)
    drain_until(channel, lambda: len(got) == 5)
    assert texts(got[3:]) == ["1", "2"]
    assert all(redelivered(message) for message in got[3:])


def test_a_closed_channel_gives_back_what_it_held_in_order(broker):
    channel = broker.channel()
    queue(channel, "q")
    put(channel, "q", *NUMBERS)
    got = consume(channel, "q", prefetch=4)
    drain_until(channel, lambda: len(got) == 4)
    channel.close()
    other = broker.channel()
    eventually(lambda: depth(other, "q") == 10)
    again = [other.basic_get("q", no_ack=True) for _ in range(10)]
    assert texts(again) == NUMBERS
    assert all(redelivered(message) for message in again[:4])
    assert not any(redelivered(message) for message in again[4:])


def test_a_closed_connection_gives_back_what_it_held(broker):
    connection = broker.connect()
    channel = connection.channel()
    queue(channel, "q")
    put(channel, "q", *NUMBERS[:3])
    got = consume(channel, "q")
    drain_until(channel, lambda: len(got) == 3)
    connection.release()
    other = broker.channel()
    again = consume(other, "q")
    drain_until(other, lambda: len(again) == 3)
    assert texts(again) == NUMBERS[:3]
    assert all(redelivered(message) for message in again)


def test_what_a_closed_consumer_held_goes_to_one_that_waits(broker):
    first, second = broker.channel(), broker.channel()
    queue(first, "q")
    put(first, "q", "1", "2")
    got = consume(first, "q")
    drain_until(first, lambda: len(got) == 2)
    waiting = consume(second, "q")
    drain_quietly(second)
    assert waiting == []
    first.close()
    drain_until(second, lambda: len(waiting) == 2)
    assert texts(waiting) == ["1", "2"]


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


def test_a_busy_consumer_leaves_the_rest_to_a_free_one(broker):
    busy, free = broker.channel(), broker.channel()
    queue(busy, "q")
    held = consume(busy, "q", prefetch=1)
    put(busy, "q", "slow")
    drain_until(busy, lambda: held)
    got = consume(free, "q", prefetch=1)
    put(free, "q", *NUMBERS[:5])
    for number in range(5):
        drain_until(free, lambda: len(got) > number)  # noqa: B023
        free.basic_ack(tag(got[number]))
    assert texts(got) == NUMBERS[:5]
    assert texts(held) == ["slow"]


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


def test_deliveries_without_ack_are_settled_at_once(broker):
    channel = broker.channel()
    queue(channel, "q")
    put(channel, "q", *NUMBERS)
    got = consume(channel, "q", prefetch=1, no_ack=True)
    drain_until(channel, lambda: len(got) == 10)
    channel.close()
    assert contents(broker.channel(), "q") == []


def test_getting_from_an_empty_queue_gives_nothing(channel):
    queue(channel, "q")
    assert channel.basic_get("q") is None


def test_a_message_that_was_got_reports_how_many_are_left(channel):
    queue(channel, "q")
    put(channel, "q", "1", "2", "3")
    got = channel.basic_get("q")
    assert text(got) == "1"
    assert got.delivery_info["message_count"] == 2


def test_a_quorum_queue_counts_returns_in_a_header(channel):
    quorum(channel, "q")
    put(channel, "q", "m")
    got = consume(channel, "q", prefetch=1)
    for attempt in range(3):
        drain_until(channel, lambda: len(got) == attempt + 1)  # noqa: B023
        channel.basic_reject(tag(got[-1]), True)
    drain_until(channel, lambda: len(got) == 4)
    counts = [(message.headers or {}).get("x-delivery-count") for message in got]
    assert [count or 0 for count in counts] == [0, 1, 2, 3]
    assert [redelivered(message) for message in got] == [False, True, True, True]


def test_a_classic_queue_adds_no_such_header(channel):
    queue(channel, "q")
    put(channel, "q", "m", headers={"h": 1})
    got = consume(channel, "q", prefetch=1)
    drain_until(channel, lambda: got)
    channel.basic_reject(tag(got[0]), True)
    drain_until(channel, lambda: len(got) == 2)
    assert got[1].headers == {"h": 1}


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
