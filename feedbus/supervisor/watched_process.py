"""One process of a circus watcher, forked if that is faster than a new Python."""

from __future__ import annotations

import os
import time
from typing import Any

import psutil
from circus.process import Process

from feedbus.supervisor.forkserver_client import ForkServer, Program


class WatchedProcess(Process):
    """One process of a watcher, which is started by the fork server if there is one.

    circus makes one WatchedProcess object for each start.

    Attributes:
        stop_asked_at: when the process was asked to end, in seconds of time.monotonic(); None
            before.
        kill_at: when the process is killed if it has not ended, in seconds of time.monotonic().

    """

    def __init__(self, *arguments: Any, fork_server: ForkServer | None, **options: Any) -> None:
        """Create the object with circus's arguments and, if there is one, the fork server."""
        self._forks = fork_server
        self.stop_asked_at: float | None = None
        self.kill_at = 0.0
        super().__init__(*arguments, **options)

    def spawn(self) -> None:
        """Start the process, for circus, which logs an OSError and tries again."""
        if self._forks is None or self._forks.closed:
            super().spawn()
            return
        self.started = time.time()
        program = Program(self.format_args(), self.env, self.working_dir)
        self._worker = Forked(self._forks, program)


class Forked(psutil.Process):
    """A process that the fork server has started, with the methods of Popen that circus calls."""

    def __init__(self, fork_server: ForkServer, program: Program) -> None:
        """Fork a program, with pipes for its output."""
        self.returncode: int | None = None
        stdout, its_stdout = os.pipe()
        stderr, its_stderr = os.pipe()
        try:
            super().__init__(fork_server.fork(program, its_stdout, its_stderr))
        except BaseException:
            os.close(stdout)
            os.close(stderr)
            raise
        finally:
            os.close(its_stdout)
            os.close(its_stderr)
        self.stdout, self.stderr = os.fdopen(stdout, "rb"), os.fdopen(stderr, "rb")

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while the process runs."""
        if self.returncode is None:
            try:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.returncode = 0  # circus has reaped the process, and knows the real exit code
            else:
                if ended:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode
