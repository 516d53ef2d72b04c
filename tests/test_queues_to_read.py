"""The queues that a run has to read: subscribed to when they are free, and again after a cancel."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from feedbus.generations.consumer_queues import ReadableQueue
from feedbus.runner.queues_to_read import QueuesToRead

OWN, OTHER = ReadableQueue("own"), ReadableQueue("other")


class Steps:
    """Subscriptions that record the order of their calls."""

    def __init__(self, *, working: bool = False) -> None:
        self.noted: list[str] = []
        self.free = {OWN}
        self.readers: dict[str, ReadableQueue] = {}
        self.cancelled: list[str] = []
        self.working = working
        self.now = 0.0

    def __getattr__(self, name: str) -> Any:
        """Return a method that only records its call and the queue of the call."""
        return lambda *arguments, **_: self.noted.append(" ".join([name, *arguments]))

    def reset(self, *, use_lanes: bool) -> None:
        self.noted.append("reset with lanes" if use_lanes else "reset")

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now

    def subscribe(self, _raw: Any, source: ReadableQueue) -> bool:
        if source in self.free:
            self.readers[source.queue] = source
        return source in self.free

    def close_reader(self, tag: str) -> None:
        self.noted.append(f"close_reader {tag}")
        self.readers.pop(tag, None)

    def delete_empty_queues(self, _working: Any) -> bool:
        return False

    def return_deliveries(
        self, queues: list[ReadableQueue], _left: list[ReadableQueue]
    ) -> list[ReadableQueue]:
        self.noted.append("return_deliveries")
        return list(queues)


def queues_to_read(steps: Steps, *queues: ReadableQueue) -> QueuesToRead:
    run: Any = SimpleNamespace(
        consumer=SimpleNamespace(name="c"),
        timeout=SimpleNamespace(seconds=math.inf),
        clock=steps,
        set_standby=lambda *, stands_by: steps.noted.append(f"standby {stands_by}"),
    )
    mode = SimpleNamespace(
        has_unsettled=steps.working,
        has_unsettled_of=lambda _: steps.working,
        on_cancel=lambda: steps.noted.append("on_cancel"),
        finish_running=lambda: steps.noted.append("finish_running"),
    )
    parts: Any = (run, mode, steps, None)
    nothing: Any = None
    given = queues or (OWN, OTHER)
    return QueuesToRead(*parts, queues=given, consumer_queues=nothing, progress=None)


def test_a_queue_that_another_consumer_reads_is_left_until_it_is_free() -> None:
    steps = Steps()
    queues = queues_to_read(steps)
    queues.subscribe()
    assert (list(steps.readers), queues.unsubscribed) == (["own"], [OTHER])
    steps.free.add(OTHER)
    queues.subscribe()
    assert (list(steps.readers), queues.unsubscribed) == (["own", "other"], [])
    assert steps.noted == ["reset", "standby True", "standby False"]


def test_the_last_queue_that_ends_leaves_nothing_to_read() -> None:
    steps = Steps()
    steps.free.add(OTHER)
    queues = queues_to_read(steps)
    assert queues
    queues.subscribe()
    assert queues
    steps.readers.clear()
    assert not queues


def test_old_queues_that_only_other_consumers_read_are_not_waited_for_here() -> None:
    steps = Steps()
    own, other = (replace(each, only_if_unread=True) for each in (OWN, OTHER))
    steps.free = {own}
    queues = queues_to_read(steps, own, other)
    queues.subscribe()
    assert queues
    steps.readers.clear()
    assert not queues


def test_running_records_are_finished_before_a_cancelled_waiting_queue_is_closed() -> None:
    steps = Steps(working=True)
    queues = queues_to_read(steps)
    queues.subscribe()
    steps.cancelled.append("own")
    steps.noted.clear()
    queues.end_queues()
    assert steps.noted == [
        "on_cancel",
        "close_reader own",
        "leave_to_others own",
        "finish_running",
        "close_waiting_queue own",
        "finish_running",
        "return_deliveries",
    ]
    assert (steps.cancelled, queues.unsubscribed) == ([], [OWN, OTHER])


@pytest.mark.parametrize("tags", [["own"], ["own", "other"], ["own", "own"]])
def test_without_running_records_only_the_cancelled_queues_are_dropped(tags: list[str]) -> None:
    steps = Steps()
    queues = queues_to_read(steps)
    queues.subscribe()
    steps.cancelled += tags
    steps.noted.clear()
    queues.end_queues()
    assert (
        steps.noted
        == [
            "on_cancel",
            "close_reader own",
            "leave_to_others own",  # once, and not for a queue without a reader
            *(f"close_reader {tag}" for tag in tags[1:]),
            *(f"close_waiting_queue {tag}" for tag in tags),
        ]
    )
    assert queues.unsubscribed == [OTHER]
