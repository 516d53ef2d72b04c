"""A running feedbus system: `feedbus up` on a place, and the resources of its processes."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.stage import Place, Stage
from feedbus.process.file_locks import lock_holder
from feedbus.supervisor.arbiter import lock_path
from feedbus.topology import Topology
from web.demo.running import Running

PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
ENDED = (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError)


def processes(topology: Topology) -> Sequence[psutil.Process]:
    """Return the supervisor of a topology and all its processes, none when it has ended."""
    pid = lock_holder(lock_path(topology))
    try:
        supervisor = psutil.Process(pid) if pid else None
        return [supervisor, *supervisor.children(recursive=True)] if supervisor else []
    except psutil.NoSuchProcess:
        return []


def name_of(process: psutil.Process) -> str:
    """Return the name of a process: the consumer or process that it runs."""
    words = " ".join(process.cmdline()).split()  # the command line of a forked process is one text
    if "run" in words and "feedbus" in words:
        return words[words.index("run") + 1]
    if "operations" in words:
        return "operations"
    if {"fork", "server"} <= {*words} or "feedbus.supervisor.forkserver" in words:
        return "fork server"
    return "supervisor" if {"up", "circusd"} & {*words} else "web"


@dataclass(frozen=True, slots=True)
class System:
    """A place whose processes are all ready."""

    place: Place
    ready_seconds: float

    def processes(self) -> Sequence[psutil.Process]:
        """Return the supervisor and all its processes."""
        found = processes(self.place.topology)
        assert found, "the supervisor is gone"
        return found

    def peak_bytes(self) -> dict[str, int]:
        """Return the largest memory of each process so far, by its name."""
        peaks: dict[str, int] = {}
        for process in self.processes():
            with contextlib.suppress(*ENDED):
                found = PEAK.search(Path(f"/proc/{process.pid}/status").read_text())
                name = name_of(process)
                if found:
                    peaks[name] = max(peaks.get(name, 0), int(found[1]) * 1024)
        return peaks

    def pss_bytes(self) -> int:
        """Return the memory of all processes; shared memory is counted once."""
        return sum(int(process.memory_full_info().pss) for process in self.processes())

    def cpu_seconds(self) -> float:
        """Return the processor time that the processes have used so far."""
        times = [process.cpu_times() for process in self.processes()]
        return sum(float(each.user + each.system) for each in times)


@contextmanager
def running(stage: Stage, kind: str, graph: str) -> Iterator[System]:
    """Run a system on a new place, or on the shared place of its kind."""
    if not stage.scale.shared:
        with _started(stage, kind, graph) as system:
            yield system
        return
    if kind not in stage.systems:
        stage.systems[kind] = stage.kept.enter_context(_started(stage, kind, graph))
    system = stage.systems[kind]
    stage.reopen(system.place)
    yield system


@contextmanager
def _started(stage: Stage, kind: str, graph: str) -> Iterator[System]:
    with stage.place(kind, graph) as place:
        log = place.topology.var / "up.log"
        started = time.monotonic()
        with Running(place.topology, place.environment, log) as child:
            child.wait_until_ready()
            yield System(place, time.monotonic() - started)
            _report_failures(place)


def _report_failures(place: Place) -> None:
    """Show the errors of consumers: a figure of a failing system is not valid."""
    for log in sorted((place.topology.var / "log").glob("*.log")):
        for line in log.read_text(errors="replace").splitlines():
            if " ERROR " in line or " CRITICAL " in line or "Traceback" in line:
                print(f"{log.name}: {line}", file=sys.stderr)
