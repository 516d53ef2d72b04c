"""A small sharded system under load: its switches, which are killed, and its publishers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from feedbus.generations.switch import EXIT_AT, EXIT_CODE
from tests.chaos.reshard.consumers import Consumers
from tests.chaos.reshard.evidence import Evidence
from tests.chaos.reshard.project import ROOT, Project
from tests.chaos.reshard.publishing import PAUSE

KEYS = 2_000
MOST_BACKLOG = 50_000  # records; with more, publishing pauses, so that kills continue until the end
FOREIGN_KEYS = 200  # the last keys, published as plain JSON by a separate client
STEPS = ("declared", "written", "disconnected", "connected", "appended", "completed", "fenced")


class Arena:
    """A project, its consumers and its publishers; everything ends with it."""

    def __init__(
        self,
        project: Project,
        *,
        seed: int = 0,
        pause_seconds: tuple[float, float] = (0.3, 1.0),
        most_kills: float = math.inf,
    ) -> None:
        """Write the project; see Consumers for the arguments."""
        project.write()
        self.project = project
        self.consumers = Consumers(project, seed, pause_seconds, most_kills)
        self.evidence = Evidence(project)
        self._publishers: list[tuple[subprocess.Popen[bytes], Path]] = []

    def __enter__(self) -> Self:
        self.consumers.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self.consumers.__exit__(*raised)
        for process, _ in self._publishers:
            process.kill()
            process.wait()

    def switch(self, kills: Sequence[str] = ()) -> None:
        """Make the file's ring the current one, by a process that is killed at these steps first.

        Then run the consumers that the file names.
        """
        for step in kills:
            code = self._switch(step)
            reported = f"apply was to end at {step!r}, but ended with {code}"
            assert code == EXIT_CODE, reported + self.evidence.logs()
        assert self._switch("") == 0, self.evidence.logs()
        self.consumers.run()

    def _switch(self, step: str) -> int:
        with self.project.log("apply") as log:
            return subprocess.run(
                self.project.feedbus("apply", "--yes", "--no-wait"),
                cwd=ROOT,
                env={**os.environ, EXIT_AT: step},
                stdout=log,
                stderr=log,
                check=False,
                timeout=600,
            ).returncode

    def publish(self, records: int, rate: int) -> None:
        """Start publishers: they continue until there are enough records and stop() was called."""
        third = (KEYS - FOREIGN_KEYS) // 2
        spans = [
            ("bus", 0, third),
            ("bus", third, KEYS - FOREIGN_KEYS),
            ("foreign", KEYS - FOREIGN_KEYS, KEYS),
        ]
        for kind, first, last in spans:
            reported = self.project.folder / f"published.{first}"
            words = [
                kind,
                self.project.path,
                first,
                last,
                records // KEYS,
                rate / KEYS,
                reported,
                self._stop,
            ]
            with self.project.log(f"publisher.{first}") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.chaos.reshard.publishing", *map(str, words)],
                    cwd=ROOT,
                    stderr=log,
                )
            self._publishers.append((process, reported))

    @property
    def _stop(self) -> Path:
        return self.project.folder / "stop"

    def stop(self) -> None:
        """Let the publishers end after their current round."""
        self._stop.touch()
        for process, _ in self._publishers:
            assert process.wait(600) == 0, self.evidence.logs()

    def rounds(self) -> dict[int, int]:
        """Return how many numbers the keys have, by the first key of each publisher."""
        return {
            int(reported.suffix[1:]): int(reported.read_text() or 0) if reported.exists() else 0
            for _, reported in self._publishers
        }

    def await_round(self, number: int) -> None:
        """Wait until every publisher has reached a round."""
        while min(self.rounds().values()) < number:
            for process, _ in self._publishers:
                assert process.poll() is None, self.evidence.logs()
            self._limit_backlog()
            time.sleep(0.05)

    def _limit_backlog(self) -> None:
        """Let the publishers pause while too many records have had no effect yet."""
        published = sum(self.rounds().values()) * KEYS // len(self._publishers)
        pause = self._stop.with_name(PAUSE)
        if published - self.evidence.latest() > MOST_BACKLOG:
            pause.touch()
        else:
            pause.unlink(missing_ok=True)
