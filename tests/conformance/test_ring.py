"""Consistent-hash exchanges, which place messages as feedbus.ring predicts."""

from __future__ import annotations

import json

import pytest
from amqp.exceptions import PreconditionFailed

from feedbus.ring import Ring
from tests.conformance.drive import Publisher, contents, exchange, queue

KEYS = [f"user-{number}" for number in range(300)] + ["", "ключ", "🙂", "a" * 200]


def ring(channel, name, members):
    exchange(channel, name, "x-consistent-hash")
    for member, weight in members:
        queue(channel, member)
        channel.queue_bind(member, name, str(weight))


def send(channel, name, keys=KEYS):
    publisher = Publisher(channel.connection.channel())
    for key in keys:
        publisher.send(json.dumps(key), name, key)
    publisher.wait()


def placed(channel, members):
    return {member: [json.loads(body) for body in contents(channel, member)] for member in members}


def predicted(members, keys=KEYS):
    model = Ring()
    for member, weight in members:
        model.bind(member, weight)
    shards = {member: [] for member, _ in members}
    for key in keys:
        shards[model.route(key)].append(key)
    return shards


@pytest.mark.parametrize(
    "members",
    [
        [("only", 1)],
        [(f"s{number}", 1) for number in range(10)],
        [(f"s{number}", 1) for number in reversed(range(10))],
        [("a", 3), ("b", 1), ("c", 20)],
    ],
    ids=["one queue", "ten queues", "ten queues bound backwards", "unequal weights"],
)
def test_a_ring_places_every_key_where_the_prediction_says(channel, members):
    ring(channel, "x", members)
    send(channel, "x")
    assert placed(channel, [name for name, _ in members]) == predicted(members)


def test_the_order_of_binding_is_the_order_of_buckets(channel):
    ring(channel, "x", [("b", 1), ("a", 1)])
    ring(channel, "y", [("c", 1), ("d", 1)])
    send(channel, "x")
    send(channel, "y")
    first = placed(channel, ["b", "a"])
    second = placed(channel, ["c", "d"])
    assert list(first.values()) == list(second.values())


def test_unbinding_a_queue_shifts_the_buckets_after_it_down(channel):
    ring(channel, "x", [("a", 1), ("b", 2), ("c", 1)])
    channel.queue_unbind("b", "x", "2")
    send(channel, "x")
    assert placed(channel, ["a", "c"]) == predicted([("a", 1), ("c", 1)])
    assert contents(channel, "b") == []


def test_a_second_weight_for_a_queue_leaves_the_ring_as_it_is(channel):
    ring(channel, "x", [("a", 1), ("b", 1)])
    channel.queue_bind("a", "x", "5")
    send(channel, "x")
    assert placed(channel, ["a", "b"]) == predicted([("a", 1), ("b", 1)])


def test_unbinding_one_of_two_weights_takes_all_buckets(channel):
    ring(channel, "x", [("a", 1), ("b", 1)])
    channel.queue_bind("a", "x", "5")
    channel.queue_unbind("a", "x", "5")
    send(channel, "x")
    assert contents(channel, "a") == []
    assert len(contents(channel, "b")) == len(KEYS)


@pytest.mark.parametrize("weight", ["0", "-1", "1.5", "", "one"])
def test_a_weight_that_is_no_positive_integer_is_refused(channel, weight):
    exchange(channel, "x", "x-consistent-hash")
    queue(channel, "q")
    with pytest.raises(PreconditionFailed):
        channel.queue_bind("q", "x", weight)


def test_an_empty_ring_returns_what_is_mandatory(channel):
    exchange(channel, "x", "x-consistent-hash")
    publisher = Publisher(channel)
    publisher.send("m", "x", "k", mandatory=True)
    assert publisher.wait() == [1]
    assert [each[:2] for each in publisher.returned] == [("x", "k")]


def test_an_empty_ring_leads_to_its_alternate_exchange(channel):
    exchange(channel, "held", "fanout")
    queue(channel, "rest")
    channel.queue_bind("rest", "held")
    exchange(channel, "x", "x-consistent-hash", alternate_exchange="held")
    send(channel, "x", ["k"])
    assert contents(channel, "rest") == ['"k"']


def test_a_ring_behind_a_fanout_places_by_the_key_of_the_message(channel):
    members = [(f"s{number}", 1) for number in range(4)]
    exchange(channel, "entry", "fanout")
    ring(channel, "x", members)
    channel.exchange_bind("x", "entry")
    send(channel, "entry")
    assert placed(channel, [name for name, _ in members]) == predicted(members)


def test_each_key_keeps_its_order(channel):
    members = [(f"s{number}", 1) for number in range(4)]
    ring(channel, "x", members)
    publisher = Publisher(channel)
    for number in range(200):
        publisher.send(json.dumps([f"k{number % 20}", number]), "x", f"k{number % 20}")
    publisher.wait()
    for bodies in placed(channel, [name for name, _ in members]).values():
        for key in {key for key, _ in bodies}:
            numbers = [number for each, number in bodies if each == key]
            assert numbers == sorted(numbers)
