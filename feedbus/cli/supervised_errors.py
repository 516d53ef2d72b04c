"""Error handling of a command that a supervisor has started."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from feedbus.errors import FeedbusError
from feedbus.logs import EventLog

events = EventLog(__name__)


@contextmanager
def failures_logged(*, supervised: bool) -> Iterator[None]:
    """In a process of the supervisor, log a FeedbusError and exit with code 1; else raise it.

    The commands that the supervisor starts run their work in this `with` block.

    Args:
        supervised: whether a supervisor has started this process.

    """
    try:
        yield
    except FeedbusError as error:
        if not supervised:
            raise
        first, _, more = str(error).partition("\n")
        events.error("process_failed", first, detail=more)
        sys.exit(1)
