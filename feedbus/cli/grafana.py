"""feedbus grafana: print a dashboard for Grafana, generated from the topology."""

from __future__ import annotations

import json

import click

from feedbus.cli import Context


@click.command(
    "grafana",
    epilog="""\b
Examples:
  feedbus grafana > feedbus.json
""",
)
@click.pass_obj
def command(context: Context) -> None:
    """Print a Grafana dashboard of every consumer, shard and queue of the topology.

    Import it into Grafana, or put it into a provisioned folder. Its data source is a Prometheus
    that scrapes /metrics of each host.
    """
    from feedbus.dashboards.grafana import dashboard

    topology = context.load(connects=False)
    click.echo(json.dumps(dashboard(topology), indent=2, ensure_ascii=False))
