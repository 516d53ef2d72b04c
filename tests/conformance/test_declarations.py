"""Declarations, passive declarations and deletions."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from amqp.exceptions import (
    AccessRefused,
    ConsumerCancelled,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)

from tests.conformance.drive import (
    consume,
    contents,
    depth,
    drain_until,
    eventually,
    exchange,
    put,
    queue,
)


def test_declaring_the_same_again_is_no_error(channel):
    for _ in range(2):
        exchange(channel, "x", "topic", alternate_exchange="other")
        queue(channel, "q", message_ttl=1000, max_length=5)


@pytest.mark.parametrize(
    "different",
    [
        {"type": "fanout"},
        {"durable": False},
        {"auto_delete": True},
        {"arguments": {"alternate-exchange": "other"}},
    ],
    ids=["type", "durable", "auto_delete", "alternate-exchange"],
)
def test_declaring_an_exchange_otherwise_is_refused(channel, different):
    first = {"type": "direct", "durable": True, "auto_delete": False, "arguments": {}}
    channel.exchange_declare("x", **first)
    with pytest.raises(PreconditionFailed, match="inequivalent arg"):
        channel.exchange_declare("x", **first | different)


@pytest.mark.parametrize(
    "different",
    [
        {"durable": False},
        {"auto_delete": True},
        {"arguments": {}},
        {"arguments": {"x-message-ttl": 2000}},
        {"arguments": {"x-message-ttl": 1000, "x-max-length": 1}},
        {"arguments": {"x-message-ttl": 1000, "x-dead-letter-exchange": ""}},
        {"arguments": {"x-message-ttl": 1000, "x-single-active-consumer": True}},
    ],
    ids=["durable", "auto_delete", "no ttl", "ttl", "max-length", "dead letters", "single active"],
)
def test_declaring_a_queue_otherwise_is_refused(channel, different):
    first = {"durable": True, "auto_delete": False, "arguments": {"x-message-ttl": 1000}}
    channel.queue_declare("q", **first)
    with pytest.raises(PreconditionFailed, match="inequivalent arg"):
        channel.queue_declare("q", **first | different)


def test_declaring_another_queue_type_is_refused(channel):
    queue(channel, "q", queue_type="quorum")
    with pytest.raises(PreconditionFailed, match="inequivalent arg 'x-queue-type'"):
        queue(channel, "q")


def test_the_classic_type_may_be_said_or_left_out(channel):
    queue(channel, "q")
    queue(channel, "q", queue_type="classic")


def test_the_refusal_names_what_was_received_and_what_is(channel):
    queue(channel, "q", message_ttl=1000)
    with pytest.raises(PreconditionFailed) as refusal:
        queue(channel, "q", message_ttl=2000)
    reported = str(refusal.value)
    assert "'x-message-ttl'" in reported
    assert "queue 'q'" in reported
    assert "2000" in reported
    assert "1000" in reported


def test_a_refusal_leaves_the_channel_usable(channel):
    queue(channel, "q")
    with pytest.raises(PreconditionFailed):
        queue(channel, "q", max_length=1)
    put(channel, "q", "still works")
    assert contents(channel, "q") == ["still works"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"message_ttl": -1},
        {"message_ttl": "soon"},
        {"expires": 0},
        {"max_length": -1},
        {"overflow": "explode"},
        {"dead_letter_routing_key": "k"},
        {"queue_type": "wooden"},
        {"delivery_limit": 3},
    ],
    ids=str,
)
def test_an_argument_that_makes_no_sense_is_refused(channel, arguments):
    with pytest.raises(PreconditionFailed):
        queue(channel, "q", **arguments)


def test_asking_for_a_missing_queue_is_not_found(channel):
    with pytest.raises(NotFound):
        channel.queue_declare("nothing", passive=True)


def test_asking_for_a_missing_exchange_is_not_found(channel):
    with pytest.raises(NotFound):
        channel.exchange_declare("nothing", "direct", passive=True)


def test_asking_for_what_exists_does_not_compare_it(channel):
    exchange(channel, "x", "topic")
    queue(channel, "q", max_length=5)
    channel.exchange_declare("x", "direct", passive=True)
    channel.queue_declare("q", passive=True)


def test_a_queue_is_declared_with_its_counts(broker):
    channel = broker.channel()
    name, messages, consumers = channel.queue_declare("q", durable=True, auto_delete=False)
    assert (name, messages, consumers) == ("q", 0, 0)
    put(channel, "q", "1", "2", "3")
    assert tuple(channel.queue_declare("q", passive=True)) == ("q", 3, 0)
    got = consume(broker.channel(), "q", prefetch=1)
    eventually(lambda: tuple(channel.queue_declare("q", passive=True))[2] == 1)
    assert got == []


def test_messages_that_are_not_settled_are_not_counted_as_ready(channel):
    queue(channel, "q")
    put(channel, "q", "1", "2", "3")
    channel.basic_get("q")
    assert depth(channel, "q") == 2


def test_a_queue_without_a_name_gets_one(channel):
    name = channel.queue_declare("", durable=True, auto_delete=False).queue
    assert name.startswith("amq.gen-")
    assert channel.queue_declare(name, passive=True).queue == name


def test_names_of_the_broker_cannot_be_taken(channel):
    with pytest.raises(AccessRefused):
        exchange(channel, "amq.mine", "direct")
    with pytest.raises(AccessRefused):
        queue(channel, "amq.mine")


def test_the_default_exchange_cannot_be_bound(channel):
    queue(channel, "q")
    with pytest.raises(AccessRefused):
        channel.queue_bind("q", "", "k")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
        ("amq.topic", "topic"),
    ],
)
def test_the_standard_exchanges_are_there(channel, name, kind):
    channel.exchange_declare(name, kind, durable=True, auto_delete=False)
    queue(channel, "q")
    channel.queue_bind("q", name, "k")


def test_arguments_can_have_every_type_of_amqp(channel):
    values = {"time": datetime(2026, 1, 1, tzinfo=UTC), "decimal": Decimal("1.5"), "bytes": b"\xff"}
    for _ in range(2):
        channel.exchange_declare("x", "fanout", arguments=values)
        channel.queue_declare("q", auto_delete=False, arguments=values)
        channel.queue_bind("q", "x", "", arguments=values)
    channel.queue_unbind("q", "x", "", arguments=values)  # also deletes the exchange
    with pytest.raises(NotFound):
        channel.exchange_declare("x", "fanout", passive=True)


@pytest.mark.parametrize("missing", ["queue", "exchange"])
def test_binding_what_is_missing_is_not_found(channel, missing):
    if missing == "exchange":
        queue(channel, "q")
    else:
        exchange(channel, "x", "direct")
    with pytest.raises(NotFound):
        channel.queue_bind("q", "x", "k")


@pytest.mark.parametrize("missing", ["source", "destination"])
def test_binding_a_missing_exchange_to_another_is_not_found(channel, missing):
    exchange(channel, "destination" if missing == "source" else "source", "direct")
    with pytest.raises(NotFound):
        channel.exchange_bind("destination", "source", "k")


def test_deleting_a_queue_reports_how_many_messages_went_with_it(channel):
    queue(channel, "q")
    put(channel, "q", "1", "2")
    assert channel.queue_delete("q") == 2
    with pytest.raises(NotFound):
        channel.queue_declare("q", passive=True)


def test_deleting_what_is_missing_is_no_error(channel):
    assert channel.queue_delete("nothing") == 0
    channel.exchange_delete("nothing")


def test_a_queue_that_holds_messages_is_not_deleted_if_empty_is_asked(channel):
    queue(channel, "q")
    put(channel, "q", "1")
    with pytest.raises(PreconditionFailed):
        channel.queue_delete("q", if_empty=True)
    assert contents(channel, "q") == ["1"]
    channel.queue_delete("q", if_empty=True)
    with pytest.raises(NotFound):
        channel.queue_declare("q", passive=True)


def test_a_queue_that_is_consumed_is_not_deleted_if_unused_is_asked(broker):
    channel, consuming = broker.channel(), broker.channel()
    queue(channel, "q")
    consume(consuming, "q", tag="c")
    with pytest.raises(PreconditionFailed):
        channel.queue_delete("q", if_unused=True)
    consuming.basic_cancel("c")
    channel.queue_delete("q", if_unused=True)
    with pytest.raises(NotFound):
        channel.queue_declare("q", passive=True)


def test_an_exchange_that_has_bindings_is_not_deleted_if_unused_is_asked(channel):
    exchange(channel, "x", "direct")
    queue(channel, "q")
    channel.queue_bind("q", "x", "k")
    with pytest.raises(PreconditionFailed):
        channel.exchange_delete("x", if_unused=True)
    channel.queue_unbind("q", "x", "k")
    channel.exchange_delete("x", if_unused=True)
    with pytest.raises(NotFound):
        channel.exchange_declare("x", "direct", passive=True)


def test_purging_forgets_what_is_ready_and_keeps_what_is_held(channel):
    queue(channel, "q")
    put(channel, "q", "held", "ready", "ready")
    held = channel.basic_get("q")
    assert channel.queue_purge("q") == 2
    assert depth(channel, "q") == 0
    channel.basic_reject(held.delivery_info["delivery_tag"], True)
    eventually(lambda: depth(channel, "q") == 1)


@pytest.mark.parametrize("method", ["queue_purge", "basic_get", "basic_consume"])
def test_using_a_missing_queue_is_not_found(channel, method):
    with pytest.raises(NotFound):
        getattr(channel, method)("nothing")


def test_an_exclusive_queue_is_its_connections_alone(broker):
    owner, other = broker.channel(), broker.channel()
    owner.queue_declare("mine", exclusive=True, auto_delete=False)
    with pytest.raises(ResourceLocked):
        other.queue_declare("mine", passive=True)


def test_an_exclusive_queue_ends_with_its_connection(broker):
    connection = broker.connect()
    connection.channel().queue_declare("mine", exclusive=True, auto_delete=False)
    connection.release()
    other = broker.channel()

    def is_gone():
        try:
            other.queue_declare("mine", passive=True)
        except (NotFound, ResourceLocked) as refusal:
            return isinstance(refusal, NotFound)
        return False

    eventually(is_gone)


def test_an_auto_delete_queue_ends_with_its_last_consumer(channel):
    channel.queue_declare("q", durable=True, auto_delete=True)
    consume(channel, "q", tag="c")
    channel.basic_cancel("c")
    with pytest.raises(NotFound):
        channel.queue_declare("q", passive=True)


def test_a_consumer_hears_that_its_queue_was_deleted(broker):
    channel, other = broker.channel(), broker.channel()
    queue(channel, "q")
    ended = []
    channel.basic_consume("q", consumer_tag="c", callback=print, on_cancel=ended.append)
    other.queue_delete("q")
    drain_until(channel, lambda: ended)
    assert ended == ["c"]


def test_each_consumer_of_a_deleted_queue_is_reported_by_an_error(broker):
    channel, other = broker.channel(), broker.channel()
    for name in ("a", "b"):
        queue(channel, name)
        channel.basic_consume(name, consumer_tag=f"of {name}", callback=print)
    for name in ("a", "b"):
        other.queue_delete(name)
    reported = set()
    for _ in range(2):
        with pytest.raises(ConsumerCancelled) as error:
            drain_until(channel, lambda: False)
        reported.add(str(error.value).rpartition("of ")[2])
    assert reported == {"a", "b"}


def test_a_connection_names_the_errors_that_it_raises(broker):
    connection = broker.connect()
    raw = connection.connection
    with pytest.raises(raw.channel_errors):
        raw.channel().queue_declare("missing", passive=True)
    assert set(raw.connection_errors) == set(connection.connection_errors)
    assert set(raw.recoverable_connection_errors) == set(connection.recoverable_connection_errors)
    assert raw.recoverable_channel_errors == connection.recoverable_channel_errors
