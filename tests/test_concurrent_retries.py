"""With `concurrency`, messages of waiting records are sent after those of the failed records."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from feedbus import Retry
from feedbus.dispatch import Dispatch
from feedbus.dispatch.decoded_deliveries import DecodedDelivery
from feedbus.runner import CrashGuard
from tests.small_topologies import queue
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", "rabbitmq")


def test_a_record_that_waits_is_not_sent_before_the_failed_one_of_an_unfinished_pack(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(queue(concurrency=3, prefetch=50, order_by="text"), pack=3)
    closed: list[int] = []
    calls: list[tuple[str, int]] = []
    later, original = threading.Event(), Dispatch.finish

    def close(self: Dispatch, opened: Sequence[DecodedDelivery], *rest: Any) -> None:
        closed.extend(
            each.pack.payload(row)["n"] for each in opened for row in range(len(each.pack))
        )
        original(self, opened, *rest)

    def handle(record: Any, _bus: Any) -> None:
        key, n = record["text"], record["n"]
        calls.append((key, n))
        if calls.count(("ben", 1)) == 1 and n == 1:
            raise Retry
        if key == "dan":
            assert later.wait(30)  # so the pack is not finished before what came later
        if key == "fay":
            later.set()

    monkeypatch.setattr(Dispatch, "finish", close)
    with system.bus() as bus:
        bus.publish_many(
            "work", [({"n": n, "text": key}, "") for n, key in ((1, "ben"), (2, "dan"))]
        )
        for n, key in ((3, "ben"), (4, "eve"), (5, "fay")):
            bus.publish("work", {"n": n, "text": key}, "")
    system.run(handle)
    assert [n for key, n in calls if key == "ben"] == [1, 1, 3]
    assert closed.index(2) < closed.index(3)
    assert closed.index(4) < closed.index(2)


def test_messages_that_may_have_ended_a_process_are_handled_alone_also_after_a_waiting_record(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(queue(concurrency=2, prefetch=50, order_by="text"))
    calls: list[int] = []

    def handle(record: Any, bus: Any) -> None:
        calls.append(record["n"])
        if record["n"] == 1:
            if calls == [1]:
                raise Retry
            bus.publish("work", {"n": 2, "text": "eve"}, "")

    monkeypatch.setattr(CrashGuard, "is_suspected", lambda *_: True)
    with system.bus() as bus:
        bus.publish("work", {"n": 1, "text": "ben"}, "")
    system.run(handle)
    assert calls == [1, 1, 2]


def test_messages_that_may_have_ended_a_process_count_against_the_limit_of_messages(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(queue(concurrency=2, prefetch=50))
    calls: list[int] = []
    monkeypatch.setattr(CrashGuard, "is_suspected", lambda *_: True)
    system.publish([1, 2, 3])
    with system._runner(
        lambda record, _: calls.append(record["n"]), "work", False, None, {"max_messages": 1}
    ) as runner:
        runner.run()
    assert calls == [1]
    assert system.ready() == {"work": 2}
