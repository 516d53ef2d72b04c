"""Wrong arguments of publish calls: each bus refuses them by name, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from feedbus.bus import Bus, LiveBus
from feedbus.bus.collecting_bus import CollectingBus
from feedbus.errors import UsageError
from feedbus.records import Records
from feedbus.testing import RecordingBus
from feedbus.topology import Exchange, Topology
from feedbus.urls import parse_broker_url


def live() -> Bus:
    """Return a bus that has no broker: to send anything would be an outage."""
    topology = Topology(
        name="t",
        path=Path("/nowhere/topology.toml"),
        broker_url=parse_broker_url("sqlite:////nowhere/broker.db"),
        exchanges={"work": Exchange("work", "direct", 3)},
        queues={},
    )
    return LiveBus(topology, timeout_seconds=0)


def collecting() -> Bus:
    """Return a bus as a handler of one record gets it."""
    return CollectingBus(Records.of([{"n": 1}]), lambda _, pack: pytest.fail(f"sent {pack}"))


WRONG: list[tuple[Callable[[Bus], object], str]] = [
    (
        lambda bus: bus.publish("work", "mail", {"n": 1}),
        (
            "payload: expected a mapping, or an instance of a message type, got 'mail' of type str;"
            " payload and key are swapped: the order is exchange, payload, key"
        ),
    ),
    (
        lambda bus: bus.publish("work", [1]),
        (
            "payload: expected a mapping, or an instance of a message type, got [1] of type list;"
            " the order is exchange, payload, key"
        ),
    ),
    (
        lambda bus: bus.publish({"n": 1}, "work"),
        "exchange: expected str, got {'n': 1} of type dict; the order is exchange, payload, key",
    ),
    (lambda bus: bus.publish("work", {}, 5), "key: expected str, got 5 of type int"),
    (lambda bus: bus.publish("work", {}, None), "key: expected str, got None of type NoneType"),
    (
        lambda bus: bus.publish_many("work", {"n": 1}),
        (
            "pairs: expected an iterable of (payload, key) pairs, got {'n': 1} of type dict;"
            " write [(payload, key)]"
        ),
    ),
    (
        lambda bus: bus.publish_many("work", "mail"),
        "pairs: expected an iterable of (payload, key) pairs, got 'mail' of type str",
    ),
    (
        lambda bus: bus.publish_many(5, []),
        "exchange: expected str, got 5 of type int",
    ),
    (
        lambda bus: bus.publish_many("work", [({}, "a"), ("a", {})]),
        (
            "pairs[1]: payload: expected a mapping, or an instance of a message type,"
            " got 'a' of type str; payload and key are swapped: the order is exchange, payload, key"
        ),
    ),
    (
        lambda bus: bus.publish_many("work", [({}, "a"), ({}, b"b")]),
        "pairs[1]: key: expected str, got b'b' of type bytes",
    ),
    (
        lambda bus: bus.publish_many("work", [{"n": 1}]),
        "pairs[0]: expected (payload, key), got {'n': 1} of type dict",
    ),
    (
        lambda bus: bus.publish_many("work", [({}, "a", "b")]),
        "pairs[0]: expected (payload, key), got ({}, 'a', 'b') of type tuple",
    ),
]


@pytest.mark.parametrize("make", [live, collecting, RecordingBus])
@pytest.mark.parametrize(("call", "message"), WRONG)
def test_a_wrong_argument_is_named_with_what_was_expected_and_given(make, call, message) -> None:
    with pytest.raises(TypeError) as caught:
        call(make())
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("work", {}, 7),
            "keys: expected a sequence of str, or the name of a column, got 7 of type int",
        ),
        (
            ("work", [], ["a"]),
            "columns: expected a mapping of fields to sequences, got [] of type list",
        ),
        (
            ("work", {}, ["a"], 5),
            "shared: expected a mapping of fields to values, got 5 of type int",
        ),
        (("work", {}, ["a", 7]), "keys[1]: expected str, got 7 of type int"),
    ],
)
def test_a_wrong_argument_of_publish_columns_is_named(arguments, message) -> None:
    with pytest.raises(TypeError) as caught:
        live().publish_columns(*arguments[:3], shared=dict(enumerate(arguments)).get(3))
    assert str(caught.value) == message


def test_a_message_id_that_is_no_text_is_named() -> None:
    with pytest.raises(TypeError, match="message_id: expected str or None, got 7 of type int"):
        live().publish("work", {}, message_id=7)


def test_a_bad_pair_is_counted_over_all_that_was_given(monkeypatch) -> None:
    monkeypatch.setattr(LiveBus, "PAIRS_AT_ONCE", 1)
    monkeypatch.setattr(LiveBus, "_send", lambda *_: None)
    with pytest.raises(TypeError, match=r"pairs\[2\]: payload"):
        live().publish_many("work", [({}, "a"), ({}, "b"), (None, "c")])


def test_what_is_given_is_cut_in_the_message() -> None:
    with pytest.raises(TypeError) as caught:
        live().publish("work", ["x" * 1_000_000])
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("columns", "keys", "message"),
    [
        ({"n": [1, 2]}, ["a"], "columns: expected 1 values of 'n', as many as keys, got 2"),
        ({"n": [1], "m": []}, "n", "columns: expected 1 values of 'm', as many as keys, got 0"),
        ({"n": [1]}, "m", "keys: expected the name of a column, got 'm'"),
    ],
)
@pytest.mark.parametrize("make", [live, collecting, RecordingBus])
def test_columns_that_do_not_fit_are_refused(make, columns, keys, message) -> None:
    with pytest.raises(UsageError, match=message):
        make().publish_columns("work", columns, keys)
