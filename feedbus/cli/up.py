"""feedbus up: every consumer and process, supervised."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from feedbus.errors import FeedbusError
from feedbus.printable import printable

if TYPE_CHECKING:
    from feedbus.supervisor.forks import ForkServer
    from feedbus.topology import Topology

PREPARED = b"prepared\n"
COLOURS = {"ready": "green", "ended": "yellow", "gave up": "red"}


@click.command(
    epilog="""\b
Examples:
  feedbus up                     # Ctrl-C stops everything
  feedbus up --detach            # returns when everything is ready
  circusctl --endpoint ipc://var/run/circus.sock status
"""
)
@click.option(
    "--detach", is_flag=True, help="Return when everything is ready, and leave it running."
)
@click.pass_obj
def command(context: Any, detach: bool) -> None:  # noqa: FBT001 -- click passes a flag
    """Start everything that the topology says, and restart what dies.

    The store is prepared and the broker declared first. One supervisor runs in a folder of state.
    """
    topology = context.load()
    if detach:
        _detach(topology)
    else:
        _start(topology)


def _start(topology: Topology, prepared: Callable[[], int] | None = None) -> None:
    """Prepare the ground, and supervise until the end.

    Args:
        topology: what is to run.
        prepared: called between the two; what it returns is told how the start has gone.

    """
    from feedbus.supervisor.arbiter import become_supervisor
    from feedbus.supervisor.forks import ForkServer
    from feedbus.supervisor.ground import prepare

    become_supervisor(topology)
    with ForkServer.start(topology) or contextlib.nullcontext() as forks:
        try:
            if not prepare(topology, forks):
                sys.exit(1)  # its reason is on stderr
        except KeyboardInterrupt:
            click.echo("stopped")
            sys.exit(0)
        _supervise(topology, prepared() if prepared else None, forks)


def _supervise(topology: Topology, tell: int | None, forks: ForkServer | None) -> None:
    from feedbus.supervisor.arbiter import supervise

    total = sum(consumer.queue.processes for consumer in topology.consumers.values())
    total += sum(process.processes for process in topology.processes.values())
    width = max(map(len, [*topology.consumers, *topology.processes]), default=0)
    _print_events(width)

    def settled(failures: list[str], took_seconds: float) -> None:
        if failures:
            text = "\n".join(["not everything is ready:", *failures])
            _say(click.style(text, fg="red"))
        else:
            text = f"all {total} ready in {took_seconds:.1f} s"
            _say(click.style(text, fg="green", bold=True))
        if tell is not None:
            os.write(tell, json.dumps([failures, took_seconds]).encode() + b"\n")
            os.close(tell)

    click.echo(f"starting {total} processes of {topology.path}, logs in {topology.var / 'log'}")
    supervise(topology, settled, forks)
    _say("stopped")


def _say(text: str) -> None:
    # A terminal that is gone or a pipe that is closed must not trouble what runs.
    with contextlib.suppress(OSError):
        click.echo(text)


def _print_events(width: int) -> None:
    class Printer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            name, what, detail = record.args  # type: ignore[misc]
            clock = click.style(
                logging.Formatter("%(asctime)s", "%H:%M:%S").format(record), dim=True
            )
            coloured = click.style(f"{what:<8}", fg=COLOURS.get(str(what)))
            _say(f"{clock}  {name:<{width}}  {coloured}  {printable(str(detail))}")

    logging.getLogger("circus").setLevel(logging.WARNING)
    events = logging.getLogger("feedbus.supervisor")
    events.setLevel(logging.INFO)
    events.propagate = False
    events.addHandler(Printer())


def _detach(topology: Topology) -> None:
    from feedbus.supervisor.watchers import log_path

    log = log_path(topology, "supervisor")
    heard, tell = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        os.close(heard)
        os.setsid()

        def prepared() -> int:
            os.write(tell, PREPARED)
            output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((nothing, 0), (output, 1), (output, 2)):
                os.dup2(source, target)
            return tell

        _start(topology, prepared)
        return
    os.close(tell)
    with os.fdopen(heard, "rb") as pipe:
        _wait_until_prepared(pipe, supervisor)
        told = pipe.read()
    if not told:
        msg = f"the supervisor ended before everything was ready; see {log}"
        raise FeedbusError(msg)
    failures, took_seconds = json.loads(told)
    if failures:
        msg = "\n".join(["not everything is ready:", *failures, "`feedbus down` ends the rest"])
        raise FeedbusError(msg)
    click.echo(f"everything is ready after {took_seconds:.1f} s; logs are in {log.parent}")


def _wait_until_prepared(pipe: BinaryIO, supervisor: int) -> None:
    """Wait for a supervisor that speaks for itself until then, and end as it did if it has."""
    while True:
        try:
            prepared = pipe.readline() == PREPARED
            break
        except KeyboardInterrupt:
            os.kill(supervisor, signal.SIGINT)  # it is in another session than the terminal
    if not prepared:
        _, status = os.waitpid(supervisor, 0)
        sys.exit(os.waitstatus_to_exitcode(status))
