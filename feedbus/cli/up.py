"""feedbus up: every consumer and process, supervised."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from feedbus import interrupts
from feedbus.cli import Context
from feedbus.errors import FeedbusError, UsageError
from feedbus.printable import printable

if TYPE_CHECKING:
    from feedbus.supervisor.forks import ForkServer
    from feedbus.topology import Topology

PREPARED = b"prepared\n"
COLOURS = {
    "ready": "green",
    "ended": "yellow",
    "stopping": "yellow",
    "gave up": "red",
    "killed": "red",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options of `feedbus up` ask of the supervisor, beside --detach."""

    reload: bool
    logs: bool


@click.command(
    epilog="""\b
Examples:
  feedbus up                     # Ctrl-C stops everything
  feedbus up --detach            # returns when everything is ready
  feedbus up --reload            # follows the files while you write them
  circusctl --endpoint ipc://var/run/circus.sock status
"""
)
@click.option(
    "--detach", is_flag=True, help="Return when everything is ready, and leave it running."
)
@click.option(
    "--reload",
    is_flag=True,
    help="Apply topology.toml when it changes, and restart what runs code that has changed.",
)
@click.option(
    "--logs/--no-logs",
    default=None,
    envvar="FEEDBUS_LOGS",
    show_envvar=True,
    help="Write the log lines of consumers and processes to stdout, too. By default as process 1.",
)
@click.pass_obj
def command(context: Context, *, detach: bool, reload: bool, logs: bool | None) -> None:
    """Start everything that the topology says, and restart what dies.

    The store is prepared and the broker declared first. One supervisor runs in a folder of state.
    Ctrl-C or SIGTERM stops it when every handler has finished what it has; a second Ctrl-C waits
    for none.

    The log files in var/log have the lines of consumers and processes in any case.
    """
    ctx = click.get_current_context()
    if detach and logs and ctx.get_parameter_source("logs") is ParameterSource.COMMANDLINE:
        msg = "--detach and --logs exclude each other: after --detach there is no stdout"
        raise UsageError(msg)
    asked = Asked(reload=reload, logs=os.getpid() == 1 if logs is None else logs)
    interrupts.raise_interrupts(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    try:
        _open_standard_descriptors()
        topology = context.load()
        if detach:
            _detach(topology, asked)
        else:
            _start(topology, asked)
    except KeyboardInterrupt:
        _say("stopped")
        sys.exit(0)


def _open_standard_descriptors() -> None:
    """Let no socket or file of the supervisor become the stdin, stdout or stderr of a process."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free


def _start(topology: Topology, asked: Asked, detached: Detached | None = None) -> None:
    """Prepare the store and the broker, and supervise until the end."""
    from feedbus.supervisor.arbiter import become_supervisor
    from feedbus.supervisor.forks import ForkServer
    from feedbus.supervisor.preparation import prepare

    become_supervisor(topology)
    with ForkServer.start(topology) or contextlib.nullcontext() as forks:
        if not prepare(topology, forks):
            sys.exit(1)  # its reason is on stderr
        if detached is not None:
            detached.prepared()
        _supervise(topology, asked, detached, forks)


def _supervise(
    topology: Topology, asked: Asked, detached: Detached | None, forks: ForkServer | None
) -> None:
    from feedbus.operations.url_file import read_url
    from feedbus.supervisor.arbiter import supervise
    from feedbus.supervisor.log_copies import LogCopies

    total = sum(consumer.queue.processes for consumer in topology.consumers.values())
    total += sum(process.processes for process in topology.supervised.values())
    width = max(map(len, [*topology.consumers, *topology.supervised, "supervisor"]))
    say = _say if detached is None else detached.say
    _print_events(width, say)

    def settled(failures: list[str], holds: list[str], took_seconds: float) -> None:
        for line in holds:
            say(click.style(printable(line), fg="yellow"))
        if failures:
            text = "\n".join(["not everything is ready:", *failures])
            say(click.style(text, fg="red"))
        else:
            text = f"all {total} ready in {took_seconds:.1f} s"
            say(click.style(text, fg="green", bold=True))
        if url := read_url(topology):
            say(f"operations page: {url}")
        if detached is not None:
            detached.settled(failures, holds, took_seconds)

    say(f"starting {total} processes of {topology.path}, logs in {topology.var / 'log'}")
    copies = LogCopies(width) if asked.logs and detached is None else None
    follow = (lambda line: say(printable(line))) if asked.reload else None
    supervise(topology, settled, forks, copies=copies, reload=follow)
    say("stopped")


def _say(text: str) -> None:
    # A terminal that is gone or a pipe that is closed must not trouble what runs.
    with contextlib.suppress(OSError):
        click.echo(text)


def _print_events(width: int, say: Callable[[str], None]) -> None:
    class Printer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            name, what, detail = record.args  # type: ignore[misc]
            clock = click.style(
                logging.Formatter("%(asctime)s", "%H:%M:%S").format(record), dim=True
            )
            coloured = click.style(f"{what:<8}", fg=COLOURS.get(str(what)))
            say(f"{clock}  {name:<{width}}  {coloured}  {printable(str(detail))}")

    logging.getLogger("circus").setLevel(logging.WARNING)
    events = logging.getLogger("feedbus.supervisor")
    events.setLevel(logging.INFO)
    events.propagate = False
    events.addHandler(Printer())


class Detached:
    """A supervisor without a terminal: its log, and the pipe to the command that waits for it."""

    def __init__(self, topology: Topology, pipe: int) -> None:
        """Report to the writing end of a pipe."""
        from feedbus.supervisor.watchers import own_log

        self._log = own_log(topology)
        self._pipe = pipe

    def prepared(self) -> None:
        """Report that the broker and the store are ready, and write to the log from now on."""
        os.write(self._pipe, PREPARED)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        self._log.open()

    def say(self, text: str) -> None:
        """Write a line to the log."""
        self._log({"data": click.unstyle(text).encode() + b"\n"})

    def settled(self, failures: list[str], holds: list[str], took_seconds: float) -> None:
        """Report how the start has gone."""
        with contextlib.suppress(OSError):  # nobody waits any more
            os.write(self._pipe, json.dumps([failures, holds, took_seconds]).encode() + b"\n")
        os.close(self._pipe)


def _detach(topology: Topology, asked: Asked) -> None:
    from feedbus.supervisor.watchers import log_path

    log = log_path(topology, "supervisor")
    reader, writer = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        os.close(reader)
        os.setsid()
        try:
            _start(topology, asked, Detached(topology, writer))
        except KeyboardInterrupt:
            sys.exit(0)
        return
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as pipe:
            if pipe.readline() != PREPARED:
                _, status = os.waitpid(supervisor, 0)
                sys.exit(os.waitstatus_to_exitcode(status))  # it has said why
            answer = pipe.read()
    except KeyboardInterrupt:
        os.kill(supervisor, signal.SIGTERM)  # it is in another session than the terminal
        os.waitpid(supervisor, 0)
        raise
    if not answer:
        msg = f"the supervisor ended before everything was ready; see {log}"
        raise FeedbusError(msg)
    failures, holds, took_seconds = json.loads(answer)
    for line in holds:
        click.echo(printable(line), err=True)
    if failures:
        msg = "\n".join(["not everything is ready:", *failures, "`feedbus down` ends the rest"])
        raise FeedbusError(msg)
    click.echo(f"everything is ready after {took_seconds:.1f} s; logs are in {log.parent}")
