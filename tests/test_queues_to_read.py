"""The queues that a run has to read: subscribed to when they are free, and again after a cancel."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from feedbus.generations.consumer_queues import Source
from feedbus.runner.queues_to_read import QueuesToRead

OWN, OTHER = Source("own"), Source("other")


class Steps:
    """Subscriptions that record the order of their calls."""

    def __init__(self, *, working: bool = False) -> None:
        self.noted: list[str] = []
        self.free = {OWN}
        self.readers: dict[str, Source] = {}
        self.cancelled: list[str] = []
        self.working = working
        self.now = 0.0

    def __getattr__(self, name: str) -> Any:
        """Return a method that only records its call and the queue of the call."""
        return lambda *arguments, **_: self.noted.append(" ".join([name, *arguments]))

    def begin(self, *, divided: bool) -> None:
        self.noted.append("begin divided" if divided else "begin")

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now

    def subscribe(self, _raw: Any, source: Source) -> bool:
        if source in self.free:
            self.readers[source.queue] = source
        return source in self.free

    def drop_reader(self, tag: str) -> None:
        self.noted.append(f"drop_reader {tag}")
        self.readers.pop(tag, None)

    def end_empty(self, _working: Any) -> bool:
        return False

    def return_deliveries(self, queues: list[Source], _left: list[Source]) -> list[Source]:
        self.noted.append("return_deliveries")
        return list(queues)


def queues_to_read(steps: Steps, *queues: Source) -> QueuesToRead:
    run: Any = SimpleNamespace(
        consumer=SimpleNamespace(name="c"),
        timeout=SimpleNamespace(seconds=math.inf),
        clock=steps,
        set_standby=lambda *, stands_by: steps.noted.append(f"standby {stands_by}"),
    )
    mode = SimpleNamespace(
        working=steps.working,
        works_on=lambda _: steps.working,
        cancelled=lambda: steps.noted.append("cancelled"),
        let_finish=lambda: steps.noted.append("let_finish"),
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
    own, other = (replace(each, when_unread=True) for each in (OWN, OTHER))
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
    queues.end()
    assert steps.noted == [
        "cancelled",
        "drop_reader own",
        "leave_to_others own",
        "let_finish",
        "drop_waiting own",
        "let_finish",
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
    queues.end()
    assert (
        steps.noted
        == [
            "cancelled",
            "drop_reader own",
            "leave_to_others own",  # once, and not for a queue without a reader
            *(f"drop_reader {tag}" for tag in tags[1:]),
            *(f"drop_waiting {tag}" for tag in tags),
        ]
    )
    assert queues.unsubscribed == [OTHER]
