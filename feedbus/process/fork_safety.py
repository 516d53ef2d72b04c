"""Close inherited descriptors in a forked process if they belong only to its parent process.

A handler can fork, with os.fork() or multiprocessing. The forked process inherits the descriptors
of connections and locks. Without this module, the forked process would keep the descriptors open
after its parent process has ended.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import weakref
from typing import NoReturn, Protocol


class HasFileno(Protocol):
    """A socket, or another object with a descriptor, as an argument of close_in_forks()."""

    def fileno(self) -> int:
        """Return the number of the descriptor, or -1 if it is closed."""


_holders: weakref.WeakSet[HasFileno] = weakref.WeakSet()


def close_in_forks(holder: HasFileno) -> None:
    """Replace a holder's descriptor by /dev/null in every process that is forked from now on.

    Called for each connection and lock that only this process may use.

    Args:
        holder: the object with the descriptor; it can be deleted as usual.

    """
    _holders.add(holder)


def end_fork() -> NoReturn:
    """End a forked process in which the handler has ended; print the error of the handler.

    This function is called in a `finally` block around the call of a handler, if the process id has
    changed: the handler has forked and has not ended the forked process. Without the call, the
    forked process would go on like its parent process, and settle the same messages again. The exit
    code is 0 if the handler has returned, 1 after an error, or the code of a SystemExit.
    """
    error = sys.exc_info()[1]
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(error)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _close() -> None:
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for holder in list(_holders):
        with contextlib.suppress(Exception):  # the descriptor is already closed
            descriptor = holder.fileno()
            if descriptor >= 0:
                os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


os.register_at_fork(after_in_child=_close)
