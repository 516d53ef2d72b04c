"""Faults of schedules, and the hosts that share shards."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from feedbus import broker
from feedbus.broker import queue_arguments
from feedbus.hosts import announcer, assignment_file, running_hosts
from feedbus.runner import (
    run_state,
)
from feedbus.schedules import fired_moment, firing
from feedbus.schedules import scheduler as schedules
from tests.simulation.planted.change import Change, edited


def moments_recorded_before_their_messages() -> list[Change]:
    """Record a moment as fired before its message is published."""
    original = schedules.Scheduler._check

    def check(self: Any, fired: Any, schedule: Any, now: Any) -> None:
        def fire_later(_schedule: Any, moment: Any) -> bool:
            fired.write(moment)
            return type(self)._fire(self, schedule, moment)

        self._fire = fire_later
        try:
            original(self, fired, schedule, now)
        finally:
            del self._fire

    return [(schedules.Scheduler, "_check", check)]


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


def fired_moments_returned_after_the_lock() -> list[Change]:
    """Keep the taken message with the last moment, after an outage, until the lock is free."""

    def check_due(self: Any, due: Any, now: Any) -> None:
        topology = self._topology
        schedules.topology_setup.set_up_if_missing(topology)
        with (
            broker.connect(topology) as connection,
            broker.outage(connection, topology.broker_url),
            broker.locked(connection, topology),
        ):
            channel: Any = connection.channel()
            for schedule in due:
                moment = fired_moment.FiredMoment(channel, topology, schedule)
                self._check(moment, schedule, now)
            channel.close()

    return [(schedules.Scheduler, "_check_due", check_due)]


def fired_moments_taken_before_they_are_replaced() -> list[Change]:
    """Acknowledge the last fired moment before the next one is stored."""
    original = fired_moment.FiredMoment.write

    def write(self: Any, moment: Any) -> None:
        for tag in self._held:
            self._channel.basic_ack(tag)
        self._held.clear()
        original(self, moment)

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
    return [(running_hosts, "GONE_SECONDS", math.inf)]


def announcements_that_nobody_hears() -> list[Change]:
    """Let each host take itself for the only one."""
    return [(running_hosts.Membership, "add_announcement", lambda *_: None)]


def hosts_that_keep_what_they_had() -> list[Change]:
    """Let a consumer read its queue although another host is assigned to it, and alone."""

    def must_continue(self: Any, *, has_unsettled: bool = False) -> bool:
        return self.end_reason(has_unsettled=has_unsettled) is None

    return [(run_state.Run, "must_continue", must_continue)]


def shards_that_two_hosts_read() -> list[Change]:
    """Let two hosts read a shard at the same time."""
    original = queue_arguments.declared_arguments

    def of_queue(names: Any, queue: Any) -> dict[str, Any]:
        return original(names, replace(queue, single_active_consumer=False))

    return [
        (queue_arguments, "declared_arguments", of_queue),
        (assignment_file.AssignedConsumer, "__call__", lambda _: True),
    ]


def removed_assignments_not_written_again() -> list[Change]:
    """Remember an assignment as written although its file was removed in an outage."""
    return edited(announcer.Announcer, "_run", "self._last_written = None", "pass")
