"""Which queues get a message."""

from __future__ import annotations

import pytest
from amqp.exceptions import ChannelError, NotFound

from tests.conformance.drive import (
    Publisher,
    contents,
    drain_until,
    exchange,
    make,
    put,
    queue,
    text,
)


def bound(channel, source, *bindings):
    for name, key in bindings:
        queue(channel, name)
        channel.queue_bind(name, source, key)


def send(channel, exchange_name, *keys):
    publisher = Publisher(channel)
    for key in keys:
        publisher.send(key or "no key", exchange_name, key)
    publisher.wait()


def test_the_default_exchange_routes_by_queue_name(channel):
    queue(channel, "a")
    queue(channel, "b")
    put(channel, "b", "for b")
    assert contents(channel, "a") == []
    assert contents(channel, "b") == ["for b"]


def test_a_direct_exchange_routes_by_the_whole_key(channel):
    exchange(channel, "x", "direct")
    bound(channel, "x", ("a", "one"), ("b", "two"))
    send(channel, "x", "one", "two", "on", "one.two", "ONE")
    assert contents(channel, "a") == ["one"]
    assert contents(channel, "b") == ["two"]


def test_a_direct_exchange_gives_every_queue_of_a_key_its_copy(channel):
    exchange(channel, "x", "direct")
    bound(channel, "x", ("a", "k"), ("b", "k"))
    send(channel, "x", "k")
    assert contents(channel, "a") == contents(channel, "b") == ["k"]


def test_a_fanout_exchange_ignores_keys(channel):
    exchange(channel, "x", "fanout")
    bound(channel, "x", ("a", "one"), ("b", ""))
    send(channel, "x", "one", "other")
    assert contents(channel, "a") == contents(channel, "b") == ["one", "other"]


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("email", "email", True),
        ("email", "phone", False),
        ("*", "email", True),
        ("*", "a.b", False),
        ("*", "", False),
        ("#", "", True),
        ("#", "a.b.c", True),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.*", "a.", True),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("a.#", "ab", False),
        ("#.z", "z", True),
        ("#.z", "x.y.z", True),
        ("#.z", "x.y", False),
        ("a.#.z", "a.z", True),
        ("a.#.z", "a.b.c.z", True),
        ("a.#.z", "a.b", False),
        ("*.#", "a", True),
        ("*.#", "", False),
        ("#.*", "a.b", True),
        ("#.#", "", True),
        ("a.*.#.c", "a.b.c", True),
        ("a.*.#.c", "a.c", False),
        ("a.#.b.#.c", "a.x.b.y.b.z.c", True),
        ("", "", True),
        ("", "a", False),
        ("a*", "ab", False),
        ("a*", "a*", True),
        (".", ".", True),
        ("*.*", ".", True),
        ("ключ.*", "ключ.é", True),
    ],
)
def test_a_topic_pattern_matches_word_by_word(channel, pattern, key, matches):
    exchange(channel, "x", "topic")
    bound(channel, "x", ("a", pattern))
    send(channel, "x", key)
    assert bool(contents(channel, "a")) is matches


def test_a_queue_bound_twice_gets_one_copy(channel):
    exchange(channel, "x", "topic")
    bound(channel, "x", ("a", "a.*"), ("a", "*.b"), ("a", "#"))
    send(channel, "x", "a.b")
    assert contents(channel, "a") == ["a.b"]


def test_binding_the_same_again_changes_nothing(channel):
    exchange(channel, "x", "direct")
    bound(channel, "x", ("a", "k"), ("a", "k"))
    send(channel, "x", "k")
    channel.queue_unbind("a", "x", "k")
    send(channel.connection.channel(), "x", "k")
    assert contents(channel, "a") == ["k"]


def test_unbinding_one_key_leaves_the_other(channel):
    exchange(channel, "x", "direct")
    bound(channel, "x", ("a", "one"), ("a", "two"))
    channel.queue_unbind("a", "x", "one")
    send(channel, "x", "one", "two")
    assert contents(channel, "a") == ["two"]


def test_unbinding_what_is_not_bound_is_no_error(channel):
    exchange(channel, "x", "direct")
    queue(channel, "a")
    channel.queue_unbind("a", "x", "never")


def test_unbinding_what_does_not_exist_is_no_error(channel):
    exchange(channel, "x", "direct")
    queue(channel, "a")
    for name, source in (("none", "x"), ("a", "none"), ("none", "none")):
        channel.queue_unbind(name, source, "k")
    for name, source in (("none", "x"), ("x", "none"), ("none", "none")):
        channel.exchange_unbind(name, source)
    assert channel.is_open


def test_an_exchange_bound_to_another_gets_its_messages_by_key(channel):
    exchange(channel, "entry", "direct")
    exchange(channel, "behind", "topic")
    channel.exchange_bind("behind", "entry", "a.b")
    bound(channel, "behind", ("q", "a.#"))
    send(channel, "entry", "a.b", "a.c")
    assert contents(channel, "q") == ["a.b"]


def test_an_exchange_that_was_unbound_gets_no_more(channel):
    exchange(channel, "entry", "fanout")
    exchange(channel, "behind", "fanout")
    channel.exchange_bind("behind", "entry")
    bound(channel, "behind", ("q", ""))
    send(channel, "entry", "before")
    channel.exchange_unbind("behind", "entry")
    send(channel.connection.channel(), "entry", "after")
    assert contents(channel, "q") == ["before"]


def test_a_queue_reached_by_two_exchanges_gets_one_copy(channel):
    for name in ("entry", "left", "right"):
        exchange(channel, name, "fanout")
    for name in ("left", "right"):
        channel.exchange_bind(name, "entry")
        bound(channel, name, ("q", ""))
    send(channel, "entry", "once")
    assert contents(channel, "q") == ["once"]


def test_exchanges_bound_in_a_circle_deliver_once(channel):
    exchange(channel, "a", "fanout")
    exchange(channel, "b", "fanout")
    channel.exchange_bind("a", "b")
    channel.exchange_bind("b", "a")
    bound(channel, "b", ("q", ""))
    send(channel, "a", "once")
    assert contents(channel, "q") == ["once"]


def test_an_alternate_exchange_gets_what_has_no_route(channel):
    exchange(channel, "held", "fanout")
    exchange(channel, "x", "direct", alternate_exchange="held")
    bound(channel, "held", ("rest", ""))
    bound(channel, "x", ("q", "k"))
    send(channel, "x", "k", "other")
    assert contents(channel, "q") == ["k"]
    assert contents(channel, "rest") == ["other"]


def test_what_an_alternate_exchange_takes_is_not_returned(channel):
    exchange(channel, "held", "fanout")
    exchange(channel, "x", "fanout", alternate_exchange="held")
    bound(channel, "held", ("rest", ""))
    publisher = Publisher(channel)
    publisher.send("m", "x", "k", mandatory=True)
    assert publisher.wait() == [1]
    assert publisher.returned == []


def test_an_alternate_exchange_keeps_the_name_of_the_exchange_published_to(channel):
    exchange(channel, "held", "fanout")
    exchange(channel, "x", "fanout", alternate_exchange="held")
    bound(channel, "held", ("rest", ""))
    send(channel, "x", "some.key")
    message = channel.basic_get("rest", no_ack=True)
    assert message.delivery_info["exchange"] == "x"
    assert message.delivery_info["routing_key"] == "some.key"


def test_a_missing_alternate_exchange_is_as_none(channel):
    exchange(channel, "x", "fanout", alternate_exchange="nowhere")
    publisher = Publisher(channel)
    publisher.send("m", "x", "k", mandatory=True)
    assert publisher.wait() == [1]
    assert publisher.returned == [("x", "k", b"m")]


def test_an_entry_exchange_with_no_binding_holds_back_through_its_alternate(channel):
    exchange(channel, "held", "fanout")
    exchange(channel, "entry", "fanout", alternate_exchange="held")
    exchange(channel, "ring", "x-consistent-hash")
    bound(channel, "held", ("waiting", ""))
    bound(channel, "ring", ("shard", "1"))
    channel.exchange_bind("ring", "entry")
    send(channel, "entry", "1")
    channel.exchange_unbind("ring", "entry")
    send(channel.connection.channel(), "entry", "2")
    channel.exchange_bind("ring", "entry")
    send(channel.connection.channel(), "entry", "3")
    assert contents(channel, "shard") == ["1", "3"]
    assert contents(channel, "waiting") == ["2"]


def test_publishing_to_a_missing_exchange_is_not_found(channel):
    def publish():
        channel.basic_publish(make(channel, "m"), "nowhere", "k")
        drain_until(channel, lambda: False)

    with pytest.raises(NotFound):
        publish()


def test_a_message_that_has_no_route_is_dropped_without_a_word(channel):
    exchange(channel, "x", "direct")
    publisher = Publisher(channel)
    publisher.send("m", "x", "nowhere")
    assert publisher.wait() == [1]
    assert publisher.reported == [("ack", 1)]


def test_bindings_are_seen_by_other_connections(broker):
    one, other = broker.channel(), broker.channel()
    exchange(one, "x", "direct")
    bound(one, "x", ("q", "k"))
    send(other, "x", "k", "late")
    one.queue_bind("q", "x", "late")
    send(broker.channel(), "x", "late")
    assert contents(other, "q") == ["k", "late"]


def test_deleting_a_queue_removes_its_bindings(channel):
    exchange(channel, "x", "direct")
    bound(channel, "x", ("q", "k"))
    channel.queue_delete("q")
    queue(channel, "q")
    send(channel, "x", "k")
    assert contents(channel, "q") == []


def test_deleting_an_exchange_removes_its_bindings(channel):
    exchange(channel, "x", "fanout")
    bound(channel, "x", ("q", ""))
    channel.exchange_delete("x")
    exchange(channel, "x", "fanout")
    send(channel, "x", "m")
    assert contents(channel, "q") == []


def test_a_mandatory_message_without_a_route_comes_back_before_its_ack(channel):
    exchange(channel, "x", "direct")
    bound(channel, "x", ("q", "k"))
    publisher = Publisher(channel)
    publisher.send("arrives", "x", "k", mandatory=True)
    publisher.send("comes back", "x", "other", mandatory=True, headers={"h": 1})
    publisher.send("arrives too", "x", "k", mandatory=True)
    assert sorted(publisher.wait()) == [1, 2, 3]
    assert [each[:2] for each in publisher.returned] == [("x", "other")]
    order = [each[0] if each[0] == "return" else each for each in publisher.reported]
    assert order.index("return") < order.index(("ack", 2))


def test_a_return_says_why_and_carries_the_message(channel):
    seen = []
    channel.events["basic_return"].add(lambda *arguments: seen.append(arguments))
    exchange(channel, "x", "direct")
    message = make(channel, "body", headers={"h": 1}, message_id="m1")
    channel.basic_publish(message, "x", "nowhere", mandatory=True)
    drain_until(channel, lambda: seen)
    ((error, exchange_name, key, returned),) = seen
    assert isinstance(error, ChannelError)
    assert error.reply_code == 312
    assert "NO_ROUTE" in str(error)
    assert (exchange_name, key) == ("x", "nowhere")
    assert text(returned) == "body"
    assert returned.properties["message_id"] == "m1"
    assert returned.headers["h"] == 1


def test_routing_keys_of_any_text_arrive_as_sent(channel):
    exchange(channel, "x", "fanout")
    bound(channel, "x", ("q", ""))
    keys = ["", "a b", "ключ", "🙂", "line\nbreak", "x" * 255]
    send(channel, "x", *keys)
    got = [channel.basic_get("q", no_ack=True).delivery_info["routing_key"] for _ in keys]
    assert got == keys


def test_a_headers_exchange_routes_by_all_headers_of_a_binding_or_by_any(channel):
    exchange(channel, "x", "headers")
    for name, match in (
        ("all", {"x-match": "all", "a": "1", "b": "2"}),
        ("any", {"x-match": "any", "a": "1", "b": "2"}),
        ("default", {"a": "1"}),
        ("text", {"x-match": "all", "c": "1"}),
    ):
        queue(channel, name)
        channel.queue_bind(name, "x", "", arguments=match)
    publisher = Publisher(channel)
    for body, headers in (
        ("both", {"a": "1", "b": "2"}),
        ("one", {"a": "1"}),
        ("other", {"a": "2", "b": "2"}),
        ("number", {"c": 1}),
        ("none", None),
    ):
        publisher.send(body, "x", "k", headers=headers)
    publisher.wait()
    assert contents(channel, "all") == ["both"]
    assert contents(channel, "any") == ["both", "one", "other"]
    assert contents(channel, "default") == ["both", "one"]
    assert contents(channel, "text") == []
