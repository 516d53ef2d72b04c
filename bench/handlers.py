"""`python -m bench.handlers`: handlers of single messages, against other frameworks.

All read the same payloads from a classic queue on a private RabbitMQ. It is the newest that is
installed, because Repid needs AMQP 1.0 of RabbitMQ 4. Messages are persistent, at most 1,000 in
flight, acknowledged after the handler, in one process. The queue is filled before the consumer
starts. Rates and processor time are those of the process, after the first tenth of the messages.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from bench.comparators.counting import PREFETCH, QUEUE
from servers.rabbitmq import RabbitMQ
from servers.versions import installed

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 600.0
TOPOLOGY = """
name = "bench"
[broker]
url = "${FEEDBUS_BROKER_URL}"
management = "${BENCH_MANAGEMENT}"
[exchanges]
work = { type = "topic" }
[queues.bench]
exchange     = "work"
routing_keys = ["#"]
handler      = "bench.comparators.counting_feedbus:handle"
prefetch     = PREFETCH
"""
ASYNC = "concurrency  = PREFETCH\norder_by     = true\n"

BENCH = "bench.comparators.counting_"
TASKIQ = ["taskiq", "worker", f"{BENCH}taskiq:broker", "--workers", "1"]
CONSUMERS: dict[str, Sequence[str]] = {
    "feedbus": ["feedbus", "run", "bench"],
    "faststream": ["faststream", "run", f"{BENCH}faststream:app"],
    "dramatiq": ["dramatiq", f"{BENCH}dramatiq", "--processes", "1", "--threads", "1"],
    "celery": ["celery", "-A", f"{BENCH}celery", "worker", "-P", "solo", "-l", "WARNING"],
    "repid": [f"{BENCH}repid"],
    "taskiq": [*TASKIQ, "--max-async-tasks", str(PREFETCH)],
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """A measurement, and the frameworks that take part.

    Attributes:
        name: the name of the scenario.
        frameworks: the frameworks that take part, feedbus first.
        messages: the number of messages in the queue.
        keys: the number of keys of the messages.
        options: the options of the queue in feedbus's topology.

    """

    name: str
    frameworks: Sequence[str]
    messages: int
    keys: int
    options: str = ""


SCENARIOS = {
    each.name: each
    for each in (
        Scenario("single", ("feedbus", "faststream", "repid", "dramatiq", "celery"), 10_000, 5_000),
        Scenario("async", ("feedbus", "faststream", "taskiq", "repid"), 20_000, 5_000, ASYNC),
    )
}


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option("--rounds", default=5, type=click.IntRange(1, 100), help="Each takes all in turns.")
@click.option("--short", is_flag=True, help="Run everything tiny: proof that it runs, no figures.")
def main(names: tuple[str, ...], rounds: int, *, short: bool) -> None:
    """Measure handlers of single messages: NAMES are `single` and `async`, by default both."""
    for scenario in (SCENARIOS[name] for name in names or SCENARIOS):
        found: dict[str, list[Mapping[str, float]]] = {each: [] for each in scenario.frameworks}
        with tempfile.TemporaryDirectory(prefix="feedbus-bench-") as folder:
            node_folder = Path(folder, "rabbitmq")
            node_folder.mkdir()
            with RabbitMQ(node_folder, name="bench", version=installed()[-1]) as node:
                for number in range(rounds):
                    for framework in scenario.frameworks:
                        place = Path(folder, f"{framework}{number}")
                        with _virtual_host(node, framework) as host:
                            urls = node.url.removesuffix("/") + host, node.management_url
                            result = measure(scenario, framework, urls, place, short=short)
                        found[framework].append(result)
                        click.echo(f"{number + 1} {framework}: {_line(result)}", err=True)
        click.echo(f"{scenario.name}: medians of {rounds} rounds{', tiny' if short else ''}")
        for framework, results in found.items():
            medians = {
                name: statistics.median(each[name] for each in results) for name in results[0]
            }
            click.echo(f"  {framework:<12} {_line(medians)}")


@contextlib.contextmanager
def _virtual_host(node: RabbitMQ, framework: str) -> Iterator[str]:
    """Create a virtual host; Repid cannot name one, and uses the node's default."""
    if framework == "repid":
        yield ""
        node.request("DELETE", f"/api/queues/%2F/{QUEUE}")
        return
    with node.virtual_host() as host:
        yield host


def _line(result: Mapping[str, float]) -> str:
    return (
        f"{result['rate']:>8,.0f} messages/s {result['processor'] * 1e6:>6.0f} us of processor time"
    )


def measure(
    scenario: Scenario, framework: str, urls: tuple[str, str], folder: Path, *, short: bool
) -> Mapping[str, float]:
    """Fill a queue, start one consumer, and return its rate and its processor seconds a message.

    Args:
        scenario: the measured scenario.
        framework: the framework that handles the messages.
        urls: the URL of a virtual host, and the URL of the management API.
        folder: a folder that is created for this run.
        short: whether a few messages are enough.

    """
    folder.mkdir()
    text = (TOPOLOGY + scenario.options).replace("PREFETCH", str(PREFETCH))
    (folder / "topology.toml").write_text(text)
    result = folder / "result.json"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "FEEDBUS_BROKER_URL": urls[0],
        "BENCH_MANAGEMENT": urls[1],
        "BENCH_SCENARIO": scenario.name,
        "BENCH_MESSAGES": str(200 if short else scenario.messages),
        "BENCH_RESULT": str(result),
        "BENCH_ORDERED": "1" if framework == "feedbus" else "0",
        "dramatiq_queue_prefetch": str(PREFETCH),
    }
    with (folder / "log").open("ab") as log:

        def start(*words: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", *words]
            return subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

        steps = [[f"{BENCH}publish", framework, str(scenario.keys)]]
        if framework == "feedbus":
            steps.insert(0, ["feedbus", "apply", "--yes"])
        for step in steps:
            if start(*step).wait(LIMIT_SECONDS):
                raise AssertionError((folder / "log").read_text(errors="replace")[-3000:])
        consumer = start(*CONSUMERS[framework])
        deadline = time.monotonic() + LIMIT_SECONDS
        try:
            while not result.exists():
                if consumer.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((folder / "log").read_text(errors="replace")[-3000:])
                time.sleep(0.1)
        finally:
            os.killpg(consumer.pid, 15)
            consumer.wait()
    measured: dict[str, float] = json.loads(result.read_text())
    return measured


if __name__ == "__main__":
    main()
