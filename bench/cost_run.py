"""Deliver the wide and the everyday graph once; print the processor seconds per 100,000 updates.

bench/cost.py starts this by its path with the checkout to be measured as PYTHONPATH, so it uses
only what both checkouts have.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import psutil

from bench import scale
from bench.runs import feeds
from bench.stage import SERVERS, Stage
from bench.system import System

UPDATES = 100_000


def main(*, short: bool) -> None:
    """Print a JSON object with the seconds of feedbus's processes and of the servers per graph."""
    full = replace(scale.FULL, wide_tweets=10, everyday_tweets=5_000)
    chosen = scale.SHORT if short else full
    found: dict[str, dict[str, float]] = {}
    with Stage.started(chosen) as stage:
        for graph, count in (("wide", chosen.wide_tweets), ("everyday", chosen.everyday_tweets)):
            used: dict[str, float] = {}

            @contextmanager
            def measuring(system: System, used: dict[str, float] = used) -> Iterator[None]:
                before = _used(stage, system)
                yield
                after = _used(stage, system)
                used |= {part: after[part] - before[part] for part in after}

            result = feeds.deliver(stage, SERVERS, graph, count, measuring)
            found[graph] = {
                part: seconds * UPDATES / result["updates"] for part, seconds in used.items()
            }
    print(json.dumps(found))


def _used(stage: Stage, system: System) -> dict[str, float]:
    servers = [stage.postgres.process, stage.rabbitmq._process]  # noqa: SLF001 -- its pid
    roots = [psutil.Process(server.pid) for server in servers if server is not None]
    return {"feedbus": _sum(list(system.processes())), "servers": _sum(_with_children(roots))}


def _with_children(roots: list[psutil.Process]) -> list[psutil.Process]:
    return [each for root in roots for each in (root, *root.children(recursive=True))]


def _sum(processes: list[psutil.Process]) -> float:
    seconds = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system
    return seconds


if __name__ == "__main__":
    main(short="--short" in sys.argv[1:])
