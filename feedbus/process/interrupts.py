"""Signals that end a command: immediately, or by KeyboardInterrupt so that it can clean up."""

import os
import signal
import sys

INTERRUPTED = 128 + signal.SIGINT


def end_at_once() -> None:
    """Make SIGINT, SIGTERM and SIGHUP end this process immediately and without output.

    The command line calls the function before and after each command. Signals that were ignored at
    the start (by nohup, or in the background of a script) stay ignored. The kernel sends process 1
    of a container only the signals for which the process has a handler. So process 1 gets a handler
    that ends it.
    """
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        _install(_exit if os.getpid() == 1 else signal.SIG_DFL, signal_number)


def raise_interrupts(*signal_numbers: int) -> None:
    """Make signals raise KeyboardInterrupt, so that a command can clean up.

    A signal that was ignored at the start stays ignored.

    Args:
        signal_numbers: the signals; without any, only SIGINT (Ctrl-C).

    """
    # Python turns a KeyboardInterrupt in the middle of `from _ssl import …` into a TypeError. So
    # this module is imported before.
    import ssl  # noqa: F401

    for signal_number in signal_numbers or (signal.SIGINT,):
        _install(_raise, signal_number)
    sys.unraisablehook = _end_interrupted


def _install(action: "signal._HANDLER", signal_number: int) -> None:
    if signal.getsignal(signal_number) is not signal.SIG_IGN:
        signal.signal(signal_number, action)


def _exit(signal_number: int, _frame: object) -> None:
    os._exit(128 + signal_number)


def _raise(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _end_interrupted(unraisable: "sys.UnraisableHookArgs") -> None:
    """End the process if a signal has arrived in __del__ or in a callback of the interpreter.

    Python ignores an exception that is raised there, and calls this function instead.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        os._exit(INTERRUPTED)
    sys.__unraisablehook__(unraisable)
