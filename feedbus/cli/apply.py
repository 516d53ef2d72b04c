"""feedbus apply: change the running system to match the topology."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from feedbus.cli import Context
from feedbus.cli.confirmation import confirm
from feedbus.cli.interruption import reported
from feedbus.cli.plan import compute_plan, show
from feedbus.cli.progress import LINES_SECONDS, BusyLines
from feedbus.errors import UsageError
from feedbus.units import counted

if TYPE_CHECKING:
    from feedbus.apply import Supervisor
    from feedbus.topology import Topology

NOTHING_CHANGED = "nothing was changed"
CONTINUES = (
    "some changes may be made already; run `feedbus apply` again: it continues where it stopped"
)
# If the number of messages does not change for this time, the line about them reports it. Messages
# can be in handlers meanwhile, for example a large batch.
PATIENCE_SECONDS = 60.0


@click.command(
    "apply",
    epilog="""\b
Examples:
  feedbus apply
  feedbus apply --dry-run            # the same as feedbus plan
  feedbus apply --delete-nonempty orders
""",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@click.option(
    "--delete-nonempty",
    metavar="NAME",
    multiple=True,
    help="Delete this queue with its messages.",
)
@click.option(
    "--yes",
    is_flag=True,
    help="Do not ask for confirmation. Without a terminal, the command never asks.",
)
@click.option(
    "--no-wait", is_flag=True, help="Return after the switch, while the old queues still drain."
)
@click.option(
    "--older-file",
    is_flag=True,
    help="Apply this file, although the current ring is from a newer file of another host.",
)
@click.pass_obj
def command(context: Context, /, **options: Any) -> None:
    """Make the changes that `feedbus plan` shows, while the system runs.

    No message is lost, and the records of each key stay in order. If the command is interrupted,
    run it again: it completes the changes that it has begun.
    """
    progress = Progress()
    with reported(lambda: CONTINUES if progress.begun else NOTHING_CHANGED):
        _apply(context, progress, **options)


def _apply(  # noqa: PLR0913 -- an option each
    context: Context,
    progress: Progress,
    *,
    dry_run: bool,
    delete_nonempty: tuple[str, ...],
    yes: bool,
    no_wait: bool,
    older_file: bool,
) -> None:
    from feedbus import config

    text = config.read(context.topology_path)
    topology = config.load(context.topology_path, text=text, import_handlers=not dry_run)
    if dry_run:
        show(compute_plan(topology, delete_nonempty), as_json=False)
        return
    from feedbus.apply import apply, exclusive

    with exclusive(topology):
        plan = compute_plan(topology, delete_nonempty)
        show(plan, as_json=False)
        if plan.empty and not plan.draining:
            progress.begun = plan.watchers is not None
            if plan.watchers is not None:
                # The text of the file can have changed, for example a comment. Processes that start
                # later read the text that the supervisor has.
                _supervisor(topology, text).change_topology()
            return
        if not (yes or plan.dangers or plan.empty) and sys.stdin.isatty():
            confirm("Make these changes?", NOTHING_CHANGED)
        supervisor = _supervisor(topology, text) if plan.watchers is not None else None
        progress.begun = True
        done = apply(
            topology,
            plan,
            supervisor,
            wait=not no_wait,
            report=progress.report,
            progress=progress.show,
            allow_older_file=older_file,
        )
    if done:
        progress.report(click.style("applied", fg="green", bold=True))
    elif supervisor is None:
        progress.report(
            "switched; the consumers drain the queues of the old generation when you start them"
            " with `feedbus up`"
        )
    elif no_wait:
        reloads = plan.watchers is not None and plan.watchers.reloads
        later = (
            "the next change of topology.toml deletes them"
            if reloads
            else "run `feedbus apply` again later: it deletes them"
        )
        progress.report(f"changed; the consumers still empty old queues; {later}")
    else:
        msg = "not every change was made; the lines above have the reasons"
        raise UsageError(msg)


def _supervisor(topology: Topology, text: str) -> Supervisor:
    """Return the client that sends the running supervisor the requests of `feedbus apply`.

    Args:
        topology: the new topology.
        text: the content of its file, which the supervisor stores.

    """
    from feedbus.supervisor.client import ApplyClient

    return ApplyClient(topology, text, BusyLines().show)


class Progress:
    """Shows how many messages are left in old queues, while `feedbus apply` waits for them.

    A terminal shows the number on one line, which changes. Any other output gets a line every
    LINES_SECONDS.
    """

    def __init__(self) -> None:
        """Create the object; nothing is printed yet."""
        self.begun = False  # whether the command may have changed something
        self._terminal = sys.stdout.isatty()
        self._line_open = False  # whether show() has begun a line of the terminal
        self._last: int | None = None  # the number that was shown last
        self._reported_at = 0.0
        self._changed_at = time.monotonic()  # when the number changed last

    def report(self, line: str) -> None:
        """Print a text on a new line, also after a line that show() has not ended."""
        if self._line_open:
            click.echo()
            self._line_open = False
        click.echo(line)

    def show(self, left: int) -> None:
        """Print how many messages are still to be handled; nothing if there never were any.

        Args:
            left: the number of messages in old queues now.

        """
        if not left and self._last is None:
            return
        now = time.monotonic()
        if left != self._last:
            self._changed_at = now
        stuck = now - self._changed_at > PATIENCE_SECONDS
        text = f"draining: {counted(left, 'message')} left"
        if stuck:
            text += (
                f"; the number has not changed for {PATIENCE_SECONDS:.0f} s; `feedbus plan` lists"
                " the queues, and `feedbus status` the consumers"
            )
        if self._terminal:
            click.echo(f"\r{text:<70}", nl=False)
            self._line_open = True
        elif (left != self._last and (now - self._reported_at > LINES_SECONDS or not left)) or (
            stuck and now - self._reported_at > PATIENCE_SECONDS
        ):
            click.echo(text)
            self._reported_at = now
        self._last = left
