"""Faults to be planted in feedbus's own code, to see that the simulation finds them.

Each takes the place of one function. `make simulate FAULT=NAME` plants one and runs seeds until it
is found.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from feedbus import broker
from feedbus.broker import publisher, queue_arguments
from feedbus.bus import sender
from feedbus.dispatch import (
    blocked_keys,
    concurrent_calls,
    failed_record_sender,
    failure_policy,
    publications,
    sequencer,
    waiting_records,
)
from feedbus.errors import BrokerOutage
from feedbus.generations import drain, predecessors, probes, switch
from feedbus.hosts import assignment_file, membership
from feedbus.runner import (
    buffer,
    overtaking,
    publishing_pauses,
    queue_reader,
    run_state,
    settlement,
    switch_progress,
)
from feedbus.schedules import fired_moment, firing
from feedbus.schedules import scheduler as schedules
from feedbus.store import leftover_rows, outbox_rows, tables
from feedbus.wire.constants import KEY
from tests.simulation.runs import declared

Change = tuple[Any, str, Any]


def an_early_acknowledgement() -> list[Change]:
    """Acknowledge whatever was delivered, instead of what was handled."""

    def settle(self: queue_reader.QueueReader, _tag: int) -> None:
        held = getattr(self.channel, "_held", {})
        if held:
            self.channel.basic_ack(max(held), multiple=True)

    return [(queue_reader.QueueReader, "settle", settle)]


def a_confirm_taken_for_another() -> list[Change]:
    """Take each confirm for that of the message that has waited longest."""

    def answered(self: Any, tag: int, *, multiple: bool) -> list[int]:
        del tag, multiple
        return list(self._waiting)[:1]

    return [(publisher.Publisher, "_answered", answered)]


def confirms_that_nobody_awaits() -> list[Change]:
    """Return from a publish as soon as the messages are written to the connection."""

    def drain(self: Any) -> None:
        self._waiting.clear()

    return [(publisher.Publisher, "_drain", drain)]


def an_outage_taken_for_success() -> list[Change]:
    """Take a lost connection for a publish that has succeeded."""
    original = sender.Sender._send_window

    def send(self: Any, messages: Any) -> list[Any]:
        try:
            return original(self, messages)
        except BrokerOutage:
            return []

    return [(sender.Sender, "_send_window", send)]


def lost_fences() -> list[Change]:
    """Put no fence at the end of an old queue."""
    return [(switch, "fence", lambda *_, **__: None)]


def a_new_ring_read_too_soon() -> list[Change]:
    """Let records of new queues wait for no old queue."""
    return [
        (drain.Drain, "_await_others", lambda *_: True),
        (predecessors.Predecessors, "of", lambda *_: frozenset()),
    ]


def a_queue_taken_for_deleted() -> list[Change]:
    """Take the old queues that records wait for, for deleted ones."""

    def find(self: Any, _raw: Any) -> None:
        self._ended = sorted(self._waiting.awaited)

    return [(switch_progress.SwitchProgress, "_find_ended", find)]


def moved_records_behind_others() -> list[Change]:
    """Number the positions of waiting records without regard to generations."""
    original = waiting_records.WaitingRecords.next_place
    return [(waiting_records.WaitingRecords, "next_place", lambda self, _turn=0: original(self, 0))]


def old_rings_passed_over() -> list[Change]:
    """Read each old queue in the share of nobody."""
    return [(drain.Drain, "_share", lambda *_: [])]


def held_messages_forgotten() -> list[Change]:
    """Leave what arrived between two rings where it is held."""
    return [(switch, "_append_held", lambda *_: None)]


def held_messages_behind_the_switch() -> list[Change]:
    """Append what was held to the new ring instead of the old one."""
    original = switch._append_held

    def append(channel: Any, names: Any, exchange: str, generations: Any, on_full: Any) -> None:
        original(channel, names, exchange, generations[-1:], on_full)

    return [(switch, "_append_held", append)]


def queues_deleted_without_proof() -> list[Change]:
    """Take an old queue for empty at its first fence."""
    return [
        (probes, "NEEDED", 0),
        (probes.Probes, "proved", property(lambda _: True)),
        (queue_reader.QueueReader, "_count", lambda _: (0, 1)),
    ]


def a_retry_that_forgets_its_key() -> list[Change]:
    """Send retries back under an empty routing key."""
    original = failure_policy.FailurePolicy._whole

    def whole(self: Any, *arguments: Any) -> Any:
        letter = original(self, *arguments)
        return replace(letter, headers={**letter.headers, KEY: ""})

    return [(failure_policy.FailurePolicy, "_whole", whole)]


def retries_that_nobody_confirms() -> list[Change]:
    """Settle a record whose retry could not be published."""
    original = failed_record_sender.FailedRecordSender.send

    def send(self: Any, *arguments: Any, **options: Any) -> None:
        try:
            original(self, *arguments, **options)
        except BrokerOutage:
            return

    return [(failed_record_sender.FailedRecordSender, "send", send)]


def a_relay_that_deletes_too_soon() -> list[Change]:
    """Delete the rows of the outbox before the broker has confirmed their messages."""
    original = outbox_rows.publish_entries

    def publish(store: Any, bus: Any, entries: Any, *rest: Any) -> int:
        entries = list(entries)
        with store.transaction():
            store.outbox.remove([each.id for each in entries])
        return original(store, bus, entries, *rest)

    return [(outbox_rows, "publish_entries", publish)]


def an_inbox_that_is_not_asked() -> list[Change]:
    """Handle what was handled before."""
    original = tables.SqlInbox.unseen

    def unseen(self: Any, queue: str, ids: Any) -> list[str]:
        original(self, queue, ids)
        return list(ids)

    return [(tables.SqlInbox, "unseen", unseen)]


def deliveries_of_a_lost_connection() -> list[Change]:
    """Go on with what an earlier connection has delivered."""
    return [(buffer.Buffer, "clear", lambda _: None)]


def stale_packs_refused() -> list[Change]:
    """Never take a pack apart whose ring is not current any more."""
    return [(sender, "_stale", lambda _: False)]


def a_return_taken_for_a_confirm() -> list[Change]:
    """Ignore that the broker returns a message which no queue accepts."""
    return [(publisher.Publisher, "_on_return", lambda *_: None)]


def owed_fences_forgotten() -> list[Change]:
    """Put no fence later that a full queue has refused."""
    return [(probes.Probes, "due", property(lambda _: False))]


def leftovers_overtaken() -> list[Change]:
    """Send messages before those of their keys that an earlier process left in the outbox."""
    return [(leftover_rows.Leftovers, "look", lambda *_: False)]


def an_outbox_cleared_before_the_confirms() -> list[Change]:
    """Delete a handler's rows from the outbox before its messages are sent."""
    original = publications.Publications._send_own

    def send(self: Any) -> None:
        self._store.outbox.remove(self._rows)
        original(self)

    return [(publications.Publications, "_send_own", send)]


def retries_that_are_overtaken() -> list[Change]:
    """Handle records whose keys have to wait for a retry."""
    return [(blocked_keys.BlockedKeys, "must_wait", lambda *_: False)]


def records_that_overtake_their_key() -> list[Change]:
    """Let a small message overtake a large one with records of its key."""
    return [(overtaking.Overtaking, "_keys_of", lambda *_: frozenset())]


def pauses_that_forget_what_is_handled() -> list[Change]:
    """Handle a record in a pause although a record of its key is in the handler."""
    return [(publishing_pauses._Call, "keys", property(lambda _: frozenset()))]


def fences_overtaken() -> list[Change]:
    """Take a fence for a small message, and what is behind it."""
    return [(overtaking, "FENCE", "none")]


def large_messages_settled_too_soon() -> list[Change]:
    """Acknowledge a large message with a small one that is handled between its slices."""
    return [(publishing_pauses.PublishingPauses, "tags", property(lambda _: set()))]


def overtaken_messages_settled_too_soon() -> list[Change]:
    """Acknowledge what waits with a message that has overtaken it."""
    return [(buffer.Buffer, "holds_before", lambda *_: False)]


def outages_in_pauses_forgotten() -> list[Change]:
    """Drop the messages of a pause that has met an outage."""
    return [(buffer.Buffer, "put_back", lambda *_: None)]


def pauses_that_hide_a_lost_connection() -> list[Change]:
    """Go on with a large message whose connection was lost in a pause."""
    return [(publishing_pauses._Call, "error", property(lambda _: None, lambda *_: None))]


def keys_that_run_twice_at_once() -> list[Change]:
    """Let all records run at the same time, whatever their keys are."""
    return [(blocked_keys.BlockedKeys, "key", lambda *_: None)]


def unfinished_records_settled() -> list[Change]:
    """Acknowledge all that came before a record that has ended."""
    original = settlement.Settlement.acknowledgements

    def acknowledgements(self: Any) -> tuple[int, list[int]]:
        up_to, single = original(self)
        return max([up_to, *single]), []

    return [(settlement.Settlement, "acknowledgements", acknowledgements)]


def records_behind_a_retry_forgotten() -> list[Change]:
    """Lose the later records of the key of a record that is to be retried."""
    original = sequencer.Sequencer.cut

    def cut(self: Any, item: Any) -> list[Any]:
        return original(self, item)[1:]

    return [(sequencer.Sequencer, "cut", cut)]


def records_behind_a_retry_run() -> list[Change]:
    """Run the later records of the key of a record that is to be retried."""

    def cut(self: Any, item: Any) -> list[Any]:
        self.end(item)
        return []

    return [(sequencer.Sequencer, "cut", cut)]


def concurrent_messages_unsent() -> list[Change]:
    """Settle records without sending what their handlers have published."""
    return [(concurrent_calls, "send_together", lambda _, calls: [None for _each in calls])]


def concurrent_records_of_a_lost_connection() -> list[Change]:
    """Go on with records that an earlier connection has delivered."""
    return [(concurrent_calls.ConcurrentCalls, "forget", lambda _: None)]


def concurrent_outages_taken_for_success() -> list[Change]:
    """Take a call that has met an outage for one that has succeeded."""

    def judge(self: Any) -> None:
        for work in self._unfinished:
            work.error = None

    return [(concurrent_calls.ConcurrentCalls, "_judge", judge)]


def moments_recorded_before_their_messages() -> list[Change]:
    """Record a moment as fired before its message is published."""
    original = schedules.Scheduler._look

    def look(self: Any, fired: Any, schedule: Any, now: Any) -> None:
        def fire_later(_schedule: Any, moment: Any) -> bool:
            fired.write(moment)
            return type(self)._fire(self, schedule, moment)

        self._fire = fire_later
        try:
            original(self, fired, schedule, now)
        finally:
            del self._fire

    return [(schedules.Scheduler, "_look", look)]


def schedules_fired_without_the_lock() -> list[Change]:
    """Let two hosts fire a schedule at the same time."""
    unlocked = SimpleNamespace(**{**vars(broker), "locked": lambda *_: nullcontext()})
    return [(schedules, "broker", unlocked)]


def fired_moments_not_recorded() -> list[Change]:
    """Fire a moment and leave the recorded one as it is."""

    def write(self: Any, moment: Any) -> None:
        del moment
        self.give_back()

    return [(fired_moment.FiredMoment, "write", write)]


def ids_of_a_schedule_that_no_two_hosts_share() -> list[Change]:
    """Give each message of a schedule another id."""
    numbers = itertools.count()
    original = firing.message_id

    def message_id(topology: Any, schedule: Any, moment: Any) -> str:
        name, _, when = original(topology, schedule, moment).partition("@")
        return f"{name}.{next(numbers)}@{when}"

    return [(firing, "message_id", message_id)]


def hosts_that_are_never_missed() -> list[Change]:
    """Count a host as running although it announces itself no more."""
    return [(membership, "GONE_SECONDS", math.inf)]


def announcements_that_nobody_hears() -> list[Change]:
    """Let each host take itself for the only one."""
    return [(membership.Membership, "note", lambda *_: None)]


def hosts_that_keep_what_they_had() -> list[Change]:
    """Let a consumer read its queue although another host is assigned to it, and alone."""

    def goes_on(self: Any, *, working: bool = False) -> bool:
        return self.ended(working=working) is None

    return [(run_state.Run, "goes_on", goes_on)]


def shards_that_two_hosts_read() -> list[Change]:
    """Let two hosts read a shard at the same time."""
    original = queue_arguments.of_queue

    def of_queue(names: Any, queue: Any) -> dict[str, Any]:
        return original(names, replace(queue, single_active_consumer=False))

    return [
        (queue_arguments, "of_queue", of_queue),
        (assignment_file.AssignedConsumer, "__call__", lambda _: True),
    ]


FAULTS: Mapping[str, Callable[[], list[Change]]] = {
    each.__name__: each
    for each in (
        an_early_acknowledgement,
        a_confirm_taken_for_another,
        confirms_that_nobody_awaits,
        an_outage_taken_for_success,
        lost_fences,
        a_new_ring_read_too_soon,
        a_queue_taken_for_deleted,
        moved_records_behind_others,
        old_rings_passed_over,
        held_messages_forgotten,
        held_messages_behind_the_switch,
        queues_deleted_without_proof,
        a_retry_that_forgets_its_key,
        retries_that_nobody_confirms,
        a_relay_that_deletes_too_soon,
        an_inbox_that_is_not_asked,
        deliveries_of_a_lost_connection,
        stale_packs_refused,
        a_return_taken_for_a_confirm,
        owed_fences_forgotten,
        leftovers_overtaken,
        an_outbox_cleared_before_the_confirms,
        retries_that_are_overtaken,
        records_that_overtake_their_key,
        pauses_that_forget_what_is_handled,
        fences_overtaken,
        large_messages_settled_too_soon,
        overtaken_messages_settled_too_soon,
        outages_in_pauses_forgotten,
        pauses_that_hide_a_lost_connection,
        keys_that_run_twice_at_once,
        unfinished_records_settled,
        records_behind_a_retry_forgotten,
        records_behind_a_retry_run,
        concurrent_messages_unsent,
        concurrent_records_of_a_lost_connection,
        concurrent_outages_taken_for_success,
        moments_recorded_before_their_messages,
        schedules_fired_without_the_lock,
        fired_moments_not_recorded,
        ids_of_a_schedule_that_no_two_hosts_share,
        hosts_that_are_never_missed,
        announcements_that_nobody_hears,
        hosts_that_keep_what_they_had,
        shards_that_two_hosts_read,
    )
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant a fault within the block; "" is none."""
    changes = FAULTS[name]() if name else []
    before = [(owner, attribute, owner.__dict__[attribute]) for owner, attribute, _ in changes]
    for owner, attribute, value in changes:
        setattr(owner, attribute, value)
    declared.cache_clear()  # a fault may change how queues are declared
    try:
        yield
    finally:
        declared.cache_clear()
        for owner, attribute, value in before:
            setattr(owner, attribute, value)
