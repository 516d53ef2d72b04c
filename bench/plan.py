"""`python -m bench.plan`: processor seconds of `feedbus plan` minus those of `check`.

The topology has a ring of 10,000 buckets on an embedded broker, which gets one more shard.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from feedbus import config
from feedbus.generations import topology_setup

BUCKETS, ROUNDS = 10_000, 5
TOPOLOGY = """
name = "planned"
var = "var"
[broker]
url = "sqlite:///broker.db"
[exchanges]
orders = {{ type = "x-consistent-hash" }}
[queues.orders]
exchange = "orders"
handler = "planned:handle"
shards = {shards}
weight = {weight}
"""
HANDLER = """
from feedbus import handler

@handler
def handle(message: dict) -> None:
    pass
"""


def main() -> None:
    """Print, for a ring of few and one of many shards, the medians and their difference."""
    print(f"{'shards':>8} {'check':>8} {'plan':>8} {'beyond check':>13}")
    for shards in (10, 100):
        with tempfile.TemporaryDirectory(prefix="feedbus-plan-") as folder:
            check, plan = measure(Path(folder), shards)
        print(f"{shards:>8} {check:>6.2f} s {plan:>6.2f} s {plan - check:>11.2f} s")


def measure(folder: Path, shards: int) -> tuple[float, float]:
    """Return the median processor seconds of both commands for a ring that gets one more shard."""
    path = folder / "topology.toml"
    (folder / "planned.py").write_text(HANDLER)
    path.write_text(TOPOLOGY.format(shards=shards - 1, weight=BUCKETS // shards))
    topology_setup.set_up(config.load(path))
    path.write_text(TOPOLOGY.format(shards=shards, weight=BUCKETS // shards))
    pairs = [(_used(folder, "check"), _used(folder, "plan")) for _ in range(ROUNDS)]
    check, plan = zip(*pairs, strict=True)
    return statistics.median(check), statistics.median(plan)


def _used(folder: Path, command: str) -> float:
    """Return the processor seconds of a command of feedbus."""
    before = _of_children()
    subprocess.run(
        [sys.executable, "-m", "feedbus", command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return _of_children() - before


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
