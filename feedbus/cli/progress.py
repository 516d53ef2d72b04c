"""Print the processes that a command waits for, on a terminal or in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from feedbus.supervisor.client import Busy

LINES_SECONDS = 10.0  # the time between two lines if the output is not a terminal
SHOWN = 3  # the largest number of processes that a line names


class BusyLines:
    """Prints which processes have not ended, while `feedbus down`, `restart` or `apply` waits.

    A terminal shows them on one line, which changes. Any other output gets a line every
    LINES_SECONDS.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        """Create the object; with quiet=True, it prints nothing."""
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._width = 0
        self._reported_at = float("-inf")

    def show(self, busy: Sequence[Busy]) -> None:
        """Print the processes that still work, if the time for another line has come.

        Args:
            busy: the processes for which the command waits; a line names at most SHOWN of them.

        """
        now = time.monotonic()
        if self._quiet or not (self._terminal or now - self._reported_at > LINES_SECONDS):
            return
        text = "; ".join(str(one) for one in busy[:SHOWN])
        if len(busy) > SHOWN:
            text += f"; {len(busy) - SHOWN} more"
        if self._terminal:
            click.echo(f"\r{text:<{self._width}}", nl=False, err=True)
            self._width = len(text)
        elif text:
            click.echo(f"waiting: {text}", err=True)
            self._reported_at = now

    def clear(self) -> None:
        """Remove the line from the terminal, so that the command can print its next output."""
        if self._width:
            click.echo(f"\r{'':<{self._width}}\r", nl=False, err=True)
            self._width = 0
