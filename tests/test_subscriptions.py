"""Fences that cannot be passed yet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from feedbus.clock import VirtualClock
from feedbus.metrics import Metrics
from feedbus.runner.subscriptions import WAITING_POLL_SECONDS, Subscriptions
from tests.test_buffer_lanes import delivery, divided


def test_deliveries_of_other_generations_do_not_wait_for_a_fence_that_cannot_be_passed() -> None:
    buffer = divided(delivery(1, "old", fence=True), delivery(2, "new"), delivery(3, "new"))
    clock = VirtualClock()
    run: Any = SimpleNamespace(buffer=buffer, clock=clock)
    check: Any = None
    subscriptions = Subscriptions(run, check, Metrics.none().consumer("c"))
    while not buffer.next_is_fence:
        buffer.next_lane()
    assert subscriptions.must_process_fence()
    subscriptions.postpone_fence(WAITING_POLL_SECONDS)
    assert not subscriptions.must_process_fence()
    assert buffer.next_delivery.tag == 2
    while not buffer.next_is_fence:
        buffer.next_lane()
    clock.sleep(WAITING_POLL_SECONDS)
    assert subscriptions.must_process_fence()
    subscriptions.postpone_fence(WAITING_POLL_SECONDS)
    buffer.remove("new")
    assert subscriptions.must_process_fence()  # nothing else is left
