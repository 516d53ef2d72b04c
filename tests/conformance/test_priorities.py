"""Queues with priorities: which message is next, and the other effects of the order."""

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
    put,
    queue,
    tag,
    take,
    text,
    texts,
)


def put_each(channel, name, *pairs, **properties):
    """Publish bodies with their priorities; None for a message without one."""
    for body, priority in pairs:
        given = {} if priority is None else {"priority": priority}
        put(channel, name, body, **given, **properties)


def test_higher_priorities_come_first_and_each_in_its_order(channel):
    queue(channel, "q", max_priority=10)
    put_each(channel, "q", ("a", 3), ("b", 6), ("c", 3), ("d", 10), ("e", 6))
    assert contents(channel, "q") == ["d", "b", "e", "a", "c"]


def test_a_message_without_a_priority_has_the_lowest(channel):
    queue(channel, "q", max_priority=5)
    put_each(channel, "q", ("a", None), ("b", 1), ("c", 0), ("d", None))
    assert contents(channel, "q") == ["b", "a", "c", "d"]


def test_a_priority_above_the_maximum_counts_as_the_maximum(channel):
    queue(channel, "q", max_priority=5)
    put_each(channel, "q", ("a", 5), ("b", 200), ("c", 5))
    assert contents(channel, "q") == ["a", "b", "c"]


def test_the_priority_property_arrives_as_it_was_published(channel):
    queue(channel, "q", max_priority=5)
    put_each(channel, "q", ("a", 200))
    assert take(channel, "q").properties["priority"] == 200


@pytest.mark.parametrize("arguments", [{}, {"max_priority": 0}])
def test_a_queue_without_priorities_keeps_the_order_of_publishing(channel, arguments):
    queue(channel, "q", **arguments)
    put_each(channel, "q", ("a", 1), ("b", 9))
    assert contents(channel, "q") == ["a", "b"]


def test_what_a_consumer_holds_is_not_reordered(channel):
    queue(channel, "q", max_priority=9)
    put_each(channel, "q", ("a", 1), ("b", 1), ("c", 1))
    got = consume(channel, "q", prefetch=2)
    drain_until(channel, lambda: len(got) == 2)
    put_each(channel, "q", ("d", 9))
    channel.basic_ack(tag(got[0]))
    drain_until(channel, lambda: len(got) == 3)
    channel.basic_ack(tag(got[1]))
    drain_until(channel, lambda: len(got) == 4)
    assert texts(got) == ["a", "b", "d", "c"]


def test_a_requeued_message_returns_to_its_place(channel):
    queue(channel, "q", max_priority=9)
    put_each(channel, "q", ("a", 3), ("b", 6), ("c", 3))
    taken = [take(channel, "q", no_ack=False) for _ in range(3)]
    assert texts(taken) == ["b", "a", "c"]
    for message in reversed(taken):
        channel.basic_reject(tag(message), requeue=True)
    put_each(channel, "q", ("d", 9), ("e", 3))
    eventually(lambda: depth(channel, "q") == 5)
    assert contents(channel, "q") == ["d", "b", "a", "c", "e"]


def test_a_closed_consumers_messages_return_to_their_places(broker):
    first, second = broker.channel(), broker.channel()
    queue(first, "q", max_priority=9)
    put_each(first, "q", ("a", 1), ("b", 5))
    got = consume(second, "q")
    drain_until(second, lambda: len(got) == 2)
    put_each(first, "q", ("c", 3))
    second.close()
    eventually(lambda: depth(first, "q") == 3)
    assert contents(first, "q") == ["b", "c", "a"]


def test_the_head_is_dropped_from_a_full_queue_whatever_its_priority(channel):
    queue(channel, "q", max_priority=9, max_length=2)
    put_each(channel, "q", ("low", 1), ("high", 9), ("middle", 5))
    assert contents(channel, "q") == ["middle", "low"]


def test_a_full_queue_may_drop_the_message_that_just_came(channel):
    queue(channel, "q", max_priority=9, max_length=2)
    put_each(channel, "q", ("a", 1), ("b", 1), ("c", 9))
    assert contents(channel, "q") == ["a", "b"]


def test_a_full_queue_refuses_whatever_the_priority(channel):
    queue(channel, "q", max_priority=9, max_length=1, overflow="reject-publish")
    put_each(channel, "q", ("a", 1), ("b", 9))
    assert contents(channel, "q") == ["a"]


def test_an_expired_message_waits_behind_a_higher_priority_that_lasts(channel):
    queue(channel, "dead")
    queue(
        channel,
        "q",
        max_priority=9,
        dead_letter_exchange="",
        dead_letter_routing_key="dead",
    )
    put_each(channel, "q", ("high", 9))
    put_each(channel, "q", ("low", 1), expiration="100")
    drain_quietly(channel)
    assert depth(channel, "dead") == 0
    assert text(take(channel, "q")) == "high"
    assert text(take(channel, "dead")) == "low"
    assert depth(channel, "q") == 0


def test_expired_messages_go_in_the_order_of_their_priorities(channel):
    queue(channel, "dead")
    queue(
        channel,
        "q",
        max_priority=9,
        message_ttl=200,
        dead_letter_exchange="",
        dead_letter_routing_key="dead",
    )
    put_each(channel, "q", ("low", 1), ("high", 9))
    eventually(lambda: depth(channel, "dead") == 2)
    assert depth(channel, "q") == 0
    assert sorted(contents(channel, "dead")) == ["high", "low"]


def test_a_dead_letter_keeps_its_priority_in_the_queue_that_it_goes_to(channel):
    queue(channel, "dead", max_priority=9)
    queue(channel, "q", dead_letter_exchange="", dead_letter_routing_key="dead")
    put_each(channel, "q", ("low", 1), ("high", 9))
    for _ in range(2):
        channel.basic_reject(tag(take(channel, "q", no_ack=False)), requeue=False)
    eventually(lambda: depth(channel, "dead") == 2)
    assert contents(channel, "dead") == ["high", "low"]


def test_a_single_active_consumer_gets_messages_by_priority(broker):
    first, second = broker.channel(), broker.channel()
    queue(first, "q", max_priority=9, single_active_consumer=True)
    put_each(first, "q", ("a", 1), ("b", 9), ("c", 5))
    got = consume(first, "q", prefetch=1, tag="first")
    waiting = consume(second, "q", prefetch=5)
    drain_until(first, lambda: got)
    drain_quietly(second)
    assert waiting == []
    first.close()
    drain_until(second, lambda: len(waiting) == 3)
    assert (texts(got), texts(waiting)) == (["b"], ["b", "c", "a"])


def test_purging_takes_every_priority(channel):
    queue(channel, "q", max_priority=9)
    put_each(channel, "q", ("a", 1), ("b", 9))
    assert channel.queue_purge("q") == 2
    assert depth(channel, "q") == 0


@pytest.mark.parametrize("arguments", [{"max_priority": -1}, {"max_priority": 256}])
def test_a_maximum_that_is_no_octet_is_refused(channel, arguments):
    with pytest.raises(PreconditionFailed):
        queue(channel, "q", **arguments)


def test_a_quorum_queue_has_no_maximum_priority(channel):
    with pytest.raises(PreconditionFailed):
        queue(channel, "q", queue_type="quorum", max_priority=5)


def test_another_maximum_priority_is_another_queue(channel):
    queue(channel, "q", max_priority=5)
    with pytest.raises(PreconditionFailed):
        queue(channel, "q", max_priority=6)
