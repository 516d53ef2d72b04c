"""Run the system for the duration of a demo, and restart it if it ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Self

from feedbus.errors import FeedbusError
from feedbus.supervisor import client, shutdown
from feedbus.topology import Topology

READY_SECONDS = 300.0  # a busy machine needs more than a minute
STOP_SECONDS = 30.0
LOOK_SECONDS = 0.1
MOST_STARTS = 20


class Running:
    """`feedbus up` as a child process of a demo, in a `with` block.

    If the child process is killed, keep_up() starts it again.
    """

    def __init__(
        self,
        topology: Topology,
        environment: Mapping[str, str],
        log: Path,
        *,
        most_starts: int = MOST_STARTS,
    ) -> None:
        """Create the object; the system is started at the beginning of the `with` block.

        Args:
            topology: the topology of the system.
            environment: the environment variables of the child process.
            log: the file to which the output of the child process is appended.
            most_starts: how often the system is started at most, including the first start.

        """
        self._topology = topology
        self._most_starts = most_starts
        self._environment = dict(environment)
        self._log = log
        self._output: IO[bytes] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def __enter__(self) -> Self:
        """Start the system."""
        self._log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._output = self._log.open("ab")
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the system, and wait until all its processes have ended."""
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(STOP_SECONDS)
        shutdown.stop(self._topology)
        if self._child is not None:
            self._child.wait(STOP_SECONDS)
        if self._output is not None:
            self._output.close()

    def keep_up(self) -> None:
        """Start the system again if it has ended; a demo calls the method while it waits.

        Raises:
            FeedbusError: it has already been started the largest number of times.

        """
        if self._child is not None and self._child.poll() is None:
            return
        if self._starts >= self._most_starts:
            msg = f"feedbus up ended {self._starts} times; its last output is in {self._log}"
            raise FeedbusError(msg)
        self._start()

    def wait_until_ready(self) -> int:
        """Wait until every process of the system is ready; return their number.

        Raises:
            FeedbusError: some processes are not ready in time, the system has ended, or the
                supervisor does not start a process again, because it failed too often.

        """
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._child is None or self._child.poll() is not None:
                break
            with contextlib.suppress(FeedbusError):
                answer = client.state(self._topology)
                watchers = answer["watchers"].values() if answer else []
                if watchers and all(one["state"] == "running" for one in watchers):
                    return sum(len(one["processes"]) for one in watchers)
                if any(one["state"] == "gave up" for one in watchers):
                    break
            time.sleep(LOOK_SECONDS)
        reported = self._log.read_text(errors="replace").strip().splitlines()
        msg = "some processes of feedbus up are not ready:\n" + "\n".join(reported[-10:])
        raise FeedbusError(msg)

    def _start(self) -> None:
        self._starts += 1
        words = [sys.executable, "-m", "feedbus", "--topology", str(self._topology.path), "up"]
        self._child = subprocess.Popen(
            words, cwd=self._topology.root, env=self._environment, stdout=self._output,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
