"""Wrong times in the headers of a program affect neither metrics nor queues."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedbus import Bus, Message, broker, handler
from feedbus.broker_names import Names
from feedbus.dead_letters import letters, pruning
from feedbus.dead_letters.requeue import Requeue
from feedbus.metrics import Metrics
from feedbus.store.peewee import close_bound
from feedbus.testing import TestSystem
from feedbus.topology import DeadLetters, RetryPolicy
from feedbus.wire import Delivery
from feedbus.wire.constants import PUBLISHED_AT, SENT_AT
from feedbus.wire.delivery import LONGEST_LAG_SECONDS
from tests.small_topologies import queue
from tests.systems import System, publish_confirmed

NOW = 1_800_000_000_000_000
YEAR_SECONDS = 366 * 86_400
HOSTILE = [
    *("", "yesterday", "1800000000000000", b"\xff", None, True, [1], {"a": 1}),
    *(1.8e15, math.nan, math.inf, 0, -1, 7, 1_800_000_000, 1_800_000_000_000),
    *(NOW * 1000, 2**53, 2**63 - 1, -(2**63), NOW + 400 * YEAR_SECONDS * 1_000_000),
]
MOMENTS = st.one_of(
    st.sampled_from(HOSTILE),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(),
    st.datetimes(),
)
NEVER = RetryPolicy((), "dead-letter")


def delivery(headers: dict[str, Any], **properties: Any) -> Delivery:
    """Return a delivery with these headers and properties."""
    return Delivery(1, b"{}", None, "id", "", "", headers, redelivered=False, properties=properties)


@given(st.dictionaries(st.sampled_from([PUBLISHED_AT, SENT_AT]), MOMENTS), MOMENTS)
def test_no_header_makes_a_lag_or_an_age_that_cannot_be(headers, timestamp):
    found = delivery(headers, timestamp=timestamp)
    for seconds in (found.lag_seconds(NOW), found.age_seconds(NOW)):
        assert seconds is None or 0 <= seconds <= LONGEST_LAG_SECONDS
    message = Message.of(found, routing_key="", message_id="id", queue="q", consumer="q_1")
    assert message.published_at is None or message.published_at.tzinfo is UTC


@pytest.mark.parametrize("value", HOSTILE)
def test_a_moment_that_is_no_moment_of_feedbus_is_none(value):
    found = delivery({PUBLISHED_AT: value})
    assert (found.lag_seconds(NOW), found.age_seconds(NOW)) == (None, None)


def test_a_retry_has_the_lag_since_it_was_sent_and_the_age_since_its_first_publish():
    found = delivery({PUBLISHED_AT: NOW - 90_000_000, SENT_AT: NOW - 2_000_000})
    assert (found.lag_seconds(NOW), found.age_seconds(NOW)) == (2.0, 90.0)
    assert delivery({PUBLISHED_AT: NOW + 1_000_000}).lag_seconds(NOW) == 0.0


TOPOLOGY = """
name = "stamps"
[broker]
url = "sqlite:///var/broker.db"
[exchanges]
work = { type = "direct" }
[queues.work]
exchange = "work"
routing_keys = [""]
handler = "tests.test_foreign_stamps:fail_once"
retry = { delays = ["10s"], then = "dead-letter" }
"""
seen: list[Message] = []


@handler
def fail_once(record: dict[str, Any], message: Message) -> None:
    """Note the message, and fail at its first attempt."""
    seen.append(message)
    if message.attempt == 1:
        raise ValueError(record)


@pytest.fixture(scope="module")
def stamped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestSystem]:
    path = tmp_path_factory.mktemp("stamps") / "topology.toml"
    path.write_text(TOPOLOGY)
    with TestSystem(path, now=datetime(2027, 1, 15, 8, tzinfo=UTC)) as system:
        yield system


@given(moment=MOMENTS, again=MOMENTS)
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_foreign_stamps_change_neither_order_nor_attempts(
    stamped: TestSystem, moment: Any, again: Any
):
    seen.clear()
    topology = stamped._system.topology
    with broker.connect(topology) as connection:
        channel = connection.channel()
        for name, headers in (("a", {PUBLISHED_AT: moment, SENT_AT: again}), ("b", {})):
            message = channel.prepare_message(
                b"{}", content_type="application/json", headers=headers
            )
            message.properties["message_id"] = name
            channel.basic_publish(message, Names(topology).exchange("work"), "")
    stamped.run()
    assert [(each.message_id, each.attempt) for each in seen] == [
        *(("a", 1), ("b", 1)),
        *(("a", 2), ("b", 2)),
    ]
    assert seen[0].published_at == seen[2].published_at
    assert stamped.dead_letters() == []


def test_published_at_stays_the_first_through_retries_and_the_dead_letters(stamped: TestSystem):
    seen.clear()
    before = stamped.clock.now()
    stamped.publish("work", {"n": 1})
    stamped.run()
    first, second = seen
    assert first.published_at == second.published_at == before
    assert stamped.clock.now() >= before + timedelta(seconds=10)


@pytest.fixture(params=["embedded", "rabbitmq"])
def url(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield request.getfixturevalue("rabbitmq").url if request.param == "rabbitmq" else ""
    close_bound()


def test_no_foreign_stamp_reaches_the_metrics_or_the_pruning_of_dead_letters(
    url: Any, tmp_path: Path
):
    work = queue(retry=NEVER, dead_letters=DeadLetters(max_age_seconds=3600.0))
    system = System.at(tmp_path, work, broker_url=url)
    metrics = Metrics.none()
    moments: list[Message] = []

    def fail(_: dict[str, Any], bus: Bus, message: Message) -> None:
        moments.append(message)
        raise ValueError

    # RabbitMQ closes a connection that publishes a float that is no number.
    hostile = [each for each in HOSTILE if not isinstance(each, float) or math.isfinite(each)]
    with broker.connect(system.topology) as connection:
        channel: Any = connection.channel()
        for value in hostile:
            headers = {PUBLISHED_AT: value, "feedbus-failed-at": value}
            message = channel.prepare_message(
                b'{"n": 1}', None, "application/json", "utf-8", headers, {}
            )
            publish_confirmed(channel, message, Names(system.topology).exchange("work"), "")
            publish_confirmed(channel, message, "", Names(system.topology).dead(work))
        old = time.time_ns() // 1000 - 7_200_000_000
        message = channel.prepare_message(b"old", headers={"feedbus-failed-at": old})
        publish_confirmed(channel, message, "", Names(system.topology).dead(work))
    system.publish([2])
    with broker.connect(system.topology) as connection:
        assert pruning.prune(connection, system.topology, work) == {"max_age": 1}
    system.run(fail, metrics=metrics)
    assert len(moments) == len(hostile) + 1
    assert metrics.value("feedbus_lag_seconds", "work") == 1
    first = moments[-1].published_at
    assert first is not None
    with (
        letters.open_channel(system.topology) as channel,
        Requeue(system.topology, work) as back,
    ):
        count = letters.settle(channel, system.topology, work, lambda _: True, back.send)
    assert count == 2 * len(hostile) + 1
    moments.clear()
    system.run(fail, metrics=metrics)
    assert {each.published_at for each in moments} == {None, first}
    # What is requeued says when it was sent again; what it said before is as it came.
    assert metrics.value("feedbus_lag_seconds", "work") == 1 + 2 * len(hostile) + 1
    assert metrics.value("feedbus_age_seconds", "work") == 1
