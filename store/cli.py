"""feedbus migrate: apply or revert migrations of the store's tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from feedbus.topology import Topology
    from feedbus.urls import StoreUrl


def _url(context: click.Context) -> StoreUrl:
    from store import migrations

    known: Any = context.obj
    topology: Topology = known.load()
    return migrations.url_of(topology)


@click.group(invoke_without_command=True)
@click.pass_context
def migrate(context: click.Context) -> None:
    """Apply or revert migrations of the store's tables.

    Without a command, `feedbus migrate` applies all pending migrations, as `up` does. Several hosts
    can run it at the same time.

    \b
    Examples:
      feedbus migrate
      feedbus migrate status
      feedbus migrate down --yes
    """  # noqa: D301 -- \b is click's mark of lines to keep
    if context.invoked_subcommand is None:
        context.invoke(up, name=None)


@migrate.command(epilog="\b\nExample:\n  feedbus migrate up")
@click.argument("name", required=False)
@click.pass_context
def up(context: click.Context, name: str | None) -> None:
    """Apply the pending migrations, all of them or those up to NAME."""
    from store import migrations

    _report("applied", migrations.forward(_url(context), name))


@migrate.command(epilog="\b\nExample:\n  feedbus migrate down 0001_initial --yes")
@click.argument("name", required=False)
@click.option(
    "--yes",
    is_flag=True,
    help="Do not ask for confirmation. The rows of the dropped tables are lost.",
)
@click.pass_context
def down(context: click.Context, name: str | None, yes: bool) -> None:  # noqa: FBT001 -- click's
    """Revert the last migration, or all migrations back to NAME, including NAME."""
    from store import migrations

    url = _url(context)
    question = "Tables and all of their rows will be deleted. Continue?"
    if not yes and not click.confirm(question):
        click.echo("nothing was changed", err=True)
        raise click.exceptions.Exit(1)
    _report("reverted", migrations.back(url, name))


@migrate.command(epilog="\b\nExample:\n  feedbus migrate status")
@click.pass_context
def status(context: click.Context) -> None:
    """List the migrations and when each was applied."""
    from store import migrations

    for step in migrations.steps(_url(context)):
        click.echo(f"{step.name}  {step.applied or 'pending'}")


def _report(done: str, names: list[str]) -> None:
    for name in names:
        click.echo(f"{done} {name}")
    if not names:
        click.echo("nothing to do")
