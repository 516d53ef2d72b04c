"""python -m web: serve the API until SIGTERM or SIGINT."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from feedbus import config
from feedbus.bus import LiveBus
from feedbus.errors import FeedbusError, UsageError
from feedbus.logs import EventLog, configure
from feedbus.metrics import Metrics
from feedbus.operations.access_control import guard_of
from feedbus.operations.http_server import THREADS, Address, Server, bind, url
from feedbus.process.process_setup import follow_parent
from feedbus.process.status_files import mark_ready
from feedbus.store import open_store
from feedbus.store.relay import Relay
from web.app import make_app

events = EventLog("web")

BROKER_PATIENCE_SECONDS = 0.5  # then the relay publishes what the request could not


@click.command(
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  python -m web --port 8081
  FEEDBUS_API_TOKEN=secret python -m web --host 0.0.0.0
""",
)
@click.option("--host", envvar="FEEDBUS_HTTP_HOST", default="127.0.0.1", help="Address to bind.")
@click.option(
    "--port",
    envvar="FEEDBUS_HTTP_PORT",
    default=8080,
    type=click.IntRange(0, 65_535),
    help="Port to listen on; 0 takes a free one and prints it.",
)
@click.option(
    "--threads", default=THREADS, type=click.IntRange(1, 256), help="Requests answered at a time."
)
@click.option(
    "--topology",
    "path",
    envvar="FEEDBUS_TOPOLOGY",
    default="topology.toml",
    type=click.Path(path_type=Path),
    help="The topology file.",
)
def main(host: str, port: int, threads: int, path: Path) -> None:
    """Serve the API until SIGTERM or SIGINT, then exit 0.

    If other machines can reach the address, FEEDBUS_API_TOKEN must be set. Every request then needs
    the header `Authorization: Bearer TOKEN`.
    """
    follow_parent()
    try:
        serve(host, port, threads, path)
    except UsageError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except FeedbusError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def serve(host: str, port: int, threads: int, path: Path) -> None:
    """Serve the API until SIGTERM or SIGINT; main() calls the function.

    Args:
        host: the address to listen on.
        port: the port; 0 stands for any free port.
        threads: how many requests are answered at the same time.
        path: the path of the topology file.

    Raises:
        UsageError: other machines can reach the address, and no token is set.
        FeedbusError: the address cannot be bound, the topology is wrong, or the store cannot be
            opened.

    """
    address = Address(host, port)
    with bind(address) as listener:
        guard = guard_of(listener, address, os.environ)
        topology = config.load(path)
        configure(topology.logging.format, consumer="web")
        store = open_store(topology)
        with (
            Metrics.open(topology.var / "metrics", f"web-{port}") as metrics,
            LiveBus(topology, metrics, timeout_seconds=BROKER_PATIENCE_SECONDS) as bus,
            Relay(topology, store, bus) as relay,
        ):
            app = make_app(topology, relay, guard)
            run(Server(app, listener, threads=threads), host)
        store.close()


def run(server: Server, host: str) -> None:
    """Run a server until SIGTERM or SIGINT, then finish the current requests.

    Args:
        server: the server, whose socket listens already.
        host: the address of the server, for the log.

    """

    def stop(number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        events.info(
            "stopping", f"received {name}; the server stops after the current requests", signal=name
        )
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    where = url(host, server.port)
    events.info("listening", f"listening on {where}", url=where)
    mark_ready()
    server.run()
    events.info("stopped", "the web process has stopped")


if __name__ == "__main__":
    main(prog_name="python -m web")
