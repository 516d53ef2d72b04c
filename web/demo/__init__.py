"""feedbus demo: seed a graph, post tweets over HTTP, wait for the feeds, and count the results."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from feedbus.cli import Context
from feedbus.errors import FeedbusError

if TYPE_CHECKING:
    from web.demo.report import Report
    from web.demo.running import Running
    from web.demo.tally import Counts, Tally

FOLDER = Path("var/demo")
SERVERS = ("FEEDBUS_BROKER_URL", "FEEDBUS_DATABASE_URL")
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.2


@click.command(
    "demo",
    epilog="""\b
Examples:
  feedbus demo
  feedbus demo --tweets 1000 --followers 5000
""",
)
@click.option("--authors", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option(
    "--followers",
    type=click.IntRange(1, 100_000),
    default=2_000,
    show_default=True,
    help="The followers of the most followed author; the other authors have fewer, by a power law.",
)
@click.option("--tweets", type=click.IntRange(1, 100_000), default=200, show_default=True)
@click.pass_obj
def demo(context: Context, authors: int, followers: int, tweets: int) -> None:
    """Run the whole system once, and show the spread and the rates.

    It uses the folder var/demo beside the topology, and the embedded broker and store, unless
    FEEDBUS_BROKER_URL and FEEDBUS_DATABASE_URL are set. At the end, all processes are stopped.
    """
    from feedbus import config
    from web.demo.load import Load
    from web.demo.report import Report
    from web.demo.running import Running
    from web.demo.tally import Tally

    path = context.topology_path.absolute()
    folder = path.parent / FOLDER
    port = free_port()
    environment = surroundings(port)
    report = Report()
    shutil.rmtree(folder, ignore_errors=True)
    topology = config.load(path, environ=environment, import_handlers=True)
    with Running(topology, environment, folder / "up.log") as running:
        report.step(f"{running.wait_until_ready()} supervised processes are ready")
        load = Load(port, running.keep_up)
        people = load.seed(authors, followers, report.progress)
        report.step(f"seeded {authors} authors and {people:,} followers over HTTP")
        with Tally(topology) as tally:
            started = time.monotonic()
            load.post(tweets, report.progress)
            posted_seconds = time.monotonic() - started
            report.step(f"posted {tweets:,} tweets over HTTP in {posted_seconds:.1f} s")
            expected = tally.expected()
            finish(tally, expected, report, running)
            seconds = time.monotonic() - started
            stored = tally.stored()
            report.step(f"filled {stored.entries:,} feed entries in {seconds:.1f} s")
            report.spread(topology, tally)
            report.figures(stored, expected, tweets, seconds)
    report.step("stopped everything")
    report.where_to_look()
    if stored != expected:
        msg = f"expected {expected}, got {stored}; the logs are in {FOLDER}/log"
        raise FeedbusError(msg)


def free_port() -> int:
    """Return a TCP port of the loopback address on which no program listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def surroundings(port: int) -> dict[str, str]:
    """Return the environment variables for the processes of a demo.

    The demo has a folder of its own. It uses the broker and the store of the user's environment if
    they are set there; otherwise, the embedded ones.

    Args:
        port: the port of the HTTP API.

    """
    embedded = {
        "FEEDBUS_BROKER_URL": f"sqlite:///{FOLDER}/broker.db",
        "FEEDBUS_DATABASE_URL": f"sqlite:///{FOLDER}/feeds.db",
    }
    chosen = {name: os.environ.get(name) or embedded[name] for name in SERVERS}
    own = {
        "FEEDBUS_VAR": str(FOLDER),
        "FEEDBUS_HTTP_HOST": "127.0.0.1",
        "FEEDBUS_HTTP_PORT": str(port),
        "FEEDBUS_OPERATIONS_PORT": "0",
    }
    kept = {name: text for name, text in os.environ.items() if name != "FEEDBUS_API_TOKEN"}
    return {**kept, **chosen, **own}


def finish(tally: Tally, expected: Counts, report: Report, running: Running) -> None:
    """Wait until everything is stored, or until there is no more progress for PATIENCE_SECONDS.

    Args:
        tally: counts the stored rows.
        expected: the number of rows at the end.
        report: shows the progress.
        running: the system, which is started again if it ends.

    """
    last, since = tally.stored(), time.monotonic()
    while last != expected and time.monotonic() - since < PATIENCE_SECONDS:
        running.keep_up()
        time.sleep(LOOK_SECONDS)
        stored = tally.stored()
        if stored != last:
            last, since = stored, time.monotonic()
        report.progress("feed entries", stored.entries, expected.entries)
