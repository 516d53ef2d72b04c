"""feedbus down: a clean stop of everything."""

from __future__ import annotations

from typing import Any

import click


@click.command(epilog="\b\nExample:\n  feedbus down")
@click.pass_obj
def command(context: Any) -> None:
    """Stop everything that `feedbus up` or circusd started here, and wait until it is gone.

    Consumers finish what they have in hand. Nothing running is no error.
    """
    from feedbus.supervisor.client import stop

    topology = context.load()
    click.echo("stopped" if stop(topology) else f"nothing runs in {topology.var}")
