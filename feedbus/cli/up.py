"""feedbus up: start and supervise every consumer and process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from feedbus.cli import STARTED, Context
from feedbus.errors import FeedbusError, UsageError
from feedbus.logs import JSON, EventLog
from feedbus.printable import printable
from feedbus.process import interrupts
from feedbus.units import counted

if TYPE_CHECKING:
    from feedbus.supervisor.forkserver_client import ForkServer
    from feedbus.topology import Topology

PREPARED = b"prepared\n"  # the line that Detached.prepared() writes to the pipe
events = EventLog("feedbus.supervisor")


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The options of `feedbus up` for the supervisor, except --detach.

    Attributes:
        reload: whether to apply changes of the project's files.
        logs: whether to write the lines of all logs to stdout, too.

    """

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
    "--detach",
    is_flag=True,
    help="Return when every process is ready; they run in the background. A process that holds, for"
    " example during an outage, continues by itself: the command waits 5 s for it, and names it. If"
    " another process is not ready after 60 s, the exit code is 1, and the processes run anyway.",
)
@click.option(
    "--reload",
    is_flag=True,
    help="Apply topology.toml when it changes, and restart the processes whose code has changed.",
)
@click.option(
    "--logs/--no-logs",
    default=None,
    envvar="FEEDBUS_LOGS",
    show_envvar=True,
    help="Write the log lines of consumers and processes to stdout, too. This is the default if "
    "feedbus is process 1, as in a container.",
)
@click.pass_obj
def command(context: Context, *, detach: bool, reload: bool, logs: bool | None) -> None:
    """Start every consumer and process of the topology, and restart a process that ends.

    First it prepares the store, and declares the missing exchanges and queues on the broker. If
    shards or their weights have changed, it switches their ring to a new generation. If another
    queue or an exchange has changed, it ends with an error: only `feedbus apply` replaces a queue.

    Only one supervisor can run for a folder `var`. Ctrl-C or SIGTERM stops it: each handler
    finishes the message that it is handling. A second Ctrl-C stops it without waiting for handlers.

    Log lines of consumers and processes are always written to the files in var/log.
    """
    ctx = click.get_current_context()
    if detach and logs and ctx.get_parameter_source("logs") is ParameterSource.COMMANDLINE:
        msg = "--detach and --logs exclude each other: after --detach there is no stdout"
        raise UsageError(msg)
    options = UpOptions(reload=reload, logs=os.getpid() == 1 if logs is None else logs)
    interrupts.raise_interrupts(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    try:
        _open_standard_descriptors()
        topology = context.load()
        if detach:
            _detach(topology, options)
        else:
            _start(topology, options)
    except KeyboardInterrupt:
        click.echo("stopped")
        sys.exit(0)


def _open_standard_descriptors() -> None:
    """Open closed descriptors 0 to 2, so that no socket or file gets their numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # this gets the lowest free number


def _start(topology: Topology, options: UpOptions, detached: Detached | None = None) -> None:
    """Prepare the store and the broker, and supervise until a signal.

    Args:
        topology: the topology to run.
        options: the options of the command.
        detached: with --detach, the object that reports to the waiting command.

    """
    from feedbus.supervisor.arbiter import become_supervisor
    from feedbus.supervisor.forkserver_client import ForkServer
    from feedbus.supervisor.preparation import prepare

    become_supervisor(topology)
    with ForkServer.start(topology) or contextlib.nullcontext() as fork_server:
        if not prepare(topology, fork_server):
            sys.exit(1)  # prepare() has written the reason to stderr
        if detached is not None:
            detached.prepared()
        _supervise(topology, options, detached, fork_server)


def _supervise(
    topology: Topology,
    options: UpOptions,
    detached: Detached | None,
    fork_server: ForkServer | None,
) -> None:
    from feedbus.operations.url_file import read_url
    from feedbus.supervisor.arbiter import supervise
    from feedbus.supervisor.event_output import name_width, write_events
    from feedbus.supervisor.log_copies import LogCopies
    from feedbus.supervisor.watcher_options import SUPERVISOR

    total = sum(consumer.queue.processes for consumer in topology.consumers.values())
    total += sum(process.processes for process in topology.supervised.values())
    write_events(topology, detached.log if detached is not None else None)

    def report_start(failures: list[str], holds: list[str], took_seconds: float) -> None:
        for line in holds:
            text = f"{line}; feedbus tries again"
            events.warning("consumer_paused", text, consumer=SUPERVISOR)
        if failures:
            text = "some processes are not ready; the supervisor continues to run"
            events.error("not_all_ready", text, consumer=SUPERVISOR, detail="\n".join(failures))
        else:
            done = "run" if holds else "are ready"
            text = f"all {total} processes {done}, after {took_seconds:.1f} s"
            events.info("all_ready", text, consumer=SUPERVISOR)
        if url := read_url(topology):
            events.info("listening", f"operations page: {url}", consumer=SUPERVISOR, url=url)
        if detached is not None:
            detached.report_start(failures, holds)

    processes = counted(total, "process", "processes")
    text = f"starting {processes} of {topology.path}; their logs are in {topology.var / 'log'}"
    events.info("starting", text, consumer=SUPERVISOR)
    copies = None
    if options.logs and detached is None:
        # Log lines in JSON get no name before them, because such a line would not be JSON.
        copies = LogCopies(0 if topology.logging.format == JSON else name_width(topology))
    supervise(topology, report_start, fork_server, copies=copies, reload=options.reload)
    events.info("stopped", "every process has ended", consumer=SUPERVISOR)


class Detached:
    """A supervisor in the background, for `feedbus up --detach`.

    It has a log file and a pipe to the command, which waits until the processes are ready.
    """

    def __init__(self, topology: Topology, pipe: int) -> None:
        """Create the object with the writing end of a pipe, to which it reports."""
        from feedbus.supervisor.watcher_options import own_log

        self.log = own_log(topology)
        self._pipe = pipe

    def prepared(self) -> None:
        """Report that the broker and the store are ready; from now on, write to the log file.

        `feedbus up` calls the method in the supervisor. stdout and stderr are redirected to the
        file.
        """
        os.write(self._pipe, PREPARED)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        self.log.open()

    def report_start(self, failures: list[str], holds: list[str]) -> None:
        """Report to the waiting command whether all processes have started.

        Args:
            failures: lines about the watchers that are not ready. A watcher is the supervisor's
                object for the processes of one consumer or of one [processes.NAME] table, or for
                the operations process.
            holds: lines about the watchers whose processes hold: they wait, for example during an
                outage.

        """
        with contextlib.suppress(OSError):  # the command that waits for the report may have ended
            os.write(self._pipe, json.dumps([failures, holds]).encode() + b"\n")
        os.close(self._pipe)


def _detach(topology: Topology, options: UpOptions) -> None:
    """Fork the supervisor, and wait until it reports on a pipe that the processes have started.

    In the forked process, the function returns when the supervisor has ended.

    Raises:
        FeedbusError: the supervisor has ended, or some processes are not ready.

    """
    from feedbus.supervisor.watcher_options import log_path

    log = log_path(topology, "supervisor")
    reader, writer = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        os.close(reader)
        os.setsid()
        try:
            _start(topology, options, Detached(topology, writer))
        except KeyboardInterrupt:
            sys.exit(0)
        return
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as pipe:
            if pipe.readline() != PREPARED:
                _, status = os.waitpid(supervisor, 0)
                # The supervisor has already printed the reason.
                sys.exit(os.waitstatus_to_exitcode(status))
            answer = pipe.read()
    except KeyboardInterrupt:
        # The supervisor is not in the terminal's session, so Ctrl-C does not reach it.
        os.kill(supervisor, signal.SIGTERM)
        os.waitpid(supervisor, 0)
        raise
    if not answer:
        msg = f"the supervisor ended before every process was ready; {log} has the reason"
        raise FeedbusError(msg)
    failures, holds = json.loads(answer)
    for line in holds:
        click.echo(printable(f"{line}; it continues by itself"), err=True)
    if failures:
        remedy = "the other processes run; `feedbus down` stops them"
        msg = "\n".join(["some processes are not ready:", *failures, remedy])
        raise FeedbusError(msg)
    seconds = time.monotonic() - STARTED
    if holds:
        click.echo(f"every process runs after {seconds:.1f} s; logs are in {log.parent}")
    else:
        click.echo(f"everything is ready after {seconds:.1f} s; logs are in {log.parent}")
