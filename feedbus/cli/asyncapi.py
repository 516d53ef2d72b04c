"""feedbus asyncapi: print the AsyncAPI document of a topology, for other teams and programs."""

from __future__ import annotations

import json

import click

from feedbus.cli import Context


@click.command(
    "asyncapi",
    epilog="\b\nExamples:\n  feedbus asyncapi > asyncapi.yaml\n"
    "  feedbus asyncapi --json --api-version 2.1.0",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
@click.option(
    "--api-version",
    default="1.0.0",
    show_default=True,
    metavar="TEXT",
    help="The version of the interface that the document describes.",
)
@click.pass_obj
def command(context: Context, *, as_json: bool, api_version: str) -> None:
    """Print an AsyncAPI 3 document of the topology.

    The document describes the exchanges and queues as channels, publishing and handling as
    operations, and the messages by the types that the handlers take. It has no passwords.
    """
    from feedbus.asyncapi import document

    found = document(context.load(import_handlers=True), api_version)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    import yaml

    click.echo(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=100), nl=False)
