"""feedbus demo: seed a graph, post tweets over HTTP, watch the feeds fill, count what came out."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from feedbus.errors import FeedbusError

if TYPE_CHECKING:
    from feedbus.topology import Topology
    from web.demonstration.tally import Tally

FOLDER = Path("var/demo")
SEED = 7
FINISH_SECONDS = 60.0


@click.command(
    "demo",
    epilog="""\b
Examples:
  feedbus demo
  feedbus demo --tweets 1000 --followers 5000
  FEEDBUS_BROKER_URL=amqp://… FEEDBUS_DATABASE_URL=postgresql://… feedbus demo
""",
)
@click.option("--authors", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option(
    "--followers",
    type=click.IntRange(1, 1_000_000),
    default=2_000,
    show_default=True,
    help="Of the most followed author; the others have fewer, by a power law.",
)
@click.option("--tweets", type=click.IntRange(1, 100_000), default=200, show_default=True)
@click.pass_obj
def demo(context: object, authors: int, followers: int, tweets: int) -> None:
    """Run the whole system for a minute and show what it does.

    It works in var/demo, on the embedded broker and store unless FEEDBUS_BROKER_URL and
    FEEDBUS_DATABASE_URL name others, and leaves nothing running.
    """
    from web.demonstration.load import Load
    from web.demonstration.report import Report
    from web.demonstration.running import Running
    from web.demonstration.tally import Tally

    path = Path(getattr(context, "topology_path", "topology.toml")).absolute()
    folder = path.parent / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    port = _free_port()
    environment = {
        "FEEDBUS_VAR": str(FOLDER),
        "FEEDBUS_HTTP_PORT": str(port),
        "FEEDBUS_BROKER_URL": f"sqlite:///{FOLDER}/broker.db",
        "FEEDBUS_DATABASE_URL": f"sqlite:///{FOLDER}/feeds.db",
        "FEEDBUS_TOPOLOGY": str(path),
        **{name: os.environ[name] for name in _chosen()},
    }
    from feedbus import config

    topology = config.load(path, environ={**os.environ, **environment}, import_handlers=True)
    report = Report()
    with Running(path, {**os.environ, **environment}, folder / "up.log") as running:
        report.step(f"started {running.wait_until_ready()} processes")
        load = Load(port, running.check, SEED)
        load.seed(authors, followers, report)
        with Tally(topology) as tally:
            started = time.monotonic()
            load.post(tweets, lambda posted: report.progress(posted, tweets, tally))
            report.step(f"posted {tweets} tweets over HTTP")
            seconds = _finish(tally, report, running.check, started)
            report.results(topology, tally, load, seconds)
            correct = tally.correct()
        report.where_to_look(path)
    report.step("stopped; nothing is left running")
    if not correct:
        msg = f"the counts are not what they have to be; look at {folder}/log"
        raise FeedbusError(msg)


def _chosen() -> list[str]:
    """Return which of a user's own servers the environment names."""
    names = ("FEEDBUS_BROKER_URL", "FEEDBUS_DATABASE_URL")
    return [name for name in names if os.environ.get(name)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _finish(tally: Tally, report: object, check: object, started: float) -> float:
    raise NotImplementedError


def _unused(topology: Topology) -> None:
    raise NotImplementedError
