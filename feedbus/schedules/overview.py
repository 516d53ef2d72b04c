"""The overview of the schedules: the last and the next firing of each schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from feedbus.cron import Cron
from feedbus.topology import Topology


@dataclass(frozen=True, slots=True)
class ScheduleOverview:
    """A schedule as `feedbus status` and the operations page show it.

    Attributes:
        cron: the cron expression.
        timezone: the time zone of the cron expression.
        exchange: the exchange of the schedule's message.
        last: the moment that was fired last, in ISO 8601 and the schedule's time zone; None if no
            moment of this cron expression was fired yet, or if `last_known` is false.
        last_known: false if the broker is unavailable. Only the broker keeps the time of the last
            firing, so this time is then unknown.
        next: the moment that will be fired next, in ISO 8601 and the schedule's time zone.

    """

    cron: str
    timezone: str
    exchange: str
    last: str | None
    last_known: bool
    next: str


def overview(
    topology: Topology, fired: Mapping[str, datetime] | None, now: datetime | None = None
) -> dict[str, ScheduleOverview]:
    """Map the name of each schedule to its overview.

    Args:
        topology: the topology with the schedules.
        fired: maps each schedule to the time that the broker keeps. The time is the moment that was
            fired last. If the schedule was not fired yet, it is the time at which the schedule was
            first checked. None if the broker is unavailable.
        now: the present time, with a time zone; None for the time of the machine.

    """
    now, overviews = now or datetime.now(UTC), {}
    for schedule in topology.schedules.values():
        cron, last = Cron.of(schedule), (fired or {}).get(schedule.name)
        following = cron.next_after(max(last or now, now))
        overviews[schedule.name] = ScheduleOverview(
            schedule.cron,
            schedule.timezone,
            schedule.exchange,
            last.astimezone(cron.zone).isoformat() if last and _matches(cron, last) else None,
            fired is not None,
            following.astimezone(cron.zone).isoformat(),
        )
    return overviews


def _matches(cron: Cron, moment: datetime) -> bool:
    """Whether a cron expression matches a time."""
    return cron.latest(moment - timedelta(seconds=1), moment) == moment
