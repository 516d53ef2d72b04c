"""The process from which consumers are forked: `python -m feedbus.supervisor.forkserver`.

The fork server is a child of the supervisor. It imports feedbus and its libraries, but no module of
the project: such a module may start threads, which a fork does not copy.

A forked consumer must become a child of the supervisor, too. So for each request, the fork server
forks an intermediate process, which forks the consumer and ends. The supervisor has called
adopt_orphans(), so Linux makes it the parent of the consumer.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import runpy
import shlex
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import cast

from setproctitle import setproctitle

from feedbus.process.process_setup import default_signals
from feedbus.supervisor.forkserver_client import Program

ADOPTION_SECONDS = 0.0005  # the time between two checks whether the supervisor is the parent


def main(handle: int, topology_path: Path, modules: Sequence[str]) -> None:
    """Import modules, and fork a child for each request; in the child, run the requested program.

    The fork server's process calls the function. It returns only in a child, when its program has
    ended.

    Args:
        handle: the descriptor of the connection to the supervisor.
        topology_path: the topology whose consumers are forked.
        modules: the names of the modules to import before the first fork.

    """
    # The first call of setproctitle() finds the memory for process titles. Children use this
    # memory, too.
    setproctitle(f"feedbus fork server of {topology_path}")
    default_signals()
    gc.disable()
    preload(topology_path, modules)
    # The children share the memory of the imported modules. Without freeze(), a garbage collection
    # in a child would write to this memory, and so copy it.
    gc.freeze()
    gc.enable()
    program = serve(Connection(handle))
    setproctitle(shlex.join(program.command))
    _, _, module, *arguments = program.command  # the command is `python -m MODULE ARGUMENTS`
    sys.argv = [module, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = program.folder
    sys.modules.pop(module, None)  # runpy warns of a module that is already imported
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def preload(topology_path: Path, modules: Sequence[str]) -> None:
    """Import modules and the libraries that consumers of the topology need, before the first fork.

    Args:
        topology_path: the topology file; it selects the libraries of the broker and the store.
        modules: the names of further modules.

    """
    for module in modules:
        importlib.import_module(module)
    from feedbus import broker, config
    from feedbus.errors import FeedbusError
    from feedbus.store import load_driver

    with contextlib.suppress(FeedbusError):  # the consumer itself reports the problem
        topology = config.load(topology_path)
        broker.load_transport(topology)
        load_driver(topology)


def serve(connection: Connection) -> Program:
    """Fork a child for each request; return only in the child, with its program.

    The fork server itself ends when the supervisor closes the connection.

    Args:
        connection: the connection to the supervisor, which sends the requests.

    """
    while True:
        try:
            program, umask = connection.recv()
            stdout, stderr = recv_handle(connection), recv_handle(connection)
        except EOFError:
            os._exit(0)
        intermediate_pid = os.fork()
        if intermediate_pid == 0:
            _fork_again(connection)
            os.umask(umask)
            _set_up_child(connection, program, stdout, stderr)
            return cast("Program", program)
        os.waitpid(intermediate_pid, 0)
        os.close(stdout)
        os.close(stderr)


def _fork_again(connection: Connection) -> None:
    """Fork again, and end this process, so that the supervisor becomes the parent of the new child.

    This process is a child of the fork server. The function returns only in the new child, when the
    supervisor has become its parent.

    Args:
        connection: the connection to the supervisor, which gets the error if the fork fails.

    """
    intermediate_pid = os.getpid()
    try:
        child = os.fork()
    except OSError as error:
        connection.send(error)
        os._exit(1)
    if child:
        os._exit(0)
    while os.getppid() == intermediate_pid:
        time.sleep(ADOPTION_SECONDS)


def _set_up_child(connection: Connection, program: Program, stdout: int, stderr: int) -> None:
    """Set the session, folder, environment and output of this child, then send its process id."""
    with connection:
        os.setsid()
        os.environ.clear()
        os.environ.update(program.environment)
        try:
            os.chdir(program.folder)
        except OSError as error:
            connection.send(error)
            os._exit(1)
        for given, usual in ((stdout, 1), (stderr, 2)):
            os.dup2(given, usual)
            os.close(given)
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        connection.send(os.getpid())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
