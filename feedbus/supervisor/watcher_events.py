"""The events that a watcher logs about its processes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from feedbus.logs import EventLog

events = EventLog("feedbus.supervisor")


@dataclass(frozen=True, slots=True)
class WatcherEvents:
    """Logs the events of one watcher to the output of the supervisor.

    Each watcher has one WatcherEvents object.

    Attributes:
        name: the name of the consumer or process.
        handles_messages: whether the processes are those of a consumer. The operations process and
            the programs of [processes.NAME] tables handle no messages.

    """

    name: str
    handles_messages: bool

    def log_ready(self, pid: int, seconds: float) -> None:
        """Log that a process is ready.

        Args:
            pid: the process id.
            seconds: the time from its start until it was ready.

        """
        text = f"process {pid} is ready after {seconds:.1f} s"
        events.info("ready", text, consumer=self.name, pid=pid, seconds=seconds)

    def log_busy(self, pid: int, left_seconds: float) -> None:
        """Log that a process has not ended yet, although it was asked to end.

        Args:
            pid: the process id.
            left_seconds: the seconds until the process is killed.

        """
        what = "still handles a message" if self.handles_messages else "has not ended yet"
        text = f"process {pid} {what}; if it does not end within {left_seconds:.0f} s, it is killed"
        events.info("stopping", text, consumer=self.name, pid=pid)

    def log_killed(self, pid: int, seconds: float) -> None:
        """Log that a process was killed, because it did not end in time.

        Args:
            pid: the process id.
            seconds: the time since it was asked to end.

        """
        again = "; the broker delivers its messages again" if self.handles_messages else ""
        text = f"process {pid} did not end within {seconds:.0f} s and was killed{again}"
        events.warning("killed", text, consumer=self.name, pid=pid)

    def log_group_killed(self, pid: int) -> None:
        """Log that child processes of an ended process did not end in time and were killed.

        Args:
            pid: the process id of the ended process.

        """
        text = (
            f"processes that process {pid} had started did not end with it and were killed; let the"
            " code that starts them also end them"
        )
        events.warning("killed", text, consumer=self.name, pid=pid)

    def log_removed(self, ending: str) -> None:
        """Log that the process of a removed consumer has emptied its queue and ended.

        Args:
            ending: how the process ended, such as "exit code 0".

        """
        text = (
            f"the topology no longer has {self.name}; its process has handled the last messages"
            f" and ended: {ending}"
        )
        events.info("consumer_removed", text, consumer=self.name, exit=ending)

    def log_ended(self, pid: int, ending: str, wait_seconds: float, *, failed: bool) -> None:
        """Log that a process has ended without a request, and when it is restarted.

        Args:
            pid: the process id.
            ending: how it ended, such as "exit code 1" or "killed by SIGKILL".
            wait_seconds: the time until the restart.
            failed: whether the end is a failure.

        """
        when = f"in {wait_seconds:g} s" if wait_seconds else "immediately"
        advice = "; read its log" if failed else ""
        text = f"process {pid} ended: {ending}{advice}; it will be restarted {when}"
        level = logging.WARNING if failed else logging.INFO
        events.write(level, "ended", text, consumer=self.name, pid=pid, exit=ending)

    def log_gave_up(self, why: str, log: Path) -> None:
        """Log that the supervisor does not start processes of the watcher any more.

        Args:
            why: the cause; in the log line, it stands after "because".
            log: the path of the log file of the processes.

        """
        where = f"read its log {log}"
        again = f"correct the cause, then run `feedbus restart {self.name}`"
        text = f"the process is not restarted any more, because {why}; {where}; {again}"
        events.error("gave_up", text, consumer=self.name)

    def log_hangs(self, pid: int, text: str) -> None:
        """Log that a process is ended, because a handler exceeds its timeout.

        Args:
            pid: the process id.
            text: the message of the event, from feedbus.process.watchdog.describe().

        """
        events.error("hangs", text, consumer=self.name, pid=pid)
