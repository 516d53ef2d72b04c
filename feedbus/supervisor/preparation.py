"""Prepare for the processes before any starts: check handlers, the store, the broker.

This runs in a separate process, so that the supervisor stays small and keeps no connection.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path

from feedbus.errors import FeedbusError, error_text
from feedbus.supervisor.forks import ForkServer, Program
from feedbus.topology import Topology


def prepare(topology: Topology, forks: ForkServer | None) -> bool:
    """Check handlers, prepare the store, declare the topology; False (reason on stderr) if not."""
    command = [
        sys.executable,
        "-m",
        "feedbus.supervisor.preparation",
        os.path.relpath(topology.path),
    ]
    importlib.import_module("feedbus.supervisor.supervision")  # while the server imports too
    # In a separate process group: Ctrl-C is sent only to the parent, which ends this process
    # without a traceback.
    try:
        if forks is None:
            pid = os.posix_spawn(sys.executable, command, os.environ, setpgroup=0)
        else:
            pid = forks.fork(Program(command, dict(os.environ), str(Path.cwd())), 1, 2)
    except OSError as error:
        msg = f"cannot start the process that prepares the store and the broker: {error}"
        raise FeedbusError(msg) from None
    try:
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGTERM)
        raise
    return status == 0


def main(path: Path) -> None:
    """Do the work of prepare() in this process."""
    from feedbus import config
    from feedbus.generations import topology_setup
    from feedbus.store import open_prepared

    if path.parent != Path():
        path = path.absolute()
        os.chdir(path.parent)  # as in consumers: paths of the project can be relative to it
    topology = config.load(path, import_handlers=True)
    open_prepared(topology).close()
    topology_setup.set_up(topology)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except FeedbusError as error:
        print(error_text(error), file=sys.stderr)  # noqa: T201 -- the supervisor's own stderr
        sys.exit(1)
