"""Faults of the retries in the order of a key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from feedbus.dispatch import (
    blocked_keys,
    failed_record_sender,
    failure_policy,
    records_at_start,
)
from feedbus.errors import BrokerOutage
from feedbus.runner import waiting_queue
from feedbus.wire.constants import KEY
from tests.simulation.planted.change import Change


def a_retry_that_forgets_its_key() -> list[Change]:
    """Send retries back under an empty routing key."""
    original = failure_policy.FailurePolicy._letter_of_delivery

    def whole(self: Any, *arguments: Any) -> Any:
        letter = original(self, *arguments)
        return replace(letter, headers={**letter.headers, KEY: ""})

    return [(failure_policy.FailurePolicy, "_letter_of_delivery", whole)]


def retries_that_nobody_confirms() -> list[Change]:
    """Settle a record whose retry could not be published."""
    original = failed_record_sender.FailedRecordSender.send

    def send(self: Any, *arguments: Any, **options: Any) -> None:
        try:
            original(self, *arguments, **options)
        except BrokerOutage:
            return

    return [(failed_record_sender.FailedRecordSender, "send", send)]


def retries_that_are_overtaken() -> list[Change]:
    """Handle records whose keys have to wait for a retry."""
    return [(blocked_keys.BlockedKeys, "must_wait", lambda *_: False)]


def moved_records_settled_from_the_first() -> list[Change]:
    """Acknowledge waiting records that were moved in the order of their positions."""
    original = waiting_queue.WaitingQueue.acknowledge

    def acknowledge(self: Any, deliveries: Any) -> None:
        original(self, sorted(deliveries, key=lambda delivery: delivery.tag))

    return [(waiting_queue.WaitingQueue, "acknowledge", acknowledge)]


def repetitions_of_other_generations() -> list[Change]:
    """Take a record of an old queue for a waiting record of a newer generation with its id."""

    def contain(self: Any, _generation_number: int, message_id: str) -> bool:
        return any(name == message_id for _, name in self.ids)

    return [(records_at_start.RecordsAtStart, "contain", contain)]


def retries_of_a_pack_under_its_id() -> list[Change]:
    """Give each record of a pack that is retried the id of the pack."""
    original = failure_policy.FailurePolicy._letter_of_record

    def record(self: Any, delivery: Any, *arguments: Any) -> Any:
        letter = original(self, delivery, *arguments)
        return replace(letter, message_id=delivery.message_id)

    return [(failure_policy.FailurePolicy, "_letter_of_record", record)]
