"""feedbus operations: metrics, health and the operations page, in the foreground."""

from __future__ import annotations

import click

from feedbus.cli import Context
from feedbus.cli.supervised_errors import failures_logged
from feedbus.logs import configure
from feedbus.topology import OPERATIONS, OPERATIONS_PORT, Operations


@click.command(
    "operations",
    epilog="""\b
Examples:
  feedbus operations
  feedbus operations --port 8700
  FEEDBUS_API_TOKEN=secret feedbus operations --host 0.0.0.0
""",
)
@click.option(
    "--host",
    envvar="FEEDBUS_OPERATIONS_HOST",
    show_envvar=True,
    help="The address to listen on, instead of the topology's.",
)
@click.option(
    "--port",
    envvar="FEEDBUS_OPERATIONS_PORT",
    show_envvar=True,
    type=click.IntRange(0, 65_535),
    help=f"The port; 0 selects a free one. If neither this option nor the topology sets a port, it"
    f" is {OPERATIONS_PORT}, or a free port if {OPERATIONS_PORT} is in use.",
)
@click.pass_obj
def command(context: Context, host: str | None, port: int | None) -> None:
    """Serve /metrics, /healthz, /readyz and the operations page until SIGTERM or SIGINT.

    `feedbus up` starts this process on each host, unless [operations] disables it. If other
    machines can reach the address, FEEDBUS_API_TOKEN must be set. Requests then need the header
    `Authorization: Bearer TOKEN`.
    """
    from feedbus.operations.operations_process import run
    from feedbus.process.process_setup import follow_parent

    supervised = follow_parent()
    topology = context.load()
    configure(topology.logging.format, consumer=OPERATIONS)
    declared = topology.operations or Operations()
    with failures_logged(supervised=supervised):
        run(
            topology,
            host or declared.host,
            declared.port if port is None else port,
            supervised=supervised,
        )
