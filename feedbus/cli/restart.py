"""feedbus restart: restart processes, so that they run the current code."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from feedbus.cli import Context
from feedbus.cli.interruption import reported
from feedbus.cli.name_completion import RUNNING
from feedbus.cli.name_expansion import expanded
from feedbus.cli.progress import BusyLines
from feedbus.errors import FeedbusError, UsageError
from feedbus.units import counted

if TYPE_CHECKING:
    from feedbus.topology import Topology

READY_SECONDS = 60.0  # how long a restarted process may take to become ready


@click.command(
    "restart",
    epilog="""\b
Examples:
  feedbus restart                    # everything, one after the other
  feedbus restart update_feed        # all shards of a queue
  feedbus restart update_feed_3 web
""",
)
@click.argument("names", metavar="[NAME]...", nargs=-1, type=RUNNING)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.pass_obj
def command(context: Context, *, names: tuple[str, ...], as_json: bool) -> None:
    """Restart consumers and processes one after the other, in the topology's order.

    Each consumer first finishes the messages in its handler. The next process is restarted when
    this one is ready again. All other processes continue to run. Before the first restart, the
    handlers are imported; if that fails, nothing is restarted. If a process does not become ready
    within 60 s, the command ends with exit code 1, and does not restart the processes that follow.
    A process that holds because a resource of its handler cannot be opened is not ready.
    """
    topology = context.load(import_handlers=True, connects=False)
    chosen = _chosen(topology, names)
    width = max(map(len, chosen))
    restarted: list[dict[str, Any]] = []
    failed = ""
    for name in chosen:
        started = time.monotonic()
        with reported(lambda: _interrupted(chosen, len(restarted))):
            failed, pids = _restart(topology, name, quiet=as_json)
        seconds = round(time.monotonic() - started, 1)
        restarted.append({"name": name, "ready": not failed, "seconds": seconds, "pids": pids})
        if failed:
            break
        if not as_json:
            click.echo(f"{name:<{width}}  {click.style('ready', fg='green')}  after {seconds} s")
    rest = chosen[len(restarted) :]
    if as_json:
        click.echo(json.dumps({"restarted": restarted, "error": failed, "untouched": rest}))
    elif failed:
        still = f"; not restarted: {', '.join(rest)}" if rest else ""
        raise FeedbusError(failed + still)
    else:
        restarted_text = counted(len(chosen), "consumer or process", "consumers and processes")
        click.echo(f"{restarted_text} restarted")
    if failed:
        sys.exit(1)


def _interrupted(chosen: Sequence[str], position: int) -> str:
    """Return what an interrupted command has restarted, and how to continue it.

    Args:
        chosen: the names of all watchers to restart. A watcher is the supervisor's object for the
            processes of one consumer or of one other process.
        position: the position in `chosen` of the watcher whose restart was interrupted.

    """
    text = f"restarted: {', '.join(chosen[:position]) or 'none'}"
    text += f"; the supervisor still restarts {chosen[position]}"
    if rest := chosen[position + 1 :]:
        text += f"; for the rest, run `feedbus restart {' '.join(rest)}`"
    return text


def _chosen(topology: Topology, names: Sequence[str]) -> list[str]:
    """Return the names of the consumers and processes to restart, in the topology's order.

    Args:
        topology: the topology.
        names: names of consumers, processes and queues; a queue stands for all its shards. Without
            names, all consumers and processes are returned.

    Raises:
        UsageError: nothing runs, a name is unknown or not applied yet, or another version of
            feedbus runs.

    """
    from feedbus.supervisor.client import state
    from feedbus.supervisor.outdated_processes import other_version

    found = state(topology)
    if found is None:
        msg = f"nothing runs in {topology.var}; start it with `feedbus up`"
        raise UsageError(msg)
    if note := other_version(found):
        raise UsageError(note)
    chosen = expanded(topology, names)
    absent = [name for name in chosen if name not in found["watchers"]]
    if absent:
        msg = f"{', '.join(absent)}: not started yet; run `feedbus apply` to start it"
        raise UsageError(msg)
    return chosen


def _restart(topology: Topology, name: str, *, quiet: bool) -> tuple[str, list[int]]:
    """Restart one consumer or process, and wait until it is ready.

    Args:
        topology: the topology.
        name: the name of the consumer or process.
        quiet: whether to print nothing while the old processes end.

    Returns:
        "" and the new process ids. If the consumer or process does not become ready: the reason,
        and no ids.

    """
    from feedbus.supervisor.client import all_ready
    from feedbus.supervisor.watcher_options import log_path

    lines = BusyLines(quiet=quiet)
    seen: Mapping[str, Any] = {}
    for seen in _states(topology, name, lines):
        if seen["state"] == "gave up":
            text = (
                f"{name}: the supervisor does not restart it any more; its last process ended with"
                f" {seen['last_exit']}; read {log_path(topology, name)}, correct the cause, and run"
                f" `feedbus restart {name}` again"
            )
            return text, []
        if seen["state"] in {"running", "holding"} and all_ready(seen):
            return "", [one["pid"] for one in seen["processes"]]
    reasons = dict.fromkeys(one["holding"] for one in seen["processes"] if one["holding"])
    why = (
        f"it holds, and continues by itself: {'; '.join(reasons)}"
        if reasons
        else f"state: {seen['state']}"
    )
    text = f"{name} is not ready after {READY_SECONDS:.0f} s ({why}); read"
    return f"{text} {log_path(topology, name)}", []


def _states(topology: Topology, name: str, lines: BusyLines) -> Iterator[Mapping[str, Any]]:
    """Restart one consumer or process, and yield its state repeatedly.

    The first state comes after the old processes have ended. The iteration ends READY_SECONDS
    later, so that the new processes can become ready.

    Args:
        topology: the topology.
        name: the name of the consumer or process.
        lines: prints the old processes that have not ended yet.

    Yields:
        The state as a mapping. For example, its key "state" is "running".

    """
    from feedbus.supervisor.client import restart

    try:
        states = restart(topology, name, lines.show)
        deadline = None
        for seen in states:
            deadline = deadline or time.monotonic() + READY_SECONDS
            yield seen
            if time.monotonic() > deadline:
                return
    finally:
        lines.clear()
