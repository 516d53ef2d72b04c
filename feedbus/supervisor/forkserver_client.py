"""Start many Python processes fast: fork each from a process that has imported their modules.

The fork server is feedbus.supervisor.forkserver, a separate process. It ends when all processes are
started. A process that is started later imports everything again, and so runs the current code.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Pipe
from multiprocessing.reduction import send_handle
from typing import Self

from feedbus.supervisor.watcher_options import KEEP_BYTECODE
from feedbus.topology import Topology

PR_SET_CHILD_SUBREAPER = 36
PRELOADED = ("feedbus.cli.run", "feedbus.runner")  # the modules that the watchers' commands import
# The time limit for the server's imports and for a fork; it is enough on a slow and busy machine.
PATIENCE_SECONDS = 30.0
# A process title is written over the arguments and the environment of the process. This variable
# makes the environment longer, so that there is room for a title.
TITLE_ROOM = {"FEEDBUS_TITLE_ROOM": " " * 2000}


@dataclass(frozen=True, slots=True)
class Program:
    """A Python program, which ForkServer.fork() starts as a process.

    Attributes:
        command: the program and its arguments.
        environment: all environment variables of the program.
        folder: the working directory of the program.

    """

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: str


class ForkServer:
    """The supervisor's connection to a fork server, which starts programs.

    The fork server is a process with imported libraries, so that its forks start fast. The programs
    become children of the supervisor. The object is closed when all processes are started.
    """

    @classmethod
    def start(cls, topology: Topology) -> Self | None:
        """Start a fork server for the consumers of a topology.

        Returns:
            The connection to the fork server. None on other systems than Linux: there this process
            cannot become the parent of the programs.

        """
        return cls(topology) if sys.platform == "linux" else None

    def __init__(self, topology: Topology) -> None:
        """Start the server, which imports the libraries of the topology's consumers.

        The caller has called adopt_orphans(), so this process becomes the parent of the forked
        programs.
        """
        self._connection, other = Pipe()
        command = [sys.executable, "-m", "feedbus.supervisor.forkserver"]
        with other:
            self._process = subprocess.Popen(
                [*command, str(other.fileno()), str(topology.path), *PRELOADED],
                stdin=subprocess.DEVNULL,
                env=os.environ | KEEP_BYTECODE | TITLE_ROOM,
                pass_fds=[other.fileno()],
                process_group=0,  # so Ctrl-C in a terminal does not reach the server
            )

    def __enter__(self) -> Self:
        """Return the server; the end of the `with` block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the server."""
        self.close()

    def fork(self, program: Program, stdout: int, stderr: int) -> int:
        """Start a program as a child of this process, in its own session.

        Args:
            program: the program to run.
            stdout: the descriptor for its output. The child gets a copy; the caller closes its own.
            stderr: the descriptor for its errors. The child gets a copy, too.

        Returns:
            The id of the new process, for which this process can call os.waitpid().

        Raises:
            ConnectionError: the server does not answer. The method has called close().
            OSError: the operating system refuses to start the program.

        """
        umask = os.umask(0o077)
        os.umask(umask)
        try:
            self._connection.send((program, umask))
            for descriptor in (stdout, stderr):
                send_handle(self._connection, descriptor, self._process.pid)
            answer = self._connection.recv() if self._connection.poll(PATIENCE_SECONDS) else None
        except (EOFError, OSError):
            answer = None
        if answer is None:
            self.close()
            msg = "the fork server has ended or does not answer"
            raise ConnectionError(msg)
        if isinstance(answer, OSError):
            raise answer
        return int(answer)

    def close(self) -> None:
        """End the fork server's process; the programs that it has started continue to run."""
        if self.closed:
            return
        self._connection.close()
        self._process.kill()  # a server that does not answer may not end by SIGTERM either
        self._process.wait()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def closed(self) -> bool:
        """Whether close() was called, so that the fork server accepts no more requests."""
        return self._connection.closed


def adopt_orphans(*, wanted: bool = True) -> None:
    """Make this process the parent of descendants whose parent ends (see prctl(2)).

    A process calls it when it becomes the supervisor. On other systems than Linux, nothing happens.

    Args:
        wanted: False ends this setting.

    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)
