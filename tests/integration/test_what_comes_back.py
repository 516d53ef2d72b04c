"""A message keeps its properties: after a retry, as a dead letter, and after a requeue."""

from __future__ import annotations

import json
import struct
import time
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from click.testing import CliRunner
from marshmallow import RAISE, Schema, fields

from feedbus import Message, broker
from feedbus.broker_names import Names
from feedbus.cli import main
from feedbus.dead_letters import letters, pruning
from feedbus.dead_letters.requeue import Requeue
from feedbus.errors import PublishError, Reject
from feedbus.metrics import Metrics
from feedbus.store.peewee import PeeweeStore, bind, close_bound
from feedbus.topology import DeadLetters, RetryPolicy
from feedbus.wire.constants import EXPIRATION, JSON, PACK, SEALED
from servers import versions
from tests import raw_client as raw
from tests.ordered_queues import LATER, Failing, due_after, work
from tests.small_topologies import queue, sharded
from tests.systems import System, publish_confirmed

pytestmark = pytest.mark.integration

HEADERS = {
    "text": "é",
    "number": -(2**40),
    "list": [1, {"a": None}, True],
    "moment": datetime(2026, 2, 25, 6, 13, 20),  # noqa: DTZ001 -- as py-amqp reads them
    "decimal": Decimal("1.50"),
    "bytes": b"\xff",
    "feedbus-own": "a publisher's own",
    "x-death": [{"queue": "elsewhere", "reason": "expired", "count": 1}],
}
PROPERTIES = {
    "correlation_id": "c",
    "reply_to": "r",
    "type": "t",
    "app_id": "a",
    "timestamp": 1_772_000_000,
    "expiration": "7200000",
}
BODY = b'{"n" : 7,  "text": "as it came"}'
NEVER = RetryPolicy((0.01,), "dead-letter")


@pytest.fixture(params=["embedded", *versions.chosen()])
def url(request):
    """Return the URL of a broker, "" for the embedded one."""
    if request.param == "embedded":
        return ""
    return request.getfixturevalue("rabbitmq_nodes")(request.param).url


@pytest.fixture
def small_frames(rabbitmq):
    """Return the URL of a broker whose frames have at most 8,192 bytes."""
    change = "application:set_env(rabbit, frame_max, {})"
    before = rabbitmq.evaluate("element(2, application:get_env(rabbit, frame_max))")
    rabbitmq.evaluate(change.format(8192))
    yield rabbitmq.url
    rabbitmq.evaluate(change.format(before))


@pytest.fixture(autouse=True)
def _closed_store():
    yield
    close_bound()


def put(system: System, exchange: str, key: str, body: bytes = BODY, **options: Any) -> None:
    """Publish as a foreign publisher would."""
    options = {"headers": dict(HEADERS), "properties": dict(PROPERTIES), "priority": 5} | options
    with broker.connect(system.topology) as connection:
        channel: Any = connection.channel()
        message = channel.prepare_message(body, **options)
        publish_confirmed(channel, message, f"{system.topology.name}.{exchange}", key)


def taken(system: System, name: str) -> Any:
    """Take the one message of a queue on the broker."""
    with broker.connect(system.topology) as connection:
        channel: Any = connection.channel()
        channel.auto_decode = False
        message = channel.basic_get(name)
        assert message is not None
        channel.basic_ack(message.delivery_tag)
        assert channel.basic_get(name) is None
        return message


def fail(_message: Any, _bus: Any) -> None:
    """Raise an exception for every message."""
    msg = "it always fails"
    raise RuntimeError(msg)


def requeue_all(system: System, name: str = "work") -> int:
    """Send all dead letters of a queue back."""
    chosen = system.topology.queues[name]
    with letters.open_channel(system.topology) as channel, Requeue(system.topology, chosen) as back:
        return letters.settle(channel, system.topology, chosen, lambda _: True, back.send)


@pytest.mark.parametrize("key", ["", "some.key.é"])
@pytest.mark.parametrize("identified", [True, False])
def test_a_message_comes_back_as_it_came_and_to_its_queue_alone(url, tmp_path, key, identified):
    work = queue(exchange="other", routing_keys=("#",), retry=NEVER)
    system = System.at(tmp_path, work, queue("beside", exchange="other"), broker_url=url)
    own = {**PROPERTIES, "message_id": "m-1"} if identified else PROPERTIES
    put(system, "other", key, content_type="text/odd", properties=dict(own))
    metrics = Metrics.none()
    system.run(fail, metrics=metrics)
    assert metrics.value("feedbus_records_total", "work", "retry") == 1
    (letter,) = system.dead()
    assert (letter.key, letter.body, letter.attempts) == (key, BODY, 2)
    assert letter.delivery.properties["expiration"] == "7200000"
    assert requeue_all(system) == 1
    back = taken(system, f"{system.topology.name}.work")
    assert back.body == BODY
    assert back.delivery_info["routing_key"] == key
    properties = {name: value for name, value in back.properties.items() if value is not None}
    headers = properties.pop("application_headers")
    assert headers == HEADERS
    assert properties == {
        **own,
        "content_type": "text/odd",
        "delivery_mode": 2,
        "priority": 5,
    }
    assert system.ready()["beside"] == (1 if key == "" else 0)


def test_a_message_of_a_shard_comes_back_by_its_exchange_with_its_key(url, tmp_path):
    system = System.at(tmp_path, sharded(2, retry=NEVER), broker_url=url)
    put(system, "ring", "k7")
    for name in system.topology.consumers:
        system.run(fail, name)
    assert requeue_all(system, "shard") == 1
    for name in system.topology.consumers:
        system.run(fail, name)
    (letter,) = system.dead("shard")
    assert (letter.key, letter.body, letter.attempts) == ("k7", BODY, 2)
    kept = {name: letter.delivery.headers.get(name) for name in HEADERS}
    assert kept == HEADERS


def test_every_record_of_a_pack_that_fails_keeps_what_the_pack_had(url, tmp_path):
    system = System.at(tmp_path, queue(retry=NEVER), broker_url=url)
    pack = {
        "origins": ["o"],
        "owners": [],
        "ordinals": [0, 1, 2],
        "keys": ["a", "b", "c"],
        "shared": {},
        "columns": {"n": [0, 1, 2]},
    }
    put(system, "work", "", json.dumps(pack).encode(), content_type=PACK)

    def refuse_odd(message: Any, _bus: Any) -> None:
        if message["n"] != 1:
            raise Reject(str(message["n"]))

    system.run(refuse_odd)
    letters = system.dead()
    assert [(each.message_id, each.key, each.reason) for each in letters] == [
        ("o-0", "a", "0"),
        ("o-2", "c", "2"),
    ]
    for letter in letters:
        assert letter.content_type == JSON
        assert {name: letter.delivery.headers.get(name) for name in HEADERS} == HEADERS
        assert letter.delivery.properties["correlation_id"] == "c"


def test_a_dead_letter_does_not_expire(url, tmp_path):
    system = System.at(tmp_path, queue(retry=NEVER), broker_url=url)
    put(system, "work", "", b"no JSON", properties={"expiration": "1500"})
    system.run(fail, max_messages=1)
    time.sleep(1.6)
    (letter,) = system.dead()
    assert letter.delivery.headers[EXPIRATION] == "1500"


class Strict(Schema):
    """A message with only a number."""

    n = fields.Integer(strict=True, required=True)

    class Meta:
        """Refuse all other fields."""

        unknown = RAISE


@pytest.mark.parametrize(
    "body",
    [
        b'{"n": 1' + b"".join(b', "f%d": 0' % each for each in range(5000)) + b"}",
        b'{"n": 1, "' + b"f" * 200_000 + b'": 2}',
    ],
)
def test_errors_are_cut_to_fit_into_a_frame(url, tmp_path, body, monkeypatch):
    monkeypatch.setattr("tests.systems.Numbered", Strict)
    system = System.at(tmp_path, queue(retry=NEVER), broker_url=url)
    put(system, "work", "", body)
    put(system, "work", "", b'{"n": 1}')
    assert system.run(system.note).startswith("idle")
    assert system.seen == [1]
    (letter,) = system.dead()
    assert letter.body == body
    assert "Unknown field" in json.dumps(letter.errors)
    assert len(json.dumps(letter.errors)) < 8_500


@pytest.mark.parametrize("size", [130_500, 60_000])
def test_headers_that_leave_no_room_for_more_are_kept_in_the_body(tmp_path, rabbitmq, size):
    system = System.at(tmp_path, queue(retry=NEVER), broker_url=rabbitmq.url)
    put(system, "work", "", headers={"large": "x" * size}, properties={})
    assert system.run(fail).startswith("idle")
    (letter,) = system.dead()
    assert (letter.attempts, letter.body) == (2, BODY)
    assert letter.delivery.headers["large"] == "x" * size
    assert requeue_all(system) == 1
    back = taken(system, f"{system.topology.name}.work")
    assert (back.body, back.headers) == (BODY, {"large": "x" * size})


@pytest.mark.parametrize(
    "headers",
    [
        {"x-death": [{"queue": "elsewhere", "reason": "x" * 130_800}]},
        {"feedbus-attempt": 0, "feedbus-user-id": "x" * 130_800},
        {"feedbus-attempt": 0, "feedbus-expiration": "x" * 130_800},
    ],
    ids=lambda headers: [*headers][-1],
)
def test_large_headers_with_names_of_the_broker_or_of_feedbus_do_not_prevent_a_dead_letter(
    tmp_path, rabbitmq, headers
):
    system = System.at(tmp_path, queue(retry=NEVER), broker_url=rabbitmq.url)
    put(system, "work", "", headers=headers, properties={})
    assert system.run(fail).startswith("idle")
    (letter,) = system.dead()
    assert (letter.attempts, letter.body) == (2, BODY)
    assert letter.delivery.headers.get("x-death") == headers.get("x-death")
    assert requeue_all(system) == 1


@pytest.mark.parametrize("more", [{}, {"block_on_dead": True, "order_by": True}])
def test_headers_that_fill_a_frame_come_back_from_a_dead_letter(tmp_path, small_frames, more):
    system = System.at(tmp_path, queue(retry=NEVER, **more), broker_url=small_frames)
    fitting = 8192
    with system.bus() as bus:
        while fitting:
            try:
                bus.publish("work", {"n": 1}, headers={"large": "x" * fitting}, message_id="m")
            except PublishError:
                fitting -= 1
            else:
                break
    assert system.run(fail).startswith("idle")
    assert requeue_all(system) == 1
    found: list[tuple[str, int]] = []

    def note(_record: dict[str, int], message: Message) -> None:
        found.append((message.message_id, len(message.headers["large"])))

    system.run(note)
    assert found == [("m", fitting)]


def test_a_record_that_waits_for_an_earlier_one_keeps_headers_that_fill_a_frame(
    tmp_path, small_frames, monkeypatch
):
    system = System.at(tmp_path, work(retry=LATER), broker_url=small_frames)
    failing, found = Failing({1: 1}), dict[int, int]()
    with system.bus() as bus:
        for number, key, size in ((1, "1", 1), (3, "1", 8_000), (2, "0", 1)):
            headers = {"large": "x" * size, "more": True}
            bus.publish("work", {"n": number}, key, headers=headers)

    def note(record: dict[str, int], message: Message) -> None:
        failing.one(record)
        found[record["n"]] = len(message.headers.get("large", ""))

    due_after(monkeypatch, failing.seen, 2)
    system.run(note)
    assert (failing.seen, found) == ([2, 1, 3], {1: 1, 2: 1, 3: 8_000})


def test_what_cannot_be_decoded_comes_back_byte_for_byte(tmp_path, rabbitmq):

    work = queue(exchange="other", routing_keys=("#",), retry=NEVER)
    system = System.at(tmp_path, work, broker_url=rabbitmq.url)
    properties = raw.properties(
        {
            0: raw.text(b"\xfe"),
            2: raw.table([(b"when", b"T" + struct.pack(">Q", 1_772_000_000_000)), (b"\xff", b"V")]),
            8: raw.text(b"\xff\xed\xa0\x80"),
        }
    )
    with raw.publisher(rabbitmq.port) as publish:
        exchange = f"{system.topology.name}.other"
        publish(exchange, raw.Raw(properties, b"key\xff", b"\0\1"))
        publish(exchange, raw.Raw(raw.properties({}), b"", b'{"n": 1}'))
    system.run(system.note)
    assert system.seen == [1]
    (letter,) = system.dead()
    assert letter.body == b"\0\1"
    assert letter.key == "key\udcff"
    assert letter.reason.startswith("cannot be decoded: content_type is not UTF-8: b'\\xfe'")
    kept = taken(system, Names(system.topology).dead(work))
    assert kept.properties["content_type"] == SEALED
    with broker.connect(system.topology) as connection:
        again: Any = connection.channel()
        publish_confirmed(again, kept, "", Names(system.topology).dead(work))
    assert requeue_all(system) == 1
    back = taken(system, f"{system.topology.name}.work")
    assert back.delivery_info["routing_key"] == "key\udcff"
    back.properties.pop("delivery_mode")
    assert back._serialize_properties() == properties
    assert back.body == b"\0\1"


def test_a_message_without_id_that_fails_is_retried_under_one_derived_from_it(url, tmp_path):
    system = System.at(
        tmp_path, queue(retry=RetryPolicy((0.01, 0.01), "dead-letter")), broker_url=url
    )
    put(system, "work", "")
    ids: list[str] = []

    def note_id(records: Any, _bus: Any) -> None:
        ids.extend(records.ids)
        raise RuntimeError

    system.run(note_id, batch=True)
    assert len(ids) == 3
    assert len(set(ids)) == 1


def test_limits_of_dead_letters_drop_the_oldest_and_count_them(url, tmp_path):
    limits = DeadLetters(max_age_seconds=3600.0, max_length=3)
    work = queue(retry=NEVER, dead_letters=limits)
    system = System.at(tmp_path, work, broker_url=url)
    for number in range(5):
        put(system, "work", "", b"%d" % number, headers={}, properties={})
    old = {"feedbus-failed-at": (time.time_ns() // 1000) - 7_200_000_000, "feedbus-attempt": 1}
    with broker.connect(system.topology) as connection:
        channel: Any = connection.channel()
        for headers in ({}, old, old):
            message = channel.prepare_message(b"old", headers=headers)
            publish_confirmed(channel, message, "", Names(system.topology).dead(work))
    metrics = Metrics.none()
    system.run(fail, metrics=metrics, max_messages=5)
    with broker.connect(system.topology) as connection:
        dropped = pruning.prune(connection, system.topology, work)
        assert dropped == {"max_length": 5}
        assert pruning.prune(connection, system.topology, work) == {}
    assert [letter.body for letter in system.dead()] == [b"2", b"3", b"4"]


def test_dead_letters_that_are_too_old_go_also_from_behind_one_without_a_moment(url, tmp_path):
    work = queue(retry=NEVER, dead_letters=DeadLetters(max_age_seconds=3600.0))
    system = System.at(tmp_path, work, broker_url=url)
    now = time.time_ns() // 1000
    with broker.connect(system.topology) as connection:
        channel: Any = connection.channel()
        for failed_at in (None, now - 7_200_000_000, now):
            headers = {} if failed_at is None else {"feedbus-failed-at": failed_at}
            message = channel.prepare_message(str(failed_at).encode(), headers=headers)
            publish_confirmed(channel, message, "", Names(system.topology).dead(work))
        assert pruning.prune(connection, system.topology, work) == {"max_age": 1}
    assert [letter.body for letter in system.dead()] == [b"None", str(now).encode()]


def test_a_consumer_drops_the_dead_letters_over_its_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(pruning, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(pruning, "INTERVAL_SECONDS", 0.01)
    system = System.at(tmp_path, queue(retry=NEVER, dead_letters=DeadLetters(max_length=1)))
    for number in range(3):
        put(system, "work", "", b"%d" % number)
    metrics = Metrics.none()
    system.run(fail, metrics=metrics, idle_seconds=0.5)
    assert [letter.body for letter in system.dead()] == [b"2"]
    assert metrics.value("feedbus_dead_letters_dropped_total", "work", "max_length") == 2
    assert metrics.value("feedbus_unidentified_deliveries_total", "work") == 3


def test_foreign_text_is_escaped_where_dead_letters_are_shown(tmp_path):
    topology = tmp_path / "topology.toml"
    topology.write_text(
        'name = "small"\n[store]\nurl = "sqlite:///store.db"\n'
        '[exchanges]\nwork = { type = "direct" }\n[queues.work]\n'
        'exchange = "work"\nrouting_keys = ["k\\u202e"]\nhandler = "none:none"\n'
    )
    from feedbus.config import load

    loaded = load(topology)
    system = System(loaded, store=bind(PeeweeStore(loaded.store_url)))
    bad = "a\n\x1b[2J\x9b\u202eé"
    from feedbus.generations import topology_setup

    topology_setup.set_up(system.topology)
    put(system, "work", "k\u202e", b"\x1b", properties={"message_id": bad}, headers={bad: bad})
    system.run(fail)
    runner = CliRunner()
    for words in (["list"], ["list", "--json"], ["show", "work", bad]):
        done = runner.invoke(main, ["--topology", str(topology), "dead", *words])
        assert done.exit_code == 0, done.output
        assert done.output.replace("\n", "").isprintable()
        assert "é" in done.output
