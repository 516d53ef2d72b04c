"""The thread of the operations process that fires schedules; every host has one."""

from __future__ import annotations

import contextlib
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Self

from feedbus import broker
from feedbus.bus import LiveBus
from feedbus.clock import NANOSECONDS, Clock, SystemClock
from feedbus.cron import Cron
from feedbus.errors import Outage, PublishError, UsageError
from feedbus.generations import topology_setup
from feedbus.logs import EventLog
from feedbus.metrics import Metrics
from feedbus.printable import one_line
from feedbus.schedules.fired_moment import FiredMoment, MomentUnreadable, write_moment
from feedbus.schedules.firing import fire
from feedbus.topology import Schedule, Topology
from feedbus.wire.amqp_protocols import Channel

events = EventLog(__name__)

CHECK_SECONDS = 5.0  # the clock is read at least this often, because somebody may have set it
RETRY_SECONDS = 1.0  # the wait after an outage or another error
REFUSED_SECONDS = 5.0  # the wait after the broker has refused the message of a schedule
# How long a stop waits for the thread. It is shorter than the time after which the supervisor kills
# the process.
JOIN_SECONDS = 3.0
# The clocks of hosts differ. If the last fired moment is further in the future, an error is logged.
AHEAD = timedelta(minutes=1)


class Scheduler:
    """Fires due schedules, and records each fired moment on the broker.

    The operations process of each host has one Scheduler object, which has a thread. The thread
    holds the topology's lock on the broker while it fires, so only one host fires at a time. A
    moment is a time that the cron expression of a schedule matches. If moments were missed, only
    the latest of them is fired, unless it is older than the limit `catch_up`. Only moments after
    the last fired moment are fired. So if a clock is set back, nothing is fired again. If a clock
    is set forward, it skips moments. Of the skipped moments of a schedule, at most one is fired.

    Example:
        with Scheduler(topology, bus, metrics):
            serve()

    """

    def __init__(
        self, topology: Topology, bus: LiveBus, metrics: Metrics, clock: Clock | None = None
    ) -> None:
        """Create the scheduler; a `with` statement starts its thread.

        Args:
            topology: the topology with the schedules.
            bus: publishes the messages.
            metrics: counts the firings.
            clock: the clock of the schedules; by default the machine's clock.

        """
        self._topology = topology
        self._bus = bus
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._crons = {one.name: Cron.of(one) for one in topology.schedules.values()}
        self._next: dict[str, datetime] = {}  # the time of each schedule's next check
        self._checked_at = datetime.min.replace(tzinfo=UTC)  # the time of the last fire_due()
        self._is_set_up = False  # whether the topology's objects exist on the broker
        # The last logged error of each schedule; that of all schedules together has the key "".
        self._logged: dict[str, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="schedules", daemon=True)
        for name in topology.schedules:
            metrics.schedule(name)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join(JOIN_SECONDS)

    def fire_due(self) -> float:
        """Fire the schedules that are due; return the seconds until the next call.

        The scheduler's thread calls this method again and again.

        Raises:
            Outage: the broker is unavailable; the caller can call this method again.
            UsageError: another process holds the topology's lock for too long.

        """
        now = self._now()
        if now < self._checked_at:
            self._next.clear()  # the clock was set back, so these times would be too late
        self._checked_at = now
        schedules = self._topology.schedules.values()
        due = [one for one in schedules if self._next.get(one.name, now) <= now]
        if due:
            self._check_due(due, now)
        soonest = min(self._next.values()) - self._now()
        return min(max(soonest.total_seconds(), 0.0), CHECK_SECONDS)

    def _run(self) -> None:
        wait = 0.0
        while not self._clock.wait(self._over, wait):
            try:
                wait = self.fire_due()
            except Exception as error:  # noqa: BLE001 -- the thread must continue
                expected = isinstance(error, Outage | UsageError)
                self._log_once("", logging.WARNING if expected else logging.ERROR, str(error))
                wait = RETRY_SECONDS
            else:
                self._logged.pop("", None)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.wall_nanoseconds() / NANOSECONDS, UTC)

    def _check_due(self, due: list[Schedule], now: datetime) -> None:
        """Check the schedules whose next check is due.

        During the check, this process holds the topology's lock on the broker.
        """
        topology = self._topology
        if not self._is_set_up:
            topology_setup.set_up_if_missing(topology)
            self._is_set_up = True
        with (
            broker.connect(topology) as connection,
            broker.outage(connection, topology.broker_url),
            broker.locked(connection, topology),
        ):
            channel: Channel = connection.channel()
            try:
                for schedule in due:
                    self._check(FiredMoment(channel, topology, schedule), schedule, now)
            finally:
                # If the publish has failed, this channel still holds the message with the last
                # fired moment, which FiredMoment.take() took out of its queue. The message returns
                # to the queue when the channel is closed, before the lock is released. Otherwise
                # another host could find the queue empty, and treat the schedule as new.
                lost = (*broker.connection_errors(connection), *connection.channel_errors)
                with contextlib.suppress(*lost):
                    channel.close()

    def _check(self, fired: FiredMoment, schedule: Schedule, now: datetime) -> None:
        """Fire a schedule if it is due, and set the time of its next check.

        Args:
            fired: the last fired moment of the schedule on the broker.
            schedule: the schedule.
            now: the time now.

        """
        cron = self._crons[schedule.name]
        try:
            last = fired.take()
        except MomentUnreadable as error:  # the other schedules are not affected
            self._log_once(schedule.name, logging.WARNING, str(error))
            self._next[schedule.name] = now + timedelta(seconds=RETRY_SECONDS)
            return
        if last is None:  # the schedule is new, so only moments from now on are fired
            last = now.replace(microsecond=0)
            fired.write(last)
        if last > now + AHEAD:
            self._log_once(schedule.name, logging.ERROR, _ahead(last, now))
        limit = timedelta(seconds=schedule.catch_up_seconds)
        moment = cron.latest(max(last, now - limit), now)
        if moment is None:
            fired.give_back()
        elif self._fire(schedule, moment):
            fired.write(moment)
        else:
            fired.give_back()
            self._next[schedule.name] = now + timedelta(seconds=REFUSED_SECONDS)
            return
        # All moments from `first` to before `moment` are missed. If `moment` is None, the moments
        # from `first` until now are missed.
        first = cron.next_after(last)
        if first < (moment or now):
            fired_for = write_moment(moment) if moment else "none"
            late = (
                f"only the message of the latest time, {fired_for}, was published"
                if moment
                else "all of them are longer ago than catch_up, so no message was published"
            )
            events.warning(
                "schedule_missed",
                f"schedule {schedule.name} missed its times from {write_moment(first)} on; {late}",
                schedule=schedule.name,
                missed_from=write_moment(first),
                fired=fired_for,
            )
        self._next[schedule.name] = cron.next_after(max(last, now))

    def _fire(self, schedule: Schedule, moment: datetime) -> bool:
        """Publish the message of a schedule; return whether the broker has accepted it."""
        try:
            fire(self._bus, self._topology, schedule, moment)
        except (PublishError, UsageError) as error:
            self._log_once(schedule.name, logging.ERROR, str(error))
            return False
        late = max(0.0, (self._now() - moment).total_seconds())
        self._metrics.schedule(schedule.name).fired(late)
        self._logged.pop(schedule.name, None)
        events.info(
            "schedule_fired",
            f"schedule {schedule.name} has published its message",
            schedule=schedule.name,
            moment=write_moment(moment),
            late_seconds=late,
        )
        return True

    def _log_once(self, schedule: str, level: int, text: str) -> None:
        """Log an error, unless the previous error of this schedule was the same."""
        text = one_line(text)
        if self._logged.get(schedule) != text:
            self._logged[schedule] = text
            named = f"schedule {schedule}" if schedule else "the schedules of this host"
            events.write(
                level,
                "schedule_failed",
                f"{named} cannot publish now; `error` says why; feedbus tries again",
                schedule=schedule or "all",
                error=text,
            )


def _ahead(last: datetime, now: datetime) -> str:
    return (
        f"its last firing was at {write_moment(last)}, and this machine's clock shows"
        f" {write_moment(now)}; nothing is fired until the clock has passed that time. If the clock"
        " was wrong at that firing, remove the schedule from the topology, run `feedbus apply`,"
        " put the schedule back, and run `feedbus apply` again"
    )
