"""Set up a supervised process: its parent-death signal, its signal actions, its memory limit."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time

# These are names of environment variables. The supervisor sets both for the processes it starts.
SUPERVISED = "FEEDBUS_SUPERVISED"  # the supervisor's process id; "" after follow_parent()
RUN_FOLDER = "FEEDBUS_RUN_FOLDER"  # the folder of locks; child processes inherit the variable
PR_SET_PDEATHSIG = 1


def default_signals() -> None:
    """Restore the default action of every signal that this process ignores or blocks.

    A supervisor under nohup ignores SIGHUP, and Python always ignores SIGPIPE. Without this
    function, a program that the supervisor starts would ignore them, too.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def follow_parent() -> bool:
    """Let this process get SIGTERM when the supervisor ends; called at the start of a process.

    On Linux the kernel sends the signal. On other systems a thread of this process sends it.

    Returns:
        Whether there is a supervisor.

    Raises:
        SystemExit: the supervisor has already ended.

    """
    parent_id = os.environ.get(SUPERVISED, "")
    if not parent_id:
        return False
    # The supervisor is not the parent of this process's child processes. They inherit the empty
    # value, so their follow_parent() does nothing. The variable stays set, because hold_slot()
    # checks whether it is set.
    os.environ[SUPERVISED] = ""
    default_signals()
    # As usual in Python, a write to a closed socket or to a file at its size limit raises an error.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    parent = int(parent_id)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    else:
        threading.Thread(
            target=_watch, args=(parent,), name="supervisor watch", daemon=True
        ).start()
    if os.getppid() != parent:
        msg = "the supervisor has ended"
        raise SystemExit(msg)
    return True


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def limit_memory(limit_bytes: int | None) -> None:
    """Limit the data memory of this process (RLIMIT_DATA), for the option memory_limit.

    Above the limit, Python raises MemoryError.

    Args:
        limit_bytes: the limit in bytes; None sets no limit.

    """
    if limit_bytes is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    ceiling = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (ceiling, hard))
