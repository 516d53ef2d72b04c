"""Signals that end a command: immediately, or by KeyboardInterrupt so that it can clean up."""

import os
import signal
import sys

INTERRUPTED = 128 + signal.SIGINT


def end_at_once() -> None:
    """Make the usual signals end this process immediately and without output.

    Signals that were ignored at the start (by nohup, or in the background of a script) stay
    ignored. Process 1 of a container gets only signals with a handler, so it needs handlers.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        _install(_exit if os.getpid() == 1 else signal.SIG_DFL, number)


def raise_interrupts(*numbers: int) -> None:
    """Make signals, by default only Ctrl-C, raise KeyboardInterrupt."""
    for number in numbers or (signal.SIGINT,):
        _install(_raise, number)
    sys.unraisablehook = _end_interrupted


def _install(action: "signal._HANDLER", number: int) -> None:
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, action)


def _exit(number: int, _frame: object) -> None:
    os._exit(128 + number)


def _raise(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _end_interrupted(unraisable: "sys.UnraisableHookArgs") -> None:
    """End the process if a signal arrived in code that cannot raise, such as __del__."""
    if unraisable.exc_type is KeyboardInterrupt:
        os._exit(INTERRUPTED)
    sys.__unraisablehook__(unraisable)
