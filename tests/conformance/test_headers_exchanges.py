"""Which queues get a message from a headers exchange."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from amqp.exceptions import PreconditionFailed

from tests.conformance.drive import Publisher, contents, exchange, queue

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def route(channel, arguments, headers):
    """Return whether a queue that is bound with the arguments gets a message with the headers."""
    exchange(channel, "x", "headers")
    queue(channel, "q")
    channel.queue_bind("q", "x", "", arguments=arguments)
    publisher = Publisher(channel)
    publisher.send("m", "x", "any key", headers=headers)
    publisher.wait()
    return contents(channel, "q") == ["m"]


@pytest.mark.parametrize(
    ("arguments", "headers", "matches"),
    [
        ({"a": "1", "b": "2"}, {"a": "1", "b": "2", "c": "3"}, True),
        ({"a": "1", "b": "2"}, {"a": "1"}, False),
        ({"a": "1", "b": "2"}, {"a": "1", "b": "3"}, False),
        ({"a": "1"}, {"A": "1"}, False),
        ({"a": "1"}, {"a": "1 "}, False),
        ({"a": "1"}, None, False),
        ({}, {"a": "1"}, True),
        ({}, None, True),
        ({"x-match": "all"}, {"a": "1"}, True),
        ({"x-match": "all", "a": "1"}, {"a": "1"}, True),
        ({"x-match": "all", "a": "1", "b": "2"}, {"a": "1"}, False),
        ({"x-match": "any", "a": "1", "b": "2"}, {"a": "1"}, True),
        ({"x-match": "any", "a": "1", "b": "2"}, {"a": "2", "b": "1"}, False),
        ({"x-match": "any"}, {"a": "1"}, False),
        ({"x-match": "all-with-x", "a": "1"}, {"a": "1"}, True),
        ({"x-match": "any-with-x"}, {"a": "1"}, False),
    ],
)
def test_x_match_selects_whether_all_headers_or_one_must_match(
    channel, arguments, headers, matches
):
    assert route(channel, arguments, headers) is matches


@pytest.mark.parametrize(
    ("arguments", "headers", "matches"),
    [
        ({"x-a": "1"}, {}, True),
        ({"x-match": "any", "x-a": "1"}, {"x-a": "1"}, False),
        ({"x-match": "any", "x-a": "1", "b": "2"}, {"b": "2"}, True),
        ({"x-match": "all-with-x", "x-a": "1"}, {}, False),
        ({"x-match": "all-with-x", "x-a": "1"}, {"x-a": "1"}, True),
        ({"x-match": "all-with-x", "x-a": "1", "b": "2"}, {"x-a": "1"}, False),
        ({"x-match": "any-with-x", "x-a": "1"}, {"x-a": "1"}, True),
        ({"x-match": "any-with-x", "x-a": "1", "b": "2"}, {"x-a": "2"}, False),
        ({"x-match": "any-with-x"}, {"x-match": "any-with-x"}, False),
        ({"X-a": "1"}, {}, False),
    ],
)
def test_headers_that_begin_with_x_match_only_with_x(channel, arguments, headers, matches):
    assert route(channel, arguments, headers) is matches


@pytest.mark.parametrize(
    ("expected", "value", "matches"),
    [
        (None, "1", True),
        (None, 0, True),
        (None, None, True),
        (None, [1], True),
        (None, {"b": 1}, True),
        ("1", 1, False),
        (1, "1", False),
        (1, 1, True),
        (1, 2, False),
        (1, True, False),
        (True, 1, False),
        (True, True, True),
        (True, False, False),
        ("true", True, False),
        ("", None, False),
        (0, None, False),
        (1.5, 1.5, True),
        (2**40, 2**40, True),
        (1, 2**32 + 1, False),
        (b"a", "a", True),
        ("a", b"a", True),
        (b"\xff", b"\xff", True),
        (b"\xff", b"\xfe", False),
        (NOON, int(NOON.timestamp()), True),
        (NOON, "2026", False),
        (Decimal("1.5"), Decimal("1.5"), True),
        (Decimal("1.5"), Decimal("1.50"), False),
        (Decimal("1.5"), 1.5, False),
        ([1], [1], True),
        ([1], [2], False),
        ({"b": 1}, {"b": 1}, True),
        ("undefined", None, False),
    ],
)
def test_a_value_matches_an_equal_value_of_its_type_and_none_any_value(
    channel, expected, value, matches
):
    assert route(channel, {"a": expected}, {"a": value}) is matches


@pytest.mark.parametrize("expected", [NOON, int(NOON.timestamp())])
def test_a_time_matches_its_seconds(broker, expected):
    # RabbitMQ 4 multiplies the time of a header by 1000, so it never matches.
    matches = not (broker.version and broker.version >= (4,))
    assert route(broker.channel(), {"a": expected}, {"a": NOON}) is matches


@pytest.mark.parametrize(("expected", "value"), [(1, 1.0), (1.0, 1)])
def test_an_integer_does_not_match_a_float(broker, expected, value):
    # RabbitMQ 3 compares the values of numbers with different types.
    matches = bool(broker.version and broker.version < (4,))
    assert route(broker.channel(), {"a": expected}, {"a": value}) is matches


def test_none_does_not_match_a_missing_header(channel):
    assert not route(channel, {"a": None}, {"b": "1"})


@pytest.mark.parametrize("value", ["ALL", "", "any-x", 1, None])
def test_an_invalid_x_match_is_refused(channel, value):
    exchange(channel, "x", "headers")
    queue(channel, "q")
    with pytest.raises(PreconditionFailed, match="x-match"):
        channel.queue_bind("q", "x", "", arguments={"x-match": value})


def test_other_exchanges_ignore_x_match(channel):
    exchange(channel, "x", "direct")
    queue(channel, "q")
    channel.queue_bind("q", "x", "k", arguments={"x-match": "ALL"})
    publisher = Publisher(channel)
    publisher.send("m", "x", "k")
    publisher.wait()
    assert contents(channel, "q") == ["m"]


def test_a_binding_is_removed_with_its_arguments(channel):
    exchange(channel, "x", "headers")
    queue(channel, "q")
    for arguments in ({"a": NOON}, {"b": b"\xff"}):
        channel.queue_bind("q", "x", "", arguments=arguments)
    channel.queue_unbind("q", "x", "", arguments={"a": NOON})
    publisher = Publisher(channel)
    publisher.send("removed", "x", "", headers={"a": NOON})
    publisher.send("bound", "x", "", headers={"b": b"\xff"})
    publisher.wait()
    assert contents(channel, "q") == ["bound"]


def test_a_headers_exchange_binds_exchanges_and_gives_an_alternate_exchange_the_rest(channel):
    exchange(channel, "rest", "fanout")
    exchange(channel, "x", "headers", alternate_exchange="rest")
    exchange(channel, "reds", "fanout")
    channel.exchange_bind("reds", "x", "", arguments={"colour": "red"})
    for name, source in (("red", "reds"), ("other", "rest")):
        queue(channel, name)
        channel.queue_bind(name, source, "")
    publisher = Publisher(channel)
    publisher.send("1", "x", "k", headers={"colour": "red"})
    publisher.send("2", "x", "k", headers={"colour": "blue"})
    publisher.send("3", "x", "k")
    publisher.wait()
    assert contents(channel, "red") == ["1"]
    assert contents(channel, "other") == ["2", "3"]
