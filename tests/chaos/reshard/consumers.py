"""Consumers that are started again when they end, and killed at random when a test asks for it."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from typing import Self

from feedbus.process.slots import slot_path
from feedbus.process.status_files import ready_since
from tests.chaos.reshard.project import ROOT, Project

RESTART_SECONDS = 0.3
SPARED_SECONDS = 2.0


class Consumers:
    """The processes of a project's consumers, watched by a thread; all end with it."""

    def __init__(
        self, project: Project, seed: int, pause_seconds: tuple[float, float], most_kills: float
    ) -> None:
        """Create the object without consumers; run() starts them.

        Args:
            project: the project whose consumers they are.
            seed: decides when and which consumers are killed.
            pause_seconds: the least and the longest time between two kills.
            most_kills: the largest number of kills.

        """
        self.kills = 0
        self._project = project
        self._random = random.Random(seed)
        self._pause_seconds = pause_seconds
        self._most_kills = most_kills
        self._wanted: set[str] = set()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ended: dict[str, float] = {}
        self._over = threading.Event()
        self._killing = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for process in self._processes.values():
            process.kill()
            process.wait()

    def run(self) -> None:
        """Start the consumers of the project's file, and keep them running."""
        with self._lock:
            self._wanted = set(self._project.topology.consumers)

    def kill(self, on: bool) -> None:
        """Begin to kill consumers at random, or end it."""
        (self._killing.set if on else self._killing.clear)()

    def _keep(self) -> None:
        due = 0.0
        while not self._over.wait(0.1):
            with self._lock:
                wanted = set(self._wanted)
            now = time.monotonic()
            for name in sorted(wanted | set(self._processes)):
                self._keep_one(name, wanted=name in wanted, now=now)
            may_kill = self._killing.is_set() and self.kills < self._most_kills and now > due
            if may_kill and (ripe := self._ripe()):
                due = now + self._random.uniform(*self._pause_seconds)
                self._processes[self._random.choice(ripe)].send_signal(signal.SIGKILL)
                self.kills += 1

    def _ripe(self) -> list[str]:
        """Return the consumers that may be killed: the consumers that have run for a while.

        A consumer that is killed five times while it handles one message alone makes it a dead
        letter.
        """
        folder, ripe = self._project.folder / "var" / "run", []
        for name, process in sorted(self._processes.items()):
            since = ready_since(slot_path(folder, name, 1, "ready"), process.pid)
            if since is not None and time.time() - since > SPARED_SECONDS:
                ripe.append(name)
        return ripe

    def _keep_one(self, name: str, *, wanted: bool, now: float) -> None:
        process = self._processes.get(name)
        if process is not None and process.poll() is not None:
            del self._processes[name]
            self._ended[name] = now
            process = None
        if process is None and wanted and now - self._ended.get(name, 0.0) > RESTART_SECONDS:
            with self._project.log(name) as log:
                self._processes[name] = subprocess.Popen(
                    self._project.feedbus("run", name),
                    cwd=ROOT,
                    stderr=log,
                )
