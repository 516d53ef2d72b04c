"""Single active consumers: one at a time, in the order in which they came."""

from __future__ import annotations

import pytest

from tests.conformance.drive import (
    consume,
    drain_quietly,
    drain_until,
    put,
    queue,
    quorum,
    redelivered,
    tag,
    texts,
)


@pytest.fixture(params=[queue, quorum], ids=["classic", "quorum"])
def declared(request, broker):
    channel = broker.channel()
    request.param(channel, "q", single_active_consumer=True)
    return channel


def test_only_the_first_consumer_gets_messages(broker, declared):
    first, second = broker.channel(), broker.channel()
    got, idle = consume(first, "q"), consume(second, "q")
    put(declared, "q", "1", "2", "3")
    drain_until(first, lambda: len(got) == 3)
    drain_quietly(second)
    assert texts(got) == ["1", "2", "3"]
    assert idle == []


def test_the_first_stays_alone_when_its_prefetch_is_full(broker, declared):
    first, second = broker.channel(), broker.channel()
    got, idle = consume(first, "q", prefetch=1), consume(second, "q")
    put(declared, "q", "1", "2")
    drain_until(first, lambda: got)
    drain_quietly(second)
    assert idle == []
    first.basic_ack(tag(got[0]))
    drain_until(first, lambda: len(got) == 2)


def test_the_next_takes_over_when_the_first_is_cancelled(broker, declared):
    first, second = broker.channel(), broker.channel()
    got, waiting = consume(first, "q", tag="first"), consume(second, "q")
    put(declared, "q", "1")
    drain_until(first, lambda: got)
    first.basic_ack(tag(got[0]))
    first.basic_cancel("first")
    put(declared, "q", "2")
    drain_until(second, lambda: waiting)
    assert texts(waiting) == ["2"]


def test_the_next_takes_over_what_a_closed_one_held_in_order(broker, declared):
    connection, second = broker.connect(), broker.channel()
    first = connection.channel()
    got, waiting = consume(first, "q", prefetch=2), consume(second, "q")
    put(declared, "q", "1", "2", "3", "4")
    drain_until(first, lambda: len(got) == 2)
    connection.release()
    drain_until(second, lambda: len(waiting) == 4)
    assert texts(waiting) == ["1", "2", "3", "4"]
    assert [redelivered(message) for message in waiting] == [True, True, False, False]


def test_the_next_takes_over_what_a_closed_channel_held_in_order(broker, declared):
    first, second = broker.channel(), broker.channel()
    got, waiting = consume(first, "q", prefetch=2), consume(second, "q")
    put(declared, "q", "1", "2", "3", "4")
    drain_until(first, lambda: len(got) == 2)
    first.close()
    drain_until(second, lambda: len(waiting) == 4)
    assert texts(waiting) == ["1", "2", "3", "4"]


def test_a_third_waits_for_the_second(broker, declared):
    first, second, third = (broker.connect() for _ in range(3))
    got = [consume(each.default_channel, "q") for each in (first, second, third)]
    first.release()
    put(declared, "q", "1")
    drain_until(second.default_channel, lambda: got[1])
    drain_quietly(third.default_channel)
    assert got[2] == []


def test_a_waiting_consumer_is_counted_too(broker):
    channel = broker.channel()
    queue(channel, "q", single_active_consumer=True)
    for _ in range(2):
        consume(broker.channel(), "q")
    assert channel.queue_declare("q", passive=True).consumer_count == 2
