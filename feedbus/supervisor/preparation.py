"""Before any process starts, check the handlers and prepare the store and the broker.

The preparation runs in a separate process, so that the supervisor stays small and keeps no
connection.

The preparation also reports queues that the topology no longer has, and that no consumer reads.

If a switch to new queues was interrupted, for example because `feedbus apply` was killed, the
preparation completes the switch. The messages that have arrived during the switch are held in
another queue of the broker, and belong at the end of the old queues. If an old queue is full, its
consumer must read messages before a held message can be published to this queue. So the consumers
are started, and the process of the preparation continues meanwhile.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import time
from pathlib import Path

from feedbus.errors import FeedbusError, Outage, described, error_text
from feedbus.logs import EventLog, configure
from feedbus.process.process_setup import SUPERVISED, follow_parent
from feedbus.process.slots import run_folder
from feedbus.process.slow_server_notices import notices
from feedbus.shortened_tracebacks import shortened_traceback
from feedbus.supervisor.forkserver_client import ForkServer, Program
from feedbus.supervisor.watcher_options import SUPERVISOR
from feedbus.topology import Topology

events = EventLog("feedbus.supervisor")
CHECK_SECONDS = 0.01  # the time between two checks whether the process has ended
AGAIN_SECONDS = 1.0  # the time between two attempts during an outage


def prepare(topology: Topology, fork_server: ForkServer | None) -> bool:
    """Check the handlers and prepare the store and the broker, in a new process.

    `feedbus up` and circusd call the function before they start processes.

    Args:
        topology: the topology.
        fork_server: forks the process; with None, a new Python is started.

    Returns:
        Whether the consumers can be started. If not, the process has printed why.

    Raises:
        FeedbusError: the process cannot be started.

    """
    command = [
        sys.executable,
        "-m",
        "feedbus.supervisor.preparation",
        os.path.relpath(topology.path),
    ]
    environment = os.environ | {SUPERVISED: str(os.getpid())}
    waiting_file = _waiting_file(topology)
    waiting_file.unlink(missing_ok=True)
    # The fork server is importing its modules. Meanwhile, this process imports a module that the
    # supervisor needs later.
    importlib.import_module("feedbus.supervisor.supervision")
    # The new process gets a process group of its own. So a terminal sends Ctrl-C only to this
    # process, which then ends the new process without a traceback.
    try:
        if fork_server is None:
            pid = os.posix_spawn(sys.executable, command, environment, setpgroup=0)
        else:
            pid = fork_server.fork(Program(command, environment, str(Path.cwd())), 1, 2)
    except OSError as error:
        msg = (
            f"cannot start the process that prepares the store and the broker: {error}; correct the"
            " cause, then start again"
        )
        raise FeedbusError(msg) from None
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
        while not ended and not waiting_file.exists():
            time.sleep(CHECK_SECONDS)
            ended, status = os.waitpid(pid, os.WNOHANG)
    except BaseException:
        os.kill(pid, signal.SIGTERM)
        raise
    # If the process has not ended, because it waits for the consumers, the status is 0, too.
    return status == 0


def _waiting_file(topology: Topology) -> Path:
    """Return the path of the file that exists while the preparation waits for a full queue."""
    return run_folder(topology) / "preparation.waits"


def main(path: Path) -> None:
    """Check the handlers and prepare the store and the broker, in this process.

    prepare() starts a process that calls the function.

    Args:
        path: the path of the topology file.

    Raises:
        FeedbusError: a file, a handler, the store or the broker has a problem.

    """
    from feedbus import config
    from feedbus.generations import topology_setup
    from feedbus.plan.unread_queues import find_unread_queues
    from feedbus.store import open_prepared

    if path.parent != Path():
        path = path.absolute()
        os.chdir(path.parent)  # as in consumers: the project can use paths relative to its folder
    topology = config.load(path, import_handlers=True)
    configure(topology.logging.format, consumer=SUPERVISOR)
    logging.getLogger().setLevel(logging.WARNING)  # `up` prints only what somebody has to read
    open_prepared(topology).close()
    waiting_file = _waiting_file(topology)
    while True:
        try:
            topology_setup.set_up(topology, on_full=waiting_file.touch)
        except Outage:
            if not waiting_file.exists():
                raise
            # prepare() has returned, and the consumers run. So nobody would see the error.
            time.sleep(AGAIN_SECONDS)
        else:
            break
    for queue in find_unread_queues(topology):
        events.warning("queue_unread", str(queue), consumer=SUPERVISOR, queue=queue.name)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 -- the supervisor's own stderr


if __name__ == "__main__":
    follow_parent()
    notices.show_with(_print)
    try:
        main(Path(sys.argv[1]))
    except FeedbusError as error:
        _print(error_text(error))
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 -- a function of the project may raise anything
        _print("".join(shortened_traceback(error).format()).rstrip())
        _print(f"error: {described(error)}; the traceback above shows where; nothing was started")
        sys.exit(1)
