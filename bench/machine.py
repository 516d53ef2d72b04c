"""The machine and the versions with which the figures were measured."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import psycopg2

from bench.stage import Stage

PACKAGES = ("kombu", "marshmallow", "peewee", "psycopg2-binary", "waitress", "bottle")


def facts(stage: Stage) -> dict[str, str]:
    """Return processor, memory, load, and the versions of the measured programs."""
    connection = psycopg2.connect(stage.postgres.url())
    try:
        postgres = connection.info.server_version
    finally:
        connection.close()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": f"{os.cpu_count()} cores, {_processor()}",
        "memory": f"{memory / 2**30:.0f} GB",
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgresql": f"{postgres // 10_000}.{postgres % 10_000}",
        "rabbitmq": stage.rabbitmq.control("version").strip(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "feedbus": _commit(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 -- whichever git there is
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or version("feedbus")
