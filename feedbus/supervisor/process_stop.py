"""Stop one supervised process: send its signal, wait, and copy its last output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from feedbus.supervisor import process_groups
from feedbus.supervisor.watched_process import WatchedProcess

CHECK_SECONDS = 0.05  # the time between two checks whether the process has ended
BUSY_SECONDS = 2.0  # a process that takes longer to end is reported as busy


async def end(
    process: WatchedProcess,
    *,
    stop_signal: int,
    patience_seconds: float,
    report_busy: Callable[[float], None],
) -> bool:
    """Stop a process, and return whether it had to be killed.

    `stop_signal` is sent only to this process, so that child processes of a handler can finish.
    SIGKILL is sent to the process and its child processes.

    Args:
        process: the process. This function sets its `kill_at`. While the function waits,
            ProcessWatcher.shorten_stop() can set an earlier time.
        stop_signal: the number of the signal that asks the process to end.
        patience_seconds: the time until the process is killed; 0 kills it without `stop_signal`.
        report_busy: called once if the process takes longer than BUSY_SECONDS to end. The argument
            is the number of seconds until the process is killed.

    """
    process.stop_asked_at = time.monotonic()
    process.kill_at = process.stop_asked_at + patience_seconds
    if patience_seconds > 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, stop_signal)
    reported = killed = False
    while process.is_alive():
        now = time.monotonic()
        if now >= process.kill_at:
            process_groups.send(process.pid, signal.SIGKILL)
            killed = True
        elif not reported and now - process.stop_asked_at > BUSY_SECONDS:
            reported = True
            report_busy(process.kill_at - now)
        await asyncio.sleep(CHECK_SECONDS)
    return killed


async def wait_until_ended(process: WatchedProcess) -> None:
    """Wait until a process has ended, which another task is stopping with end()."""
    while process.is_alive():  # noqa: ASYNC110 -- children end without an event
        await asyncio.sleep(CHECK_SECONDS)


def copy_last_output(process: Any, log: Callable[[dict[str, Any]], None]) -> None:
    """Copy the output that is still in the pipes of an ended process to its log.

    Args:
        process: the process, with circus's attributes `stdout` and `stderr`.
        log: a stream of circus, such as RotatedLog.

    """
    for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
        if pipe is not None and not pipe.closed:
            os.set_blocking(pipe.fileno(), False)
            with contextlib.suppress(BlockingIOError):
                while piece := os.read(pipe.fileno(), 65536):
                    log({"data": piece, "pid": process.pid, "name": name})
