"""The results of the table's cells, one JSON file for each, and the table itself."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.projects import ROOT


def revision() -> str:
    """Return the version of feedbus and its commit."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, check=False
    )
    return f"{version('feedbus')} {done.stdout.decode().strip()}".strip()


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a cell.

    Attributes:
        row: the name of the fault.
        column: the name of the broker and store.
        seed: the seed of all random numbers.
        servers: the servers, with their versions.
        load: the load, in the form of the table.
        faults: how many of each kind were injected.
        lost, doubled, disordered: the numbers of such records.
        problems: the first lines of each kind of error.
        figures: the other measurements, by name.
        size: the requested number of records, or of other objects that the row counts.
        seconds: the duration of the run.
        date: the date of its end.
        feedbus: the version and commit of feedbus.

    """

    row: str
    column: str
    seed: int
    servers: str
    load: str
    faults: Mapping[str, int]
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    problems: list[str] = field(default_factory=list)
    figures: Mapping[str, str] = field(default_factory=dict)
    size: int = 0
    seconds: float = 0.0
    date: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M}")
    feedbus: str = field(default_factory=revision)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not (self.lost or self.doubled or self.disordered or self.problems)

    def covers(self, size: int) -> bool:
        """Whether a run of this size would add no information."""
        return self.ok and self.size >= size

    def cell(self) -> str:
        """Return the cell of the table."""
        if self.ok:
            return self.load
        wrong = f"{self.lost} lost, {self.doubled} doubled, {self.disordered} out of order"
        return f"**failed**: {self.load}; {wrong}; {len(self.problems)} problems"

    def details(self) -> str:
        """Return how many faults of each kind were injected, and the other measurements."""
        counts = [f"{name}: {count:,}" for name, count in sorted(self.faults.items())]
        return "; ".join([*counts, *(f"{name}: {text}" for name, text in self.figures.items())])


@dataclass(frozen=True, slots=True)
class Results:
    """A folder of results of one seed."""

    folder: Path

    def path(self, row: str, column: str) -> Path:
        """Return the file of a cell."""
        return self.folder / f"{row}-{column}.json"

    def load(self, row: str, column: str) -> Result | None:
        """Return the result of a cell, or None if it has not been run."""
        path = self.path(row, column)
        return Result(**json.loads(path.read_text())) if path.exists() else None

    def save(self, result: Result) -> None:
        """Write the result of a cell."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(result.row, result.column)
        path.write_text(json.dumps(asdict(result), indent=2) + "\n")
