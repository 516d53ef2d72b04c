"""feedbus logs: show the log lines of consumers and processes."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from feedbus.cli import Context
from feedbus.cli.name_completion import RUNNING
from feedbus.cli.name_expansion import expanded
from feedbus.errors import UsageError
from feedbus.name_list import listed
from feedbus.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from feedbus.logs.log_file_reading import LogEntry, LogFile

CHECK_SECONDS = 0.2  # the time between two readings of the files with --follow
TAB = "    "  # replaces a tab character in a line


@click.command(
    "logs",
    epilog="""\b
Examples:
  feedbus logs                       # the last lines of everything, by time
  feedbus logs -f update_feed        # follow all shards of a queue
  feedbus logs --level warning --lines 20
  feedbus logs mail | grep event=dead_letter
""",
)
@click.argument("names", metavar="[NAME]...", nargs=-1, type=RUNNING)
@click.option("-f", "--follow", is_flag=True, help="Show new lines, too, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    "count",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="How many of the latest entries to show first, of all logs together. The lines of a"
    " traceback belong to one entry.",
)
@click.option(
    "--level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="debug",
    show_default=True,
    help="Leave out entries below this level. Output without a level is always shown.",
)
@click.pass_obj
def command(
    context: Context, *, names: tuple[str, ...], follow: bool, count: int, level: str
) -> None:
    """Show the log lines of consumers and processes on this host, in the order of their times.

    NAME is a consumer, a process or a queue. The name of a queue stands for all of its shards.
    `supervisor` is the supervisor itself, if it was started with --detach. NAME can also be a
    consumer, a process or a queue that is no longer in the topology. Without names, all log lines
    are shown.

    The command reads the files that `feedbus up` writes in var/log. It also works if nothing runs.
    Entries that were written with `[logging] format = "json"` are JSON objects. No name is printed
    before them.
    """
    from feedbus.logs.log_file_reading import LogFile
    from feedbus.supervisor.watcher_options import SUPERVISOR, log_file, removed_logs

    topology = context.load(connects=False)
    chosen = expanded(topology, names, [SUPERVISOR, *removed_logs(topology)])
    logs = [LogFile(name, log_file(topology, name)) for name in chosen]
    if not follow and not any(log.path.exists() for log in logs):
        of_names = f" of {listed(names)}" if names else ""
        msg = f"no logs{of_names} in {topology.var / 'log'}; `feedbus up` writes them"
        raise UsageError(msg)
    width = 0 if len(chosen) == 1 else max(map(len, chosen))
    least = logging.getLevelNamesMapping()[level.upper()]
    with ExitStack() as stack:
        for log in logs:
            stack.enter_context(log)
        try:
            _show(logs, count, least, width, follow=follow)
        except KeyboardInterrupt:
            if not follow:
                raise
            if sys.stdout.isatty():
                click.echo()  # the terminal has shown ^C on the current line


def _show(logs: Sequence[LogFile], count: int, least: int, width: int, *, follow: bool) -> None:
    """Print the last entries, and with follow=True the new ones until an interrupt.

    Args:
        logs: the opened log files.
        count: how many of the last entries are printed.
        least: the lowest level that is printed, as in the module logging.
        width: the width of the column of names, in characters; 0 for entries without names.
        follow: whether to wait for new entries.

    """
    from feedbus.logs.log_file_reading import in_order

    found = in_order(each for log in logs for each in log.last(count, least))
    _print(found[-count:] if count else [], width)
    while follow:
        found = in_order(each for log in logs for each in log.new())
        _print((each for each in found if each.reaches(least)), width)
        time.sleep(CHECK_SECONDS)


def _print(found: Iterable[LogEntry], width: int) -> None:
    """Print entries; with a width, print the name of each before its lines.

    A JSON object gets no name before it, because such a line would not be JSON.
    """
    for entry in found:
        prefix = f"{entry.name:<{width}}  " if width and not entry.is_json else ""
        for line in entry.lines:
            click.echo(prefix + printable(line.replace("\t", TAB)))
