"""feedbus alerts: print the alerts for Prometheus."""

from __future__ import annotations

from importlib import resources

import click


@click.command("alerts", epilog="\b\nExamples:\n  feedbus alerts > /etc/prometheus/feedbus.yml\n")
def command() -> None:
    """Print the rules of Prometheus that raise an alert when a feedbus system needs attention.

    The rules are the same for every topology. They need a job with the name `feedbus`, which
    scrapes /metrics of each host.
    """
    click.echo((resources.files("feedbus.dashboards") / "alerts.yml").read_text("utf-8"), nl=False)
