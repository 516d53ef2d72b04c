"""feedbus down: stop everything, after running handlers have finished."""

from __future__ import annotations

import json
from typing import Any

import click

from feedbus.cli.duration_option import DURATION
from feedbus.cli.progress import BusyLines
from feedbus.errors import UsageError


@click.command(
    epilog="""\b
Examples:
  feedbus down                   # every handler finishes its current messages
  feedbus down --timeout 30s     # a process that takes longer is killed
  feedbus down --now             # immediately; messages in a handler are delivered again
"""
)
@click.option(
    "--timeout",
    type=DURATION,
    help="Kill each process that has not ended after this time: 30s, 5m.",
)
@click.option(
    "--now", is_flag=True, help="Kill every process immediately, without waiting for handlers."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.pass_obj
def command(context: Any, *, timeout: float | None, now: bool, as_json: bool) -> None:
    """Stop every process that `feedbus up` or circusd started here, and wait until all have ended.

    Each consumer first finishes the messages in its handler. A consumer that takes longer than its
    stop_timeout (by default longer than its handler_timeout) is killed. Ctrl-C ends only this
    command: the processes continue to stop. If nothing runs, that is not an error.
    """
    from feedbus.supervisor.shutdown import stop

    if now and timeout is not None:
        msg = "--now and --timeout: expected one of them, got both"
        raise UsageError(msg)
    topology = context.load(connects=False)
    lines = BusyLines(quiet=as_json)
    try:
        ran = stop(topology, within_seconds=0.0 if now else timeout, progress=lines.show)
    except KeyboardInterrupt:
        click.echo(
            "\nstopped waiting; the processes continue to end: `feedbus down` waits for them"
            " again, `feedbus down --now` kills them",
            err=True,
        )
        raise
    if as_json:
        click.echo(json.dumps({"stopped": ran}))
    else:
        click.echo("stopped" if ran else f"nothing runs in {topology.var}")
