"""The moments of a cron expression, also when daylight saving time begins or ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from feedbus.cron import Cron


def moments(cron: str, zone: str, start: str, count: int) -> list[str]:
    """Return moments in the zone's own time, with its offset from UTC."""
    line = Cron(cron, ZoneInfo(zone))
    moment, found = datetime.fromisoformat(start).astimezone(UTC), []
    for _ in range(count):
        moment = line.next_after(moment)
        found.append(moment.astimezone(line.zone).isoformat(timespec="minutes")[5:])
    return found


def test_where_the_clock_skips_a_time_it_is_fired_right_after_the_gap():
    assert moments("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", 3) == [
        "03-29T03:00+02:00", "03-30T02:30+02:00", "03-31T02:30+02:00",
    ]  # fmt: skip


def test_where_the_clock_shows_a_time_twice_it_is_fired_the_first_time():
    assert moments("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00Z", 3) == [
        "10-25T02:30+02:00", "10-26T02:30+01:00", "10-27T02:30+01:00",
    ]  # fmt: skip
    # Also after a look within the second of the two hours.
    assert moments("30 2 * * *", "Europe/Berlin", "2026-10-25T01:15Z", 1) == ["10-26T02:30+01:00"]


def test_two_times_that_fall_upon_one_moment_are_one_firing():
    assert moments("0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00Z", 3) == [
        "03-29T03:00+02:00", "03-30T02:00+02:00", "03-30T03:00+02:00",
    ]  # fmt: skip


def test_steps_of_time_go_on_through_the_change_of_the_clock():
    assert moments("*/30 * * * *", "Europe/Berlin", "2026-10-24T23:59Z", 6) == [
        "10-25T02:00+02:00", "10-25T02:30+02:00", "10-25T02:00+01:00",
        "10-25T02:30+01:00", "10-25T03:00+01:00", "10-25T03:30+01:00",
    ]  # fmt: skip
    assert moments("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:29Z", 3) == [
        "03-29T01:30+01:00", "03-29T03:00+02:00", "03-29T03:30+02:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line", ["*/7 * * * *", "30 2 * * *", "* 3 * * MON", "0 0 1 * *", "*/9 * * * * *"]
)
def test_the_latest_moment_is_the_last_of_those_that_follow_each_other(line):
    cron = Cron(line, ZoneInfo("Europe/Berlin"))
    after = datetime(2026, 10, 24, 23, 10, 5, tzinfo=UTC)
    for minutes in (0, 1, 59, 300, 3000):
        until, moment, last = after + timedelta(minutes=minutes), after, None
        while (moment := cron.next_after(moment)) <= until:
            last = moment
        assert cron.latest(after, until) == last
