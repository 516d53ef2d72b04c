"""The line that a command prints when Ctrl-C or an outage interrupts it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from feedbus.errors import Outage, UsageError


@contextmanager
def reported(state: Callable[[], str]) -> Iterator[None]:
    """Print what a command has done and how to continue it, if the `with` block is interrupted.

    Ctrl-C or an outage of the broker or the store interrupts the block. After Ctrl-C, the exit code
    is 130. The command must be in INTERRUPTIBLE of feedbus.cli, so that Ctrl-C raises
    KeyboardInterrupt.

    Args:
        state: called when the command is interrupted; returns the text to print.

    Raises:
        KeyboardInterrupt: the block was interrupted, also if its cleanup has raised another error.
        UsageError: the broker or the store became unavailable; the error also has the text.

    """
    try:
        yield
    except BaseException as error:
        if not _is_interrupt(error):
            if isinstance(error, Outage):
                msg = f"{error}; {state()}"
                raise UsageError(msg) from error
            raise
        if sys.stderr.isatty():
            click.echo(err=True)  # the terminal has shown ^C on the current line
        click.echo(f"interrupted; {state()}", err=True)
        raise KeyboardInterrupt from None


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether an error is a KeyboardInterrupt, or was raised while one was handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
