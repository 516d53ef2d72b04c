"""Faults of records that are handled at the same time."""

from __future__ import annotations

from typing import Any

from feedbus.dispatch import (
    blocked_keys,
    concurrent_calls,
    failed_deliveries,
    sequencer,
)
from feedbus.runner import (
    concurrent_deliveries,
    settlement,
)
from tests.simulation.planted.change import Change, edited


def keys_that_run_twice_at_once() -> list[Change]:
    """Let all records run at the same time, whatever their keys are."""
    return [(blocked_keys.BlockedKeys, "key", lambda *_: None)]


def unfinished_records_settled() -> list[Change]:
    """Acknowledge all that came before a record that has ended."""
    original = settlement.Settlement.take_acknowledgeable

    def acknowledgements(self: Any) -> tuple[int, list[int]]:
        up_to, single = original(self)
        return max([up_to, *single]), []

    return [(settlement.Settlement, "take_acknowledgeable", acknowledgements)]


def records_behind_a_retry_forgotten() -> list[Change]:
    """Lose the later records of the key of a record that is to be retried."""
    original = sequencer.Sequencer.remove_key

    def cut(self: Any, item: Any) -> list[Any]:
        return original(self, item)[1:]

    return [(sequencer.Sequencer, "remove_key", cut)]


def records_behind_a_retry_run() -> list[Change]:
    """Run the later records of the key of a record that is to be retried."""

    def cut(self: Any, item: Any) -> list[Any]:
        self.end(item)
        return []

    return [(sequencer.Sequencer, "remove_key", cut)]


def concurrent_messages_unsent() -> list[Change]:
    """Settle records without sending what their handlers have published."""
    return [(concurrent_calls, "send_together", lambda _, calls: [None for _each in calls])]


def concurrent_records_of_a_lost_connection() -> list[Change]:
    """Go on with records that an earlier connection has delivered."""
    return [(concurrent_calls.ConcurrentCalls, "forget", lambda _: None)]


def concurrent_outages_taken_for_success() -> list[Change]:
    """Take a call that has met an outage for one that has succeeded."""

    def classify_errors(self: Any) -> None:
        for work in self._ended_calls:
            work.error = None

    return [(concurrent_calls.ConcurrentCalls, "_classify_errors", classify_errors)]


def settlements_of_a_lost_connection() -> list[Change]:
    """Keep the delivery tags of a lost connection among those of the next one."""
    original = concurrent_deliveries.ConcurrentDeliveries.forget_all

    def forget(self: Any) -> None:
        kept = dict(self._settlements)
        original(self)
        self._settlements.update(kept)

    return [(concurrent_deliveries.ConcurrentDeliveries, "forget_all", forget)]


def waiting_records_sent_before_failed_ones() -> list[Change]:
    """Send a record that waits before the failed record of its key, whose message is unfinished."""

    def take(self: Any) -> Any:
        done = [each for each in self._deliveries if not each.unfinished_records]
        self._deliveries = [each for each in self._deliveries if each not in done]
        return [each.decoded for each in done]

    return [(failed_deliveries.FailedDeliveries, "take_finished", take)]


def fences_before_running_records_end() -> list[Change]:
    """Process the fence of an old queue while records of the queue run."""
    owner = concurrent_deliveries.ConcurrentDeliveries
    return [(owner, "has_deliveries_of", lambda *_: False)]


def failed_deliveries_in_the_order_of_their_failures() -> list[Change]:
    """Send failed records in the order in which they have failed, not in that of their arrival."""
    owner, order = failed_deliveries.FailedDeliveries, "self._deliveries.sort("
    return edited(owner, "add", order, "sorted(self._deliveries, ")
