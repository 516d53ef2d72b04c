"""Prefetch, ack, reject and redelivery."""

from __future__ import annotations

import pytest
from amqp.exceptions import PreconditionFailed

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
    redelivered,
    tag,
    take,
    texts,
)

NUMBERS = [str(number) for number in range(10)]


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


def test_deliveries_without_ack_are_settled_at_once(broker):
    channel = broker.channel()
    queue(channel, "q")
    put(channel, "q", *NUMBERS)
    got = consume(channel, "q", prefetch=1, no_ack=True)
    drain_until(channel, lambda: len(got) == 10)
    channel.close()
    assert contents(broker.channel(), "q") == []


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
