"""Fences that cannot be processed yet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from feedbus.clock import VirtualClock
from feedbus.generations.consumer_queues import ReadableQueue
from feedbus.runner.fences import WAITING_POLL_SECONDS, Fences
from feedbus.runner.queue_reader import QueueReader
from tests.test_buffer_lanes import delivery, divided


def test_deliveries_of_other_generations_do_not_wait_for_a_fence_that_is_postponed() -> None:
    buffer = divided(delivery(1, "old", fence=True), delivery(2, "new"), delivery(3, "new"))
    clock = VirtualClock()
    run: Any = SimpleNamespace(buffer=buffer, clock=clock)
    unused: Any = None
    reader = QueueReader(ReadableQueue("old"), "old", unused, unused)
    subscriptions: Any = SimpleNamespace(readers={"old": reader})
    fences = Fences(run, subscriptions)
    while not buffer.next_is_fence:
        buffer.next_lane()
    assert fences.next_is_fence()
    reader.fence_due_at = clock.monotonic() + WAITING_POLL_SECONDS
    assert not fences.next_is_fence()
    assert buffer.next_delivery.tag == 2
    while not buffer.next_is_fence:
        buffer.next_lane()
    clock.sleep(WAITING_POLL_SECONDS)
    assert fences.next_is_fence()
    reader.fence_due_at = clock.monotonic() + WAITING_POLL_SECONDS
    buffer.remove("new")
    assert fences.next_is_fence()  # nothing else is left
