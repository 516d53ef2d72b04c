"""Faults of the retries in the order of a key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from feedbus.dead_letters import letters
from feedbus.dispatch import (
    blocked_keys,
    failed_record_sender,
    failure_policy,
    key_releases,
    records_at_start,
    single_calls,
    waiting_deliveries,
    waiting_records,
)
from feedbus.errors import BrokerOutage, Reject
from feedbus.runner import run_state, waiting_queue
from feedbus.wire.constants import BLOCKED, KEY, RELEASE
from tests.simulation.planted.change import Change, edited, sent_in_another_order


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


def retries_without_their_delay() -> list[Change]:
    """Let a record whose key waits be retried at once."""
    original = failure_policy.FailurePolicy._retry

    def retry(self: Any, letter: Any, error: BaseException) -> Any:
        decision = original(self, letter, error)
        if decision.delay_milliseconds is None:
            return decision
        return replace(decision, delay_milliseconds=1)

    return [(failure_policy.FailurePolicy, "_retry", retry)]


def rejected_records_without_a_dead_letter() -> list[Change]:
    """Acknowledge a rejected record, and publish no dead letter."""
    original = failure_policy.FailurePolicy.decide

    def decide(self: Any, delivery: Any, pack: Any, row: int, error: BaseException) -> Any:
        decision = original(self, delivery, pack, row, error)
        return replace(decision, message=None) if isinstance(error, Reject) else decision

    return [(failure_policy.FailurePolicy, "decide", decide)]


def keys_blocked_behind_later_records() -> list[Change]:
    """Send the messages that block keys after the records that wait for them."""
    return sent_in_another_order(
        lambda messages: sorted(messages, key=lambda each: BLOCKED in each.headers)
    )


def messages_that_block_keys_before_their_dead_letters() -> list[Change]:
    """Send the message that blocks a key before the dead letter."""

    def letters_last(messages: Iterable[Any]) -> list[Any]:
        some = list(messages)
        for index in range(1, len(some)):
            if BLOCKED in some[index].headers:
                some[index - 1 : index + 1] = some[index], some[index - 1]
        return some

    return sent_in_another_order(letters_last)


def requests_to_release_applied_while_others_arrive() -> list[Change]:
    """Apply a request to release a key before the messages behind it have arrived."""
    original = waiting_queue.WaitingQueue._on_message

    def on_message(self: Any, message: Any) -> None:
        self.is_read = True
        original(self, message)

    return [(waiting_queue.WaitingQueue, "_on_message", on_message)]


def requests_to_release_that_are_early_forgotten() -> list[Change]:
    """Settle a request to release a key although the message that blocks the key comes later."""
    return edited(key_releases.KeyReleases, "apply", "if any(", "if False and any(")


def requests_to_release_acknowledged_first() -> list[Change]:
    """Acknowledge a request to release a key before the message that blocks the key."""
    original = waiting_deliveries.WaitingDeliveries.add

    def add(self: Any, message: Any) -> Any:
        found = original(self, message)
        headers = message.properties.get("application_headers") or {}
        return found[::-1] if RELEASE in headers else found

    return [(waiting_deliveries.WaitingDeliveries, "add", add)]


def keys_released_in_every_queue() -> list[Change]:
    """Let a request in one waiting queue release keys whose messages are in another."""
    original = key_releases.KeyReleases.release

    def release(self: Any, request: Any, _queue: str) -> Any:
        queues = {each.queue: None for record in self._records for each in record.with_copies()}
        return [one for queue in queues for one in original(self, request, queue)]

    return [(key_releases.KeyReleases, "release", release)]


def dead_letters_settled_before_they_are_requeued() -> list[Change]:
    """Acknowledge a dead letter before its record is in its queue again."""

    def settle(channel: Any, topology: Any, queue: Any, chosen: Any, act: Any) -> int:
        count = 0
        for tag, letter in letters.letters(channel, topology, queue):
            if chosen(letter):
                channel.basic_ack(tag)
                act(letter)
                count += 1
        return count

    return [(letters, "settle", settle)]


def copies_of_handled_records_left() -> list[Change]:
    """Leave the copy of a handled waiting record in the queue of a newer generation."""
    original = waiting_records.WaitingRecords.remove_handled

    def remove(self: Any, record: Any) -> list[Any]:
        original(self, record)
        return []

    return [(waiting_records.WaitingRecords, "remove_handled", remove)]


def retries_of_a_pack_under_its_id() -> list[Change]:
    """Give each record of a pack that is retried the id of the pack."""
    original = failure_policy.FailurePolicy._letter_of_record

    def record(self: Any, delivery: Any, *arguments: Any) -> Any:
        letter = original(self, delivery, *arguments)
        return replace(letter, message_id=delivery.message_id)

    return [(failure_policy.FailurePolicy, "_letter_of_record", record)]


def repetitions_after_an_outage_not_expected() -> list[Change]:
    """Go on after an outage in the middle of a message whose earlier records have failed."""
    expected = "self._blocked_keys.expect_repetition(decoded)"
    return edited(single_calls.SingleCalls, "call", expected, "pass")


def waiting_limits_ignored() -> list[Change]:
    """Handle new records although too many records wait."""
    return [(run_state.Run, "has_reached_waiting_limit", lambda _: False)]
