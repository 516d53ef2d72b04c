"""The question that a command asks before a change, and the line that it prints after a no."""

from __future__ import annotations

import sys

import click

from feedbus.errors import UsageError


def confirm(question: str, unchanged: str) -> None:
    """Ask a question; end the command with exit code 1 if the answer is no.

    Args:
        question: the question.
        unchanged: the line after a no, such as "nothing was changed".

    Raises:
        Exit: the answer is no.
        UsageError: there is no answer, because stdin is no terminal and has ended.
        Abort: Ctrl-C was pressed; its context is the KeyboardInterrupt.

    """
    try:
        confirmed = click.confirm(question)
    except click.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise
        click.echo(err=True)
        if not sys.stdin.isatty():
            msg = f"{unchanged}, because the question was not answered with yes; add --yes"
            raise UsageError(msg) from None
        confirmed = False
    if not confirmed:
        click.echo(unchanged, err=True)
        raise click.exceptions.Exit(1)
