"""Options of publish(): headers, priority, expires; on every bus, through outbox and retries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis.strategies import booleans, dictionaries, floats, integers, none, one_of, text

from feedbus import Bus, Message, Records, Reject, Retry, handler
from feedbus.bus.record_encoding import Encoder
from feedbus.records.packs import Pack
from feedbus.records.publish_options import envelope_of
from feedbus.testing import RecordingBus, TestSystem
from feedbus.wire.amqp_encoding import read_properties, write_properties
from feedbus.wire.constants import JSON, PACK

TOPOLOGY = """
name = "shop"
[exchanges]
orders   = { type = "x-consistent-hash", pack = 100 }
receipts = { type = "direct", pack = 100 }
[queues.reserve]
exchange = "orders"
shards   = 2
handler  = "tests.test_publish_options:reserve"
[queues.mail]
exchange     = "receipts"
routing_keys = ["mail"]
handler      = "tests.test_publish_options:mail"
retry        = { delays = ["1s"], then = "dead-letter" }
[queues.count]
exchange     = "receipts"
routing_keys = ["count"]
handler      = "tests.test_publish_options:count"
arguments    = { x-max-priority = 9 }
[queues.copy]
exchange     = "receipts"
routing_keys = ["copy"]
handler      = "tests.test_publish_options:copy"
batch        = { size = 10 }
[store]
url = "sqlite:///store.db"
"""
OPTIONS = {"headers": {"source": "web", "n": 1, "x-tried": True}, "priority": 5, "expires": "10m"}
AS_CHECKED = OPTIONS | {"expires": 600.0}
SEEN: list[Message] = []
COUNTED: list[int] = []


@handler
def reserve(order: dict[str, Any], bus: Bus, message: Message) -> None:
    SEEN.append(message)
    bus.publish("receipts", order, key="mail", headers={"source": "reserve"}, priority=3)


@handler
def mail(receipt: dict[str, Any], message: Message) -> None:
    SEEN.append(message)
    verdict = Retry if message.attempt == 1 else Reject
    reason = "no mail server"
    raise verdict(reason)


@handler
def count(order: dict[str, Any]) -> None:
    COUNTED.append(order["n"])


@handler(batch=True)
def copy(orders: Records, bus: Bus) -> None:
    orders.publish("receipts", key="mail", columns={"n": "n"}, headers={"copied": 1})


@pytest.fixture
def shop(tmp_path: Path):
    SEEN.clear()
    COUNTED.clear()
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    with TestSystem(tmp_path / "topology.toml") as system:
        yield system


def test_headers_and_priority_reach_the_handler_and_stay_in_retries_and_dead_letters(shop):
    shop.publish("receipts", {"n": 1}, key="mail", **OPTIONS)
    shop.run()
    assert [dict(each.headers) for each in SEEN] == [OPTIONS["headers"]] * 2
    assert [(each.priority, each.attempt) for each in SEEN] == [(5, 1), (5, 2)]
    (letter,) = shop.dead_letters("mail")
    assert letter.delivery.properties["priority"] == 5
    assert letter.delivery.headers["source"] == "web"


def test_what_waits_longer_than_it_may_becomes_a_dead_letter(shop):
    for key, expires in (("mail", "10m"), ("count", 599), ("count", "20m")):
        shop.publish("receipts", {"n": 1}, key=key, expires=expires)
    shop.clock.sleep(600)
    shop.run()
    assert (len(SEEN), COUNTED) == (0, [1])
    letters = shop.dead_letters("mail") + shop.dead_letters("count")
    assert ["expired" in letter.reason for letter in letters] == [True, True]


@pytest.mark.parametrize(
    "options", ["", "concurrency = 4\n", "order_by = true\nblock_on_dead = true\n"]
)
def test_a_delayed_message_expires_by_the_time_since_its_publish(tmp_path, shop, options):
    shop.close()
    COUNTED.clear()
    text = TOPOLOGY.replace("[queues.count]\n", f"[queues.count]\n{options}")
    assert options in text
    (tmp_path / "topology.toml").write_text(text)
    with TestSystem(tmp_path / "topology.toml") as system:
        for n, expires in ((1, "2m"), (2, "100s"), (3, None)):
            system.publish("receipts", {"n": n}, key="count", delay="1m", expires=expires)
        assert system.published("receipts")[1].options == {"delay": 60, "expires": 100}
        system.clock.sleep(110)
        system.run()
        assert COUNTED == [1, 3]
        (letter,) = system.dead_letters("count")
        assert letter.reason.startswith("expired")


def test_a_delayed_message_that_has_failed_does_not_expire(shop):
    shop.publish("receipts", {"n": 1}, key="mail", delay="1s", expires="2s")
    shop.run()
    assert [each.attempt for each in SEEN] == [1, 2]
    (letter,) = shop.dead_letters("mail")
    assert letter.reason == "no mail server"


def test_a_queue_with_priorities_gives_the_highest_first(shop):
    for n, priority in ((1, None), (2, 1), (3, 9), (4, 1)):
        shop.publish("receipts", {"n": n}, key="count", priority=priority)
    shop.run()
    assert COUNTED == [3, 2, 4, 1]


def test_handlers_publish_with_options_and_batches_too(shop):
    shop.publish("orders", {"n": 1}, key="chair", **OPTIONS)
    shop.publish("receipts", {"n": 2}, key="copy")
    shop.run()
    options = [each.options for each in shop.published("receipts")]
    assert len(options) == 3
    assert {"headers": {"copied": 1}} in options
    assert {"headers": {"source": "reserve"}, "priority": 3} in options
    assert {each.headers["source"] for each in SEEN if "source" in each.headers} == {
        "web",
        "reserve",
    }


def test_what_is_published_in_a_transaction_keeps_its_options(shop):
    with shop.bus.transaction():
        shop.bus.publish("receipts", {"n": 1}, key="count", **OPTIONS)
    shop.run()
    assert [each.options for each in shop.published("receipts")] == [AS_CHECKED]
    assert COUNTED == [1]


def test_a_message_with_options_travels_by_itself(shop):
    encoder = Encoder(shop.topology)
    pack = Pack.numbered("0" * 24, ["chair"] * 3, {}, {"n": [1, 2, 3]})
    envelope = envelope_of(OPTIONS)
    for exchange, kind in (("orders", PACK), ("receipts", JSON)):
        (together,) = encoder.encode(exchange, pack)
        assert together.records == 3
        alone = encoder.encode(exchange, pack, envelope)
        assert [each.records for each in alone] == [1, 1, 1]
        # A pack of one on a ring: it must not overtake the packs before it.
        assert {each.content_type for each in alone} == {kind}
        assert {each.properties["expiration"] for each in alone} == {"600000"}
    (message,) = encoder.encode("orders", pack.select([1]), envelope)
    (plain,) = encoder.split_pack(message)
    assert (plain.headers, plain.properties) == (OPTIONS["headers"], message.properties)


def test_the_recording_bus_keeps_options():
    bus = RecordingBus()
    bus.publish("receipts", {"n": 1}, key="mail", **OPTIONS)
    Records.of([{"n": 2}], bus=bus).publish("receipts", columns={"n": "n"}, priority=1)
    assert [each.options for each in bus.published] == [AS_CHECKED, {"priority": 1}]


WRONG = [
    ({"headers": [1]}, "headers: expected a mapping of names to values, got [1] of type list"),
    ({"headers": {5: "x"}}, "headers: a name: expected str, got 5 of type int"),
    ({"headers": {"": "x"}}, "headers: expected names of 1 to 255 bytes, got ''"),
    (
        {"headers": {"feedbus-key": "x"}},
        (
            "headers: expected another name, got 'feedbus-key', which is reserved for feedbus or"
            " the"
            " broker"
        ),
    ),
    (
        {"headers": {"x-death": "x"}},
        (
            "headers: expected another name, got 'x-death', which is reserved for feedbus or the"
            " broker"
        ),
    ),
    (
        {"headers": {"a": b"x"}},
        "headers['a']: expected str, int, float, bool or None, got b'x' of type bytes",
    ),
    ({"headers": {"a": float("nan")}}, "headers['a']: expected a number, got nan"),
    ({"headers": {"a": "\ud800"}}, "headers['a']: expected UTF-8, got '\\ud800'"),
    ({"headers": {"a": "x" * 65_536}}, "headers: expected at most 65536 bytes in all, got 65537"),
    ({"priority": "5"}, "priority: expected int from 0 to 255, got '5' of type str"),
    ({"priority": True}, "priority: expected int from 0 to 255, got True of type bool"),
    ({"priority": 256}, "priority: expected 0 to 255, got 256"),
    ({"expires": "soon"}, "expires: expected a duration such as '30s' or '1h30m', got 'soon'"),
    (
        {"expires": [1]},
        "expires: expected a duration such as '30s', or seconds, got [1] of type list",
    ),
    ({"expires": 0}, "expires: expected more than 0 and at most 49d, got 0"),
    ({"expires": float("nan")}, "expires: expected more than 0 and at most 49d, got nan"),
    ({"delay": "-1s"}, "delay: expected a duration such as '30s' or '1h30m', got '-1s'"),
    ({"delay": 0}, "delay: expected more than 0 and at most 366d, got 0"),
    ({"delay": -1}, "delay: expected more than 0 and at most 366d, got -1"),
    ({"delay": float("nan")}, "delay: expected more than 0 and at most 366d, got nan"),
    ({"delay": float("inf")}, "delay: expected more than 0 and at most 366d, got inf"),
    ({"delay": "1 hour"}, "delay: expected a duration such as '30s' or '1h30m', got '1 hour'"),
    (
        {"delay": True},
        "delay: expected a duration such as '30s', or seconds, got True of type bool",
    ),
    ({"delay": "367d"}, "delay: expected more than 0 and at most 366d, got '367d'"),
    (
        {"delay": 1, "expires": 1},
        (
            "expires: expected more than the delay of 1 s, because both begin when the"
            " message is published; got 1 s"
        ),
    ),
    (
        {"prioritty": 5},
        (
            "publish() has no argument 'prioritty'; its options are headers, priority, expires,"
            " delay; did you mean 'priority'?"
        ),
    ),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_a_wrong_option_is_named_and_nothing_is_sent(options, message):
    bus = RecordingBus()
    records = Records.of([{"n": 1}], bus=bus)
    for publish in (
        lambda: bus.publish("receipts", {}, **options),
        lambda: records.publish("receipts", **options),
    ):
        with pytest.raises((TypeError, ValueError)) as raised:
            publish()
        assert str(raised.value) == message
    assert bus.published == []


def test_the_options_of_a_program_and_of_a_test_contain_the_message_id(shop):
    known = "its options are message_id, headers, priority, expires, delay"
    with pytest.raises(TypeError, match=known):
        shop.publish("orders", {"n": 1}, key="chair", prioritty=5)


def test_what_is_delayed_arrives_when_it_is_due_at_whoever_owns_its_key_then(shop):
    for exchange, key, delay in (("orders", "chair", "1h30m"), ("receipts", "count", 7.5)):
        shop.publish(exchange, {"n": 1}, key=key, delay=delay, headers={"source": "web"})
    started = shop.clock.monotonic()
    shop.advance(7.4)
    assert (SEEN, COUNTED) == ([], [])
    assert (shop.delayed(), shop.delayed("orders"), shop.delayed("receipts")) == (2, 1, 1)
    shop.advance(0.2)
    assert (SEEN, COUNTED) == ([], [1])
    assert (shop.delayed(), shop.delayed("receipts"), shop.retries()) == (1, 0, 0)
    shop.run()
    first = next(each for each in SEEN if each.queue == "reserve")
    assert (first.routing_key, first.attempt, dict(first.headers)) == (
        "chair",
        1,
        {"source": "web"},
    )
    assert 0 <= shop.clock.monotonic() - started - 5400 <= 2
    assert shop.delayed() == 0
    assert shop.retries() == 0


def test_what_is_delayed_keeps_its_priority_in_dead_letters_and_deaths_of_no_timer(shop):
    shop.publish("receipts", {"n": 1}, key="mail", delay="40s", priority=5)
    shop.run()
    assert [each.options for each in shop.published("receipts")] == [{"priority": 5, "delay": 40.0}]
    assert [each.priority for each in SEEN] == [5, 5]
    (letter,) = shop.dead_letters("mail")
    assert letter.delivery.properties["priority"] == 5
    assert not [name for name in letter.delivery.headers if "timer" in name or "deaths" in name]


def test_a_delay_in_a_transaction_counts_from_its_publish(shop):
    with shop.bus.transaction():
        shop.bus.publish("receipts", {"n": 1}, key="count", delay="1m")
    shop.advance(59)
    assert COUNTED == []
    shop.advance(2)
    assert COUNTED == [1]


def test_options_that_are_none_are_no_options():
    assert envelope_of({"headers": None, "priority": None, "expires": None}) is None


@given(
    dictionaries(
        text(min_size=1, max_size=20),
        one_of(
            text(),
            integers(-(2**63) + 1, 2**63 - 1),
            booleans(),
            none(),
            floats(allow_nan=False, allow_infinity=False),
        ),
    ),
    one_of(none(), integers(0, 255)),
)
def test_any_header_that_is_taken_arrives_as_it_was_given(headers, priority):
    try:
        envelope = envelope_of({"headers": headers, "priority": priority})
    except ValueError:
        return
    if envelope is None:
        return
    kept = json.loads(json.dumps(envelope.options()))
    assert kept.get("headers", {}) == headers
    written = write_properties({"application_headers": headers, "priority": priority})
    found, undecodable = read_properties(written, 0)
    assert (found["application_headers"], found.get("priority"), undecodable) == (
        headers,
        priority,
        [],
    )
