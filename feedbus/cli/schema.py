"""feedbus schema: the JSON Schema of topology.toml, for editors."""

from __future__ import annotations

import json

import click


@click.command(
    "schema",
    epilog="\b\nExamples:\n  feedbus schema > topology.schema.json\n  feedbus schema --markdown",
)
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the reference of options.")
def command(*, as_markdown: bool) -> None:
    """Print the JSON Schema of topology.toml. Editors use it to complete and check the file."""
    from feedbus.config import reference

    if as_markdown:
        click.echo(reference.markdown(), nl=False)
    else:
        click.echo(json.dumps(reference.json_schema(), indent=2, ensure_ascii=False))
