"""The queues that a run has to read: subscribed to when they are free, and again after a cancel."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
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
        self.readers: dict[str, SimpleNamespace] = {}
        self.unsubscribed: list[ReadableQueue] = []
        self.cancelled: list[str] = []
        self.working = working
        self.now = 0.0

    def __getattr__(self, name: str) -> Any:
        """Return a method that only records its call and the queue of the call."""
        return lambda *arguments, **_: self.noted.append(" ".join([name, *arguments]))

    def begin(self, queues: Sequence[ReadableQueue], *, separate_generations: bool) -> None:
        self.noted.append("begin with lanes" if separate_generations else "begin")
        self.unsubscribed = list(queues)

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now

    def subscribe(self, _raw: Any) -> None:
        for each in self.unsubscribed:
            if each in self.free:
                self.readers[each.queue] = SimpleNamespace(tag=each.queue, may_be_empty=False)
        self.unsubscribed = [each for each in self.unsubscribed if each not in self.free]

    def leave_to_others(self, tag: str) -> None:
        self.noted.append(f"leave_to_others {tag}")
        self.readers.pop(tag, None)


def queues_to_read(steps: Steps, *queues: ReadableQueue, seconds: float = math.inf) -> QueuesToRead:
    run: Any = SimpleNamespace(
        consumer=SimpleNamespace(name="c"),
        timeout=SimpleNamespace(seconds=seconds),
        clock=steps,
        buffer=None,
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
    assert (list(steps.readers), steps.unsubscribed) == (["own"], [OTHER])
    steps.free.add(OTHER)
    queues.subscribe()
    assert (list(steps.readers), steps.unsubscribed) == (["own", "other"], [])
    assert steps.noted == ["begin", "standby True", "standby False"]


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
    own, other = (replace(each, only_without_reader=True) for each in (OWN, OTHER))
    steps.free = {own}
    queues = queues_to_read(steps, own, other)
    queues.subscribe()
    assert queues
    steps.readers.clear()
    assert not queues


def test_running_records_are_finished_before_a_cancelled_waiting_queue_is_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    steps = Steps(working=True)
    queues = queues_to_read(steps)
    queues.subscribe()
    steps.cancelled.append("own")
    steps.noted.clear()
    queues.end_queues()
    assert steps.noted == [
        "on_cancel",
        "leave_to_others own",
        "finish_running",
        "close_waiting_queue own",
        "finish_running",
        "return_deliveries",
    ]
    assert steps.cancelled == []
    assert "because the broker has cancelled the subscription to a queue; they" in caplog.text
    assert "consumer_timeout" not in caplog.text


def test_the_log_names_the_consumer_timeout_if_it_is_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    queues_to_read(Steps(), seconds=90.0).return_before_timeout()
    assert "because the broker's consumer_timeout (90 s) would expire; they" in caplog.text


@pytest.mark.parametrize("tags", [["own"], ["own", "other"], ["own", "own"]])
def test_without_running_records_only_the_cancelled_queues_are_dropped(tags: list[str]) -> None:
    steps = Steps()
    queues = queues_to_read(steps)
    queues.subscribe()
    steps.cancelled += tags
    steps.noted.clear()
    queues.end_queues()
    assert steps.noted == [
        "on_cancel",
        *(f"leave_to_others {tag}" for tag in tags),
        *(f"close_waiting_queue {tag}" for tag in tags),
    ]
    assert steps.unsubscribed == [OTHER]
