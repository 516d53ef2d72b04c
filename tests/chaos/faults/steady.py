"""The row of steady load: the memory and the open files of each process stay flat."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from bench.system import name_of, processes
from tests.chaos.faults.cells import Cell, run_loaded
from tests.chaos.faults.columns import started
from tests.chaos.faults.loaded_system import LoadedSystem, loaded
from tests.chaos.faults.results import Result

RATE = 300  # records a second
SAMPLES = 60
FLAT = 1.05
SLACK_BYTES = 3_000_000  # the share of an allocator, which endless growth would exceed
SLACK_FILES = 2


@dataclass(frozen=True, slots=True)
class Sample:
    """The memory and files of a process at one time."""

    memory_bytes: int
    files: int


@dataclass(slots=True)
class Sampler:
    """Injects nothing, and measures each process at each interval."""

    interval_seconds: float
    done: Counter[str] = field(default_factory=Counter)
    samples: defaultdict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    _due: float = 0.0

    def strike(self, system: LoadedSystem, _progress: float) -> None:
        """Measure each process if the interval is over."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self.interval_seconds
        self.done["samples of each process"] += 1
        for process in processes(system.topology):
            try:
                sample = Sample(process.memory_info().rss, process.num_fds())
                self.samples[name_of(process)].append(sample)
            except psutil.NoSuchProcess:
                continue

    def omitted(self) -> list[str]:
        """Return what has grown: between the second quarter and the last one."""
        grown = []
        for name, samples in self.samples.items():
            quarter = len(samples) // 4
            early, late = samples[quarter : 2 * quarter], samples[-quarter:]
            if not quarter:
                continue
            before, after = (
                statistics.median(s.memory_bytes for s in part) for part in (early, late)
            )
            if after > before * FLAT + SLACK_BYTES:
                grown.append(f"{name}: memory {before / 1e6:.1f} MB, then {after / 1e6:.1f} MB")
            before, after = (statistics.median(s.files for s in part) for part in (early, late))
            if after > before + SLACK_FILES:
                grown.append(f"{name}: {before:.0f} open files, then {after:.0f}")
        return grown

    def growth(self) -> float:
        """Return by which factor the memory of all processes has grown."""
        totals = []
        for index in (1, -1):
            total = 0.0
            for samples in self.samples.values():
                quarter = max(1, len(samples) // 4)
                part = samples[quarter : 2 * quarter] if index == 1 else samples[-quarter:]
                total += statistics.median(each.memory_bytes for each in part or samples)
            totals.append(total)
        return totals[1] / totals[0]


def run(cell: Cell, folder: Path) -> Result:
    """Work under a steady load for a number of seconds."""
    with started(cell.where, folder) as servers, loaded(servers) as system:
        sampler = Sampler(cell.size / SAMPLES)
        records = cell.size * RATE
        figures: dict[str, str] = {}
        result = run_loaded(cell, system, sampler, figures, rate=RATE, records=records)
        figures["memory, last quarter by second"] = f"{sampler.growth():.3f}"
        return replace(result, load=f"{cell.size:,} seconds, {result.load}")
