"""Signals that end a consumer cleanly."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopping_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call stop() at the first SIGTERM or SIGINT in a `with` block, and ignore further signals.

    A signal that the process ignores already stays ignored. A signal to a process that a handler
    has forked ends the forked process.

    `feedbus run` uses it around the run of a consumer.

    Args:
        stop: requests the end of the run; it is called within the signal handler.

    """
    consumer_pid, called = os.getpid(), False

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal called
        if os.getpid() == consumer_pid:
            if not called:
                called = True
                stop()
        else:  # a process that a handler has forked ends at once
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    earlier = {
        number: signal.signal(number, on_signal)
        for number in (signal.SIGTERM, signal.SIGINT)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, action in earlier.items():
            signal.signal(number, action)
