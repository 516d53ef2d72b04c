"""Run circus's arbiter with all watchers in this process, for `feedbus up`.

The arbiter is circus's main object: it has the event loop and the watchers, and answers commands. A
watcher is the object for the processes of one consumer or of one [processes.NAME] table, or for the
operations process.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path

from feedbus.errors import UsageError
from feedbus.process.file_locks import take_lock
from feedbus.process.slots import run_folder
from feedbus.supervisor.applied_settings import write_broker
from feedbus.supervisor.forkserver_client import ForkServer, adopt_orphans
from feedbus.supervisor.log_copies import LogCopies
from feedbus.supervisor.watcher_options import endpoint, supervisor_lock
from feedbus.topology import Topology

CHECK_SECONDS = 1.0  # the time between circus's checks of the processes


def lock_path(topology: Topology) -> Path:
    """Return the path of the lock file of the supervisor, and create its folder."""
    run_folder(topology)
    return supervisor_lock(topology)


def become_supervisor(topology: Topology) -> int:
    """Make this process the only supervisor of the topology's folder `var` until the process ends.

    If a supervised process ends, its child processes become children of this process, so that this
    process can end them.

    Returns:
        The descriptor of the lock; closing it gives up the role of supervisor.

    Raises:
        UsageError: another process is the supervisor.

    """
    adopt_orphans()
    try:
        lock = take_lock(lock_path(topology), patience_seconds=0.5)
    except BlockingIOError as error:
        msg = (
            f"process {error.args[1]} supervises {topology.var} already; apply a changed topology"
            " with `feedbus apply`, stop the process with `feedbus down`, or set another var in the"
            " topology"
        )
        raise UsageError(msg) from None
    write_broker(topology)
    return lock


def supervise(
    topology: Topology,
    on_started: Callable[[list[str], list[str], float], None],
    fork_server: ForkServer | None,
    *,
    copies: LogCopies | None = None,
    reload: bool = False,
) -> None:
    """Start and supervise every process, until a signal or a command ends the supervisor.

    The signals are SIGINT, SIGTERM, SIGQUIT and SIGHUP; the commands are `feedbus down` and
    `circusctl quit`. `feedbus up` calls the function, after become_supervisor() and prepare().

    Args:
        topology: the topology to run.
        on_started: called once: when each watcher is ready or has given up, or after
            supervision.REPORT_AFTER_SECONDS; earlier if the other watchers only hold (they wait,
            for example during an outage). Its arguments: lines about the watchers that are not
            ready and do not hold; lines about the processes that hold, each with the reason; the
            seconds since the start.
        fork_server: starts the first processes; with None, a new Python is started for each.
        copies: copies the lines of every log to stdout; with None, only log files are written.
        reload: whether to apply changes of the project's files.

    """
    from circus.arbiter import Arbiter

    importlib.import_module(
        "feedbus.supervisor.circus_commands"
    )  # the import defines commands, and the arbiter collects all commands when it is created
    from feedbus.supervisor.reloader import Reloader
    from feedbus.supervisor.supervision import Supervision

    os.chdir(topology.root)  # paths of unix sockets are relative, because they must be short
    os.umask(0o077)
    arbiter = Arbiter(
        [],
        endpoint(topology),
        endpoint(topology, "pubsub.sock"),
        check_delay=CHECK_SECONDS,
        umask=0o077,
    )
    supervision = Supervision(
        arbiter, topology, on_started, fork_server=fork_server, copies=copies, reloads=reload
    )
    arbiter.loop.add_callback(supervision.start)
    if reload:
        arbiter.loop.add_callback(Reloader(supervision).run)
    arbiter.start().result()
