"""Cron expressions in time zones: the times that they match, also when daylight saving time begins.

An expression with a fixed time of day (`30 2 * * *`) matches once on each day. If the clock skips
this time, the expression matches the first minute after the gap. If the clock shows this time
twice, the expression matches the first of the two. An expression whose minute or hour begins with
`*` continues in equal steps in both cases. Debian's cron and the library cronsim do the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from feedbus.topology import Schedule


class WrongCron(ValueError):  # noqa: N818 -- clear without "Error"
    """A text is not a cron expression, or no date matches it; the error says why."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression in a time zone; it computes the times that match.

    All arguments and results of its methods are in UTC.

    Attributes:
        line: the cron expression.
        zone: the time zone in which the expression is read.

    """

    line: str
    zone: tzinfo = UTC

    @classmethod
    def of(cls, schedule: Schedule) -> Cron:
        """Return the cron expression of a schedule, with the schedule's time zone."""
        zone = UTC if schedule.timezone == "UTC" else ZoneInfo(schedule.timezone)
        return cls(schedule.cron, zone)

    def next_after(self, moment: datetime) -> datetime:
        """Return the first matching time after a given time, in UTC.

        Args:
            moment: the given time, in UTC; the result is later.

        Raises:
            WrongCron: the line cannot be parsed, or no time matches it.

        """
        try:
            for found in CronSim(self.line, moment.astimezone(self.zone)):
                later = found.astimezone(UTC)
                # In an hour that occurs twice, cronsim can yield the earlier of the two times.
                if later > moment:
                    return later
        except CronSimError as error:
            raise WrongCron(_unmatched_days(self.line) or str(error)) from error
        except ValueError as error:
            raise WrongCron(str(error)) from error
        msg = "no date within 50 years matches it"
        raise WrongCron(msg)

    def latest(self, after: datetime, until: datetime) -> datetime | None:
        """Return the latest matching time in a period, in UTC, or None if no time in it matches.

        Args:
            after: the start of the period, which does not belong to the period.
            until: the end of the period, which belongs to the period.

        Raises:
            WrongCron: the line cannot be parsed, or no time matches it.

        """
        # The search begins shortly before the end, and then earlier and earlier.
        span = timedelta(seconds=1)
        while (found := self.next_after(max(after, until - span))) > until:
            if until - span <= after:
                return None
            span *= 4
        while (following := self.next_after(found)) <= until:
            found = following
        return found


def _unmatched_days(line: str) -> str:
    """Return an error text if no date has a line's day and month, such as February 31.

    next_after() calls this for a line that cronsim has refused. The result is "" if the line has
    another fault. cronsim's own error does not distinguish the two.
    """
    fields = line.split()
    try:
        *_, day, month, _ = fields
        for every_day, every_month in ((day, "*"), ("*", month)):
            fields[-3:-1] = [every_day, every_month]
            CronSim(" ".join(fields), datetime.now(UTC))
    except (CronSimError, ValueError):
        return ""
    return f"no date matches it: day of month {day}, month {month}"
