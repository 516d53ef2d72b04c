"""Which messages and queues expire, and when they do not."""

from __future__ import annotations

import pytest
from amqp.exceptions import InternalError, NotFound, PreconditionFailed

from tests.conformance.drive import (
    consume,
    contents,
    depth,
    drain_quietly,
    drain_until,
    eventually,
    make,
    put,
    queue,
    tag,
    take,
    text,
    texts,
)


def test_a_message_of_a_queue_with_a_ttl_expires(channel):
    queue(channel, "q", message_ttl=100)
    put(channel, "q", "m")
    eventually(lambda: depth(channel, "q") == 0)
    assert channel.basic_get("q") is None


def test_a_message_with_an_expiration_of_its_own_expires(channel):
    queue(channel, "q")
    put(channel, "q", "m", expiration="100")
    eventually(lambda: depth(channel, "q") == 0)
    assert channel.basic_get("q") is None


def test_the_shorter_of_both_times_counts(channel):
    queue(channel, "q", message_ttl=100)
    put(channel, "q", "m", expiration="600000")
    eventually(lambda: depth(channel, "q") == 0)


def test_without_a_ttl_nothing_expires(channel):
    queue(channel, "q")
    put(channel, "q", "lasting", expiration="600000")
    drain_quietly(channel)
    assert contents(channel, "q") == ["lasting"]


def hold_in_time(channel, body):
    """Return a delivery of the queue q that has not expired; one that has is replaced by others."""

    def put_and_take():
        put(channel, "q", body)
        return channel.basic_get("q", no_ack=False)

    return eventually(put_and_take)


def test_a_held_delivery_does_not_expire(channel):
    queue(channel, "q", message_ttl=100)
    held = hold_in_time(channel, "held")
    drain_quietly(channel)
    channel.basic_ack(tag(held))
    drain_quietly(channel, 0.1)  # a refusal would arrive here


def test_a_delivery_that_comes_back_too_late_expires(channel):
    queue(channel, "dead")
    queue(channel, "q", message_ttl=2_000, dead_letter_exchange="", dead_letter_routing_key="dead")
    held = hold_in_time(channel, "m")
    drain_quietly(channel, 2.1)
    channel.basic_reject(tag(held), True)
    assert text(take(channel, "dead")) == "m"


def test_only_the_head_of_a_queue_expires(channel):
    queue(channel, "q")
    put(channel, "q", "lasting")
    put(channel, "q", "short", expiration="50")
    drain_quietly(channel)
    assert depth(channel, "q") == 2
    assert text(channel.basic_get("q", no_ack=True)) == "lasting"
    eventually(lambda: depth(channel, "q") == 0)


def test_an_expired_message_is_never_delivered(channel):
    queue(channel, "q")
    put(channel, "q", "1")
    put(channel, "q", "expired", expiration="50")
    put(channel, "q", "2")
    drain_quietly(channel)
    got = consume(channel, "q")
    drain_until(channel, lambda: len(got) == 2)
    drain_quietly(channel)
    assert texts(got) == ["1", "2"]


@pytest.mark.parametrize("expiration", ["soon", "-1", "1.5"])
def test_an_expiration_that_is_no_number_is_refused(channel, expiration):
    queue(channel, "q")

    def publish():
        channel.basic_publish(make(channel, "m", expiration=expiration), "", "q")
        drain_until(channel, lambda: False)

    with pytest.raises(PreconditionFailed):
        publish()


def test_a_delay_queue_that_nobody_consumes_sends_on_to_one_that_waits(channel):
    queue(channel, "q")
    queue(channel, "later", message_ttl=200, dead_letter_exchange="", dead_letter_routing_key="q")
    got = consume(channel, "q")
    put(channel, "later", "1", "2", "3")
    drain_until(channel, lambda: len(got) == 3)
    assert texts(got) == ["1", "2", "3"]


def test_delay_queues_of_different_waits_keep_their_own_time(channel):
    queue(channel, "q")
    for wait in (1500, 300, 20):
        queue(
            channel,
            f"later.{wait}",
            message_ttl=wait,
            dead_letter_exchange="",
            dead_letter_routing_key="q",
        )
        put(channel, f"later.{wait}", str(wait))
    got = consume(channel, "q")
    drain_until(channel, lambda: len(got) == 3)
    assert texts(got) == ["20", "300", "1500"]


def test_messages_with_waits_of_their_own_leave_one_by_one(channel):
    queue(channel, "q")
    queue(channel, "later", dead_letter_exchange="", dead_letter_routing_key="q")
    for wait in ("20", "120", "220"):
        put(channel, "later", wait, expiration=wait)
    got = consume(channel, "q")
    drain_until(channel, lambda: len(got) == 3)
    assert texts(got) == ["20", "120", "220"]


def test_an_unused_queue_expires(broker):
    queue(broker.channel(), "q", expires=300)

    def is_gone():
        asking = broker.channel()
        try:
            asking.queue_unbind("q", "amq.direct", "")
            asking.queue_bind("q", "amq.direct", "")  # neither counts as a use
        except NotFound:
            return True
        except InternalError:  # RabbitMQ 4.3 can answer so while it deletes the queue
            return False
        asking.connection.close()
        return False

    eventually(is_gone)


def test_a_queue_with_a_consumer_does_not_expire(channel):
    queue(channel, "q", expires=200)
    got = consume(channel, "q")
    drain_quietly(channel, 0.6)
    put(channel, "q", "m")
    drain_until(channel, lambda: got)
    assert texts(got) == ["m"]
