"""Dead letters: messages that were rejected, expired, dropped or returned too often."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.conformance.drive import (
    Publisher,
    consume,
    contents,
    depth,
    drain_quietly,
    drain_until,
    eventually,
    exchange,
    put,
    queue,
    quorum,
    tag,
    take,
    text,
    texts,
)


def with_dead_letters(channel, declare=queue, **arguments):
    queue(channel, "dead")
    declare(channel, "q", dead_letter_exchange="", dead_letter_routing_key="dead", **arguments)


def reject(channel, name="q"):
    channel.basic_reject(tag(take(channel, name, no_ack=False)), False)


def test_a_rejected_delivery_is_dead_lettered(channel):
    with_dead_letters(channel)
    put(channel, "q", "m", headers={"h": "kept"}, message_id="m1", content_type="text/plain")
    reject(channel)
    dead = take(channel, "dead")
    assert text(dead) == "m"
    assert dead.headers["h"] == "kept"
    assert dead.properties["message_id"] == "m1"
    assert dead.properties["content_type"] == "text/plain"
    assert dead.delivery_info["routing_key"] == "dead"
    assert depth(channel, "q") == 0


def test_a_requeued_delivery_is_not_dead_lettered(channel):
    with_dead_letters(channel)
    put(channel, "q", "m")
    channel.basic_reject(tag(take(channel, "q", no_ack=False)), True)
    eventually(lambda: depth(channel, "q") == 1)
    assert contents(channel, "dead") == []


def test_the_death_is_reported_in_headers(channel):
    exchange(channel, "x", "direct")
    with_dead_letters(channel)
    channel.queue_bind("q", "x", "k")
    publisher = Publisher(channel.connection.channel())
    publisher.send("m", "x", "k")
    publisher.wait()
    reject(channel)
    headers = take(channel, "dead").headers
    (death,) = headers["x-death"]
    assert isinstance(death.pop("time"), datetime)
    assert death == {
        "count": 1,
        "reason": "rejected",
        "queue": "q",
        "exchange": "x",
        "routing-keys": ["k"],
    }
    assert headers["x-first-death-queue"] == "q"
    assert headers["x-first-death-reason"] == "rejected"
    assert headers["x-first-death-exchange"] == "x"


@pytest.mark.parametrize("declare", [queue, quorum], ids=["classic", "quorum"])
def test_an_expired_message_is_dead_lettered_without_its_expiration(channel, declare):
    with_dead_letters(channel, declare)
    put(channel, "q", "m", expiration="50")
    dead = take(channel, "dead")
    assert text(dead) == "m"
    assert dead.properties.get("expiration") is None
    (death,) = dead.headers["x-death"]
    assert death["reason"] == "expired"
    assert death["original-expiration"] == "50"


def test_a_message_expired_by_its_queue_is_dead_lettered(channel):
    with_dead_letters(channel, message_ttl=50)
    put(channel, "q", "1", "2")
    assert [text(take(channel, "dead")) for _ in range(2)] == ["1", "2"]


def test_dying_again_in_the_same_way_counts_up(channel):
    queue(channel, "q", dead_letter_exchange="", dead_letter_routing_key="wait")
    queue(channel, "wait", message_ttl=50, dead_letter_exchange="", dead_letter_routing_key="q")
    put(channel, "q", "m")
    for _ in range(3):
        reject(channel)
    last = take(channel, "q")
    deaths = [(each["queue"], each["reason"], each["count"]) for each in last.headers["x-death"]]
    assert deaths == [("wait", "expired", 3), ("q", "rejected", 3)]
    assert last.headers["x-first-death-queue"] == "q"
    assert last.headers["x-first-death-reason"] == "rejected"


def test_the_latest_death_comes_first(channel):
    queue(channel, "end")
    queue(channel, "b", dead_letter_exchange="", dead_letter_routing_key="end")
    queue(channel, "a", dead_letter_exchange="", dead_letter_routing_key="b")
    put(channel, "a", "m")
    reject(channel, "a")
    reject(channel, "b")
    deaths = take(channel, "end").headers["x-death"]
    assert [death["queue"] for death in deaths] == ["b", "a"]
    assert deaths[0]["routing-keys"] == ["b"]


def test_without_a_key_of_its_own_a_dead_letter_keeps_its_key(channel):
    exchange(channel, "x", "direct")
    exchange(channel, "graveyard", "topic")
    queue(channel, "q", dead_letter_exchange="graveyard")
    queue(channel, "dead")
    channel.queue_bind("q", "x", "some.key")
    channel.queue_bind("dead", "graveyard", "some.*")
    publisher = Publisher(channel.connection.channel())
    publisher.send("m", "x", "some.key")
    publisher.wait()
    reject(channel)
    dead = take(channel, "dead")
    assert dead.delivery_info["exchange"] == "graveyard"
    assert dead.delivery_info["routing_key"] == "some.key"


def test_a_missing_dead_letter_exchange_drops_the_message(channel):
    queue(channel, "q", dead_letter_exchange="nowhere")
    put(channel, "q", "m", "next")
    reject(channel)
    assert contents(channel, "q") == ["next"]


def test_without_a_dead_letter_exchange_a_rejected_message_is_gone(channel):
    queue(channel, "q")
    put(channel, "q", "m", "next")
    reject(channel)
    assert contents(channel, "q") == ["next"]


def test_dead_letters_wake_a_consumer_that_waits_for_them(broker):
    channel, waiting = broker.channel(), broker.channel()
    with_dead_letters(channel)
    got = consume(waiting, "dead")
    drain_quietly(waiting)
    put(channel, "q", "m")
    reject(channel)
    drain_until(waiting, lambda: got)
    assert texts(got) == ["m"]


def test_a_message_that_expires_in_a_circle_is_dropped(channel):
    queue(channel, "a", message_ttl=20, dead_letter_exchange="", dead_letter_routing_key="b")
    queue(channel, "b", message_ttl=20, dead_letter_exchange="", dead_letter_routing_key="a")
    put(channel, "a", "m")
    drain_quietly(channel)
    eventually(lambda: depth(channel, "a") + depth(channel, "b") == 0)
    drain_quietly(channel)
    assert depth(channel, "a") + depth(channel, "b") == 0


def test_an_overfull_queue_drops_its_head(channel):
    queue(channel, "q", max_length=2)
    put(channel, "q", "1", "2", "3", "4")
    eventually(lambda: depth(channel, "q") == 2)
    assert contents(channel, "q") == ["3", "4"]


def test_what_an_overfull_queue_drops_is_dead_lettered(channel):
    with_dead_letters(channel, max_length=2)
    put(channel, "q", "1", "2", "3", "4")
    dead = [take(channel, "dead") for _ in range(2)]
    assert texts(dead) == ["1", "2"]
    assert dead[0].headers["x-death"][0]["reason"] == "maxlen"
    assert contents(channel, "q") == ["3", "4"]


def test_held_deliveries_leave_room_in_a_queue_of_limited_length(channel):
    queue(channel, "q", max_length=2)
    put(channel, "q", "1", "2")
    held = take(channel, "q", no_ack=False)
    put(channel, "q", "3")
    channel.basic_ack(tag(held))
    assert contents(channel, "q") == ["2", "3"]


def test_a_full_queue_that_rejects_publishes_nacks_them(channel):
    queue(channel, "q", max_length=2, overflow="reject-publish")
    publisher = Publisher(channel.connection.channel())
    for body in ("1", "2", "3", "4"):
        publisher.send(body, key="q")
        publisher.wait()
    assert publisher.nacked == [3, 4]
    assert contents(channel, "q") == ["1", "2"]
    publisher.send("5", key="q")
    assert 5 in publisher.wait()


def test_what_comes_back_to_a_full_queue_that_refuses_messages_stays_in_it(channel):
    queue(channel, "q", max_length=2, overflow="reject-publish")
    put(channel, "q", "1")
    put(channel, "q", "2")
    got = channel.basic_get("q")
    put(channel, "q", "3")
    channel.basic_reject(tag(got), True)
    assert contents(channel, "q") == ["1", "2", "3"]


def test_a_nack_of_one_queue_leaves_the_others_their_copy(channel):
    exchange(channel, "x", "fanout")
    queue(channel, "full", max_length=0, overflow="reject-publish")
    queue(channel, "free")
    channel.queue_bind("full", "x")
    channel.queue_bind("free", "x")
    publisher = Publisher(channel.connection.channel())
    publisher.send("m", "x")
    publisher.wait()
    assert publisher.nacked == [1]
    assert contents(channel, "free") == ["m"]


def test_a_refused_publish_can_be_dead_lettered_instead(channel):
    with_dead_letters(channel, max_length=1, overflow="reject-publish-dlx")
    publisher = Publisher(channel.connection.channel())
    for body in ("1", "2"):
        publisher.send(body, key="q")
        publisher.wait()
    assert publisher.nacked == [2]
    dead = take(channel, "dead")
    assert text(dead) == "2"
    assert dead.headers["x-death"][0]["reason"] == "maxlen"


def test_a_full_queue_does_not_lose_what_is_dead_lettered_at_least_once(channel):
    queue(channel, "full", max_length=1, overflow="reject-publish")
    quorum(
        channel,
        "later",
        message_ttl=100,
        dead_letter_exchange="",
        dead_letter_routing_key="full",
        dead_letter_strategy="at-least-once",
        overflow="reject-publish",
    )
    put(channel, "full", "1")
    put(channel, "later", "2")
    eventually(lambda: depth(channel, "later") == 0)
    assert [text(take(channel, "full")) for _ in range(2)] == ["1", "2"]


def test_a_full_queue_loses_what_is_dead_lettered_at_most_once(channel):
    queue(channel, "full", max_length=1, overflow="reject-publish")
    queue(
        channel,
        "later",
        message_ttl=100,
        dead_letter_exchange="",
        dead_letter_routing_key="full",
    )
    put(channel, "full", "1")
    put(channel, "later", "2")
    eventually(lambda: depth(channel, "later") == 0)
    drain_quietly(channel)
    assert contents(channel, "full") == ["1"]


def test_a_delivery_that_comes_back_too_often_is_dead_lettered(channel):
    with_dead_letters(channel, quorum, delivery_limit=2)
    put(channel, "q", "m")
    got = consume(channel, "q", prefetch=1)
    for attempt in range(3):
        drain_until(channel, lambda: len(got) == attempt + 1)  # noqa: B023
        channel.basic_reject(tag(got[-1]), True)
    dead = take(channel, "dead")
    assert text(dead) == "m"
    assert dead.headers["x-death"][0]["reason"] == "delivery_limit"
    drain_quietly(channel)
    assert len(got) == 3


def test_a_delivery_limit_counts_the_deaths_of_consumers(broker):
    checking = broker.channel()
    with_dead_letters(checking, quorum, delivery_limit=1)
    put(checking, "q", "m")
    for _ in range(2):
        connection = broker.connect()
        got = consume(connection.channel(), "q")
        drain_until(connection.default_channel, lambda: got)  # noqa: B023
        connection.release()
    assert text(take(checking, "dead")) == "m"


def test_without_dead_letters_the_delivery_limit_drops_the_message(channel):
    quorum(channel, "q", delivery_limit=0)
    put(channel, "q", "m", "next")
    got = consume(channel, "q", prefetch=1)
    drain_until(channel, lambda: got)
    channel.basic_reject(tag(got[0]), True)
    drain_until(channel, lambda: len(got) == 2)
    assert texts(got) == ["m", "next"]
