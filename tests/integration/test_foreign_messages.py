"""Every message of a foreign publisher gets one verdict, and the next message is handled.

FEEDBUS_FUZZ_EXAMPLES=100000 is the long form (`make fuzz`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import amqp
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from feedbus import broker
from feedbus.metrics import Metrics
from feedbus.metrics.catalogue import VERDICTS
from feedbus.store.peewee import close_bound
from feedbus.topology import RetryPolicy
from feedbus.wire.amqp_encoding import read_properties
from servers import versions
from tests import raw_client as raw
from tests.small_topologies import queue
from tests.systems import System

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
EXAMPLES = int(os.environ.get("FEEDBUS_FUZZ_EXAMPLES", "400"))  # on each of three brokers
AT_ONCE = 50
RUNS = 50
FRAME_BYTES = 131_000
GOOD = 10_000_002
FINAL = [verdict for verdict in VERDICTS if verdict != "retry"]

bodies = st.one_of(
    raw.json_texts,
    st.integers(0, 8).map(lambda number: b'{"n": %d}' % number),
    raw.packs.map(lambda pack: json.dumps(pack).encode()),
    st.binary(max_size=50),
)
messages = st.builds(
    raw.Raw, properties=raw.all_properties, routing_key=raw.odd_texts, body=bodies
).filter(lambda message: len(message.properties) < FRAME_BYTES)


class Sink:
    """A consumer's handler that takes some numbers and fails on others."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def handle(self, message: dict[str, Any], _bus: Any) -> None:
        if message["n"] % 3 == 2:
            msg = "\x1b[31m\u202e\nno\ud800"
            raise ValueError(msg)
        self.taken.append(message["n"])


def publish_raw(node: Any, exchange: str, examples: Sequence[raw.Raw]) -> int:
    """Publish over py-amqp with the bytes as they are; return how many RabbitMQ has confirmed.

    It refuses some, which costs their publisher the connection.
    """
    count, left = 0, iter(examples)
    while True:
        with suppress(amqp.AMQPError, OSError), raw.publisher(node.port) as publish:
            for example in left:
                publish(exchange, example)
                count += 1
            return count


def publish_kombu(system: System, exchange: str, examples: Sequence[raw.Raw]) -> int:
    """Publish on Kombu's channel; return how many messages the embedded broker has accepted."""
    count = 0
    with broker.connect(system.topology) as connection:
        channel: Any = connection.channel()
        for example in examples:
            found, _ = read_properties(example.properties, 0)
            headers = found.pop("application_headers", None)
            try:
                message = channel.prepare_message(
                    example.body,
                    found.pop("priority", None),
                    found.pop("content_type", None),
                    found.pop("content_encoding", None),
                    headers,
                    found,
                )
                channel.basic_publish(message, exchange, example.routing_key)
            except (amqp.AMQPError, UnicodeError, RecursionError):
                continue  # the publisher has the error
            count += 1
    return count


@pytest.fixture(params=["embedded", *versions.chosen()])
def place(request):
    """Return the node of the broker, or None for the embedded broker."""
    if request.param == "embedded":
        return None
    return request.getfixturevalue("rabbitmq_nodes")(request.param)


@pytest.fixture
def system(place, tmp_path):
    url = place.url if place else ""
    work = queue(
        exchange="other",
        routing_keys=("#",),
        retry=RetryPolicy((0.01,), "dead-letter"),
        prefetch=200,
    )
    yield System.at(tmp_path, work, broker_url=url)
    close_bound()


def made(count: int) -> list[raw.Raw]:
    """Generate messages, each as a separate example: within one example they would be similar."""
    found: list[raw.Raw] = []

    @settings(
        max_examples=count,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(messages)
    def collect(message: raw.Raw) -> None:
        found.append(message)

    collect()
    return found


def check(place: Any, system: System, examples: Sequence[raw.Raw]) -> None:
    exchange, sink = f"{system.topology.name}.other", Sink()
    good = raw.Raw(raw.properties({}), b"", json.dumps({"n": GOOD}).encode())
    if place is None:
        count = publish_kombu(system, exchange, [*examples, good])
    else:
        count = publish_raw(place, exchange, [*examples, good])
    metrics = Metrics.none()
    for _ in range(RUNS):  # one is enough, unless the machine is busy
        ended = system.run(sink.handle, metrics=metrics, idle_seconds=0.2)
        assert ended == "idle for 0.2 s"
        deliveries, records = (
            {verdict: metrics.value(family, "work", verdict) for verdict in VERDICTS}
            for family in ("feedbus_deliveries_total", "feedbus_records_total")
        )
        if sum(deliveries.values()) >= count + records["retry"]:
            break
    assert GOOD in sink.taken
    # A retry of a message of its own is another delivery; a pack's counts once however it ends.
    assert sum(deliveries.values()) == count + records["retry"]
    assert records["ack"] == len(sink.taken)
    letters = system.dead()
    assert len(letters) == sum(records[verdict] for verdict in FINAL) - records["ack"]
    for letter in letters:
        assert letter.message_id
        assert letter.reason
    system.purge_dead()


def test_whatever_is_published_ends_in_one_verdict_and_the_next_message_is_handled(place, system):
    examples = made(EXAMPLES)
    assert len(examples) >= EXAMPLES // 2  # fewer only if all possible messages were generated
    for start in range(0, len(examples), AT_ONCE):
        some = examples[start : start + AT_ONCE]
        try:
            check(place, system, some)
        except Exception as error:
            error.add_note("\n".join(map(repr, some)))
            raise


@pytest.mark.parametrize("depth", [30, 300, 985])
def test_headers_nested_deeply_on_the_embedded_broker_are_the_publishers_trouble(tmp_path, depth):
    system, sink = System.at(tmp_path, queue()), Sink()
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    with broker.connect(system.topology) as connection:
        channel: Any = connection.channel()
        for headers in ({"deep": nested}, {}):
            message = channel.prepare_message(b'{"n": 1}', headers=headers)
            with suppress(amqp.AMQPError):
                channel.basic_publish(message, f"{system.topology.name}.work", "")
    assert system.run(sink.handle).startswith("idle")
    assert sink.taken == ([1, 1] if depth == 30 else [1])
    close_bound()


def test_no_header_of_ours_with_a_value_of_any_type_can_stop_a_consumer(place, system):
    bodies_of_each_fate = (b'{"n": 1}', b'{"n": 2}', b"{}", b"\xff")
    examples = [
        raw.Raw(raw.properties({raw.HEADERS: raw.table([(name, value)])}), b"k", body)
        for name in raw.OWN_HEADERS
        for value in raw.EACH_TYPE
        for body in bodies_of_each_fate
    ]
    check(place, system, examples)
