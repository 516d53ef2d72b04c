"""An idle system: how fast it starts, and how much memory and processor time it needs."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.stage import Stage
from bench.system import running

SETTLE_SECONDS = 3.0


def idle(stage: Stage, kind: str) -> dict[str, float]:
    """Measure the memory and the processor time of an idle system."""
    with running(stage, kind, "wide") as system:
        time.sleep(min(SETTLE_SECONDS, stage.scale.idle_seconds))
        before, started = system.cpu_seconds(), time.monotonic()
        time.sleep(stage.scale.idle_seconds)
        used, seconds = system.cpu_seconds() - before, time.monotonic() - started
        return {
            "ready_seconds": system.ready_seconds,
            "processes": len(system.processes()),
            "pss_bytes": system.pss_bytes(),
            "cpu_percent": 100 * used / seconds,
        }


def check(stage: Stage) -> dict[str, float]:
    """Check the topology in a new process."""
    words = [sys.executable, "-m", "feedbus", "check"]
    with stage.kept_place("embedded", "wide") as place:
        started = time.monotonic()
        subprocess.run(
            words,
            cwd=place.topology.root,
            env=place.environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return {"seconds": time.monotonic() - started}
