"""feedbus completion: the script by which a shell completes commands and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from feedbus.cli import main

SHELLS = ("bash", "zsh", "fish")


@click.command(
    "completion",
    epilog='\b\nExamples:\n  eval "$(feedbus completion bash)"\n'
    "  feedbus completion fish > ~/.config/fish/completions/feedbus.fish",
)
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the completion script of a shell: bash, zsh or fish.

    The shell then completes commands, options, and the names of the topology's consumers, queues
    and exchanges. The script is the one that click generates.
    """
    script = get_completion_class(shell)
    if script is None:  # pragma: no cover -- click has all three
        msg = f"expected one of {', '.join(SHELLS)}, got {shell}"
        raise click.ClickException(msg)
    click.echo(script(main, {}, "feedbus", "_FEEDBUS_COMPLETE").source())
