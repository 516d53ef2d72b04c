"""Wrong arguments of public functions: the error names the argument and the expected value."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import feedbus
from feedbus import Raw, Records, Retry
from feedbus.testing import RecordingBus, TestSystem
from tests.topologies import START, write

TOPOLOGY = START + (
    '[queues.orders]\nexchange = "orders"\nrouting_keys = [""]\nhandler = "app_of_arguments:take"\n'
    '[queues.letters]\nexternal = true\nname = "their.letters"\nhandler = "app_of_arguments:take"\n'
)
SECONDS = "expected a number of seconds, got "
PATH = "topology: expected the path of a file, or a parsed topology, got 5 of type int"
NUMBER = 5


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app_of_arguments.py").write_text(
        "from feedbus import handler\n@handler\ndef take(order: dict) -> None: ...\n"
    )
    write(tmp_path, TOPOLOGY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEEDBUS_TOPOLOGY", raising=False)
    return tmp_path


@pytest.fixture
def system(folder: Path) -> Iterator[TestSystem]:
    with TestSystem("topology.toml") as system:
        yield system


def refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value).startswith(message)


CONNECT: dict[str, tuple[dict[str, object], str]] = {
    "topology": ({"topology": NUMBER}, PATH),
    "metrics": ({"metrics": "x"}, "metrics: expected Metrics or None, got 'x' of type str"),
    "timeout": ({"timeout_seconds": "2"}, f"timeout_seconds: {SECONDS}'2' of type str"),
    "no timeout": ({"timeout_seconds": None}, f"timeout_seconds: {SECONDS}None of type NoneType"),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("options", "message"), CONNECT.values(), ids=CONNECT)
def test_connect_names_a_wrong_argument(options, message):
    refused(lambda: feedbus.connect(**options), message)
    refused(lambda: asyncio.run(feedbus.connect_async(**options)), message)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_connect_refuses_a_timeout_that_is_no_duration(seconds):
    with pytest.raises(ValueError, match="timeout_seconds: expected at least 0 seconds, got "):
        feedbus.connect(timeout_seconds=seconds)


@pytest.mark.usefixtures("folder")
def test_a_store_that_is_none_is_named():
    message = "store: expected an open store of feedbus.store, or None, got 'shop.db' of type str"
    refused(lambda: feedbus.connect(store="shop.db"), message)
    refused(lambda: TestSystem(store="shop.db"), message)


@pytest.mark.usefixtures("folder")
def test_the_constructors_for_tests_name_a_wrong_argument():
    refused(lambda: TestSystem(NUMBER), PATH)
    refused(lambda: RecordingBus(NUMBER), PATH)
    refused(lambda: TestSystem(now="today"), "now: expected datetime or None, got 'today' of type")


SYSTEM: dict[str, tuple[Callable[[TestSystem], object], str]] = {
    "advance": (lambda one: one.advance("5"), f"seconds: {SECONDS}'5' of type str"),
    "advance by a timedelta": (
        lambda one: one.advance(timedelta(1)),
        f"seconds: {SECONDS}datetime",
    ),
    "most of advance": (
        lambda one: one.advance(1, most="x"),
        "most: expected int, got 'x' of type",
    ),
    "most of run": (lambda one: one.run(most="x"), "most: expected int, got 'x' of type str"),
    "fire": (lambda one: one.fire([]), "schedule: expected str, got [] of type list"),
    "published": (lambda one: one.published(5), "exchange: expected str, got 5 of type int"),
    "delayed": (lambda one: one.delayed(5), "exchange: expected str, got 5 of type int"),
    "handled": (lambda one: one.handled(5), "queue: expected str, got 5 of type int"),
    "retries": (lambda one: one.retries(5), "queue: expected str, got 5 of type int"),
    "dead_letters": (lambda one: one.dead_letters([]), "queue: expected str, got [] of type list"),
    "queue": (lambda one: one.deliver(5, "a"), "queue: expected str, got 5 of type int"),
    "payload": (lambda one: one.deliver("letters", 5), "payload: expected a mapping, "),
    "key": (lambda one: one.deliver("letters", {}, 5), "key: expected str, got 5 of type int"),
    "key of a text": (lambda one: one.deliver("letters", "a", 5), "key: expected str, got 5 of"),
    "override": (lambda one: one.override("x", 5), "resource: expected a function with the deco"),
}


@pytest.mark.parametrize(("call", "message"), SYSTEM.values(), ids=SYSTEM)
def test_a_system_of_a_test_names_a_wrong_argument(system, call, message):
    refused(lambda: call(system), message)


PAIRS = "pairs: expected an iterable of (payload, key) pairs, got "
COLUMN = "columns['a']: expected a field's name or a list of values, got "
RECORDS: dict[str, tuple[Callable[[Records], object], str]] = {
    "exchange": (lambda some: some.publish(5), "exchange: expected str, got 5 of type int"),
    "key": (lambda some: some.publish("x", key=5), "key: expected str, or a list with one for"),
    "columns": (lambda some: some.publish("x", columns=5), "columns: expected a mapping of fields"),
    "column": (lambda some: some.publish("x", columns={"a": 5}), f"{COLUMN}5 of type int"),
    "no columns": (lambda some: some.publish_columns("x", None), "columns: expected a mapping of"),
    "a column": (lambda some: some.publish_columns("x", {"a": {1}}), f"{COLUMN}{{1}} of type set"),
    "pairs": (lambda some: some.publish_many("x", 5), f"{PAIRS}5 of type int"),
    "no exchange": (lambda some: some.publish_many(5, []), "exchange: expected str, got 5 of type"),
    "a pair": (
        lambda some: some.publish_many("x", [5]),
        "pairs[0]: expected (payload, key), got 5",
    ),
    "three": (
        lambda some: some.publish_many("x", [(1, 2, 3)]),
        "pairs[0]: expected (payload, key)",
    ),
    "payload": (
        lambda some: some.publish_many("x", [(1, "")]),
        "pairs[0]: payload: expected a map",
    ),
    "where": (lambda some: some.where("n", 5), "values: expected a set of values, got 5 of type"),
    "where_not": (lambda some: some.where_not("n", 5), "values: expected a set of values, got 5"),
    "reject": (lambda some: some.reject(5), "reason: expected str, or a function that returns"),
    "drop": (lambda some: some.drop(5), "reason: expected str, or a function that returns"),
    "retry": (lambda some: some.retry(after_seconds="1"), f"after_seconds: {SECONDS}'1' of type"),
}


@pytest.mark.parametrize(("call", "message"), RECORDS.values(), ids=RECORDS)
def test_records_name_a_wrong_argument(call, message):
    refused(lambda: call(Records.of([{"n": 1}], bus=RecordingBus())), message)


def test_other_public_classes_name_a_wrong_argument():
    refused(lambda: Records.of(5), "rows: expected a list with one dict or instance for each rec")
    refused(lambda: Retry(after_seconds="1"), f"after_seconds: {SECONDS}'1' of type str")
    refused(lambda: Raw(5), "value: expected str or bytes, got 5 of type int")
    columns = {"a": 5}
    message = "columns['a']: expected a list with one value for each record, got 5 of type int"
    refused(lambda: RecordingBus().publish_columns("x", columns, ["k"]), message)


UNKNOWN = {
    "routing_key": "'routing_key'; did you mean 'key'?",
    "prority": "'prority'; did you mean 'priority'?",
    "countdown": "'countdown'; did you mean 'delay'?",
    "other": "'other'; its options are ",
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("argument", UNKNOWN)
def test_an_unknown_argument_of_publish_is_named_before_the_key_is_missed(argument, folder):
    message = f"publish() has no argument {UNKNOWN[argument].partition(';')[0]}"
    asynchronous = asyncio.run(feedbus.connect_async())
    calls: list[Callable[[], object]] = [
        lambda: feedbus.connect().publish("feed", {}, **{argument: "x"}),
        lambda: asyncio.run(asynchronous.publish("feed", {}, **{argument: "x"})),
        lambda: RecordingBus("topology.toml").publish("feed", {}, **{argument: "x"}),
        lambda: Records.of([{}], bus=RecordingBus("topology.toml")).publish(
            "feed", **{argument: "x"}
        ),
    ]
    for call in calls:
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value).startswith(message)
        assert UNKNOWN[argument].partition("; ")[2].rstrip("?") in str(caught.value)
