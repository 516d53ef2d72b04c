"""The output of the supervisor's events: to a terminal, to stdout, or to its log file."""

from __future__ import annotations

import contextlib
import logging
import sys

import click

from feedbus.logs import event_of, formatter_of
from feedbus.printable import printable, printable_lines
from feedbus.supervisor.rotated_log import RotatedLog
from feedbus.supervisor.watcher_options import SUPERVISOR
from feedbus.topology import Topology

COLOURS = {
    "all_ready": "green",
    "ready": "green",
    "ended": "yellow",
    "consumer_paused": "yellow",
    "stopping": "yellow",
    "gave_up": "red",
    "hangs": "red",
    "killed": "red",
    "not_all_ready": "red",
}


class TerminalFormatter(logging.Formatter):
    """Formats the supervisor's events for a terminal, in colours.

    A line has the form `HH:MM:SS  NAME  EVENT  MESSAGE`. NAME is the consumer or process.
    """

    def __init__(self, width: int) -> None:
        """Create the formatter with the width of the column of names."""
        super().__init__(datefmt="%H:%M:%S")
        self._width = width

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a log record, followed by its further lines, such as a traceback."""
        event = event_of(record)
        clock = click.style(self.formatTime(record, self.datefmt), dim=True)
        name = str(event.fields.get("consumer", ""))
        what = click.style(f"{event.name:<8}", fg=COLOURS.get(event.name))
        line = f"{clock}  {name:<{self._width}}  {what}  {printable(event.message)}"
        return f"{line}\n{printable_lines(event.detail)}" if event.detail else line


class _Stdout(logging.Handler):
    """Writes to stdout; if the terminal or the pipe is closed, nothing happens."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            click.echo(self.format(record))


class _LogFile(logging.Handler):
    """Writes to the supervisor's own log file."""

    def __init__(self, log: RotatedLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log({"data": self.format(record).encode() + b"\n"})


def name_width(topology: Topology) -> int:
    """Return the width of the column of names in `feedbus up`, in characters.

    The width is the length of the longest name of a consumer, of a process or of the supervisor.
    """
    return max(map(len, [*topology.consumers, *topology.supervised, SUPERVISOR]))


def write_events(topology: Topology, log: RotatedLog | None = None) -> None:
    """From now on, write this supervisor's events and circus's warnings to one output.

    `feedbus up` and circusd call the function at their start.

    Args:
        topology: the topology; it has the format of log lines and the names of the processes.
        log: the log file; without it, stdout, in colours if that is a terminal.

    """
    handler: logging.Handler = _Stdout() if log is None else _LogFile(log)
    if log is None and sys.stdout.isatty():
        handler.setFormatter(TerminalFormatter(name_width(topology)))
    else:
        formatter = formatter_of(topology.logging.format, {"consumer": SUPERVISOR})
        handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("circus").setLevel(logging.WARNING)
