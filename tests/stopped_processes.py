"""Stop a process with SIGSTOP, and wait until the kernel has stopped it."""

from __future__ import annotations

import os
import signal


def stop_and_wait(pid: int) -> None:
    """Stop a child process of this process, and return when it is stopped.

    A signal that is sent later cannot be handled before it then: of several pending signals the
    kernel delivers the one with the lowest number first, so SIGTERM would come before SIGSTOP.
    """
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)
