"""Stop a running supervisor and its processes from another process, for `feedbus down`.

Each process that the supervisor has started holds a slot: it has locked the lock file of the slot.
So the processes are found also if their supervisor was killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from feedbus.errors import FeedbusError
from feedbus.process.file_locks import lock_holder, take_lock
from feedbus.process.slots import run_folder, slot_locks
from feedbus.supervisor.arbiter import lock_path
from feedbus.supervisor.client import (
    CHECK_SECONDS,
    NOTHING,
    PROGRESS_SECONDS,
    Busy,
    Progress,
    ask,
    busy,
    state,
)
from feedbus.topology import Topology

# A supervisor that gives no answer for this time is killed. If the topology no longer has the
# consumer or table of a process, the process is killed if it has not ended after this time.
PATIENCE_SECONDS = 10.0


def stop(
    topology: Topology, *, within_seconds: float | None = None, progress: Progress = lambda _: None
) -> bool:
    """Stop the supervisor and its processes, and delete their files in the run folder.

    `feedbus down` calls the function, which returns when all processes have ended. Processes of an
    earlier supervisor are stopped, too. A supervisor that does not answer for some time is killed.

    Args:
        topology: the topology of the supervisor.
        within_seconds: the longest time that a process may take before it is killed; None for the
            stop time of each process.
        progress: called repeatedly with the processes that have not ended yet.

    Returns:
        False if no process ran.

    """
    from feedbus.supervisor.process_groups import end_strays

    supervised = _end_supervisor(topology, within_seconds, progress)
    # If the supervisor was killed, its processes end by themselves, but this may take some time. So
    # wait for them.
    folder = run_folder(topology)
    slots = _end_holders(topology, within_seconds, progress)
    strays = end_strays(folder)  # child processes that have not ended with their parents
    for lock in slot_locks(folder):
        with contextlib.suppress(BlockingIOError):
            handle = take_lock(lock)
            lock.unlink(missing_ok=True)
            os.close(handle)
    for pattern in ("*.ready", "*.sock", "*.url"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    return supervised or slots or bool(strays)


def _end_supervisor(topology: Topology, within_seconds: float | None, progress: Progress) -> bool:
    """End the supervisor with its processes; return False if no supervisor runs.

    At SIGTERM, the supervisor ends its processes and then itself. If the supervisor does not answer
    for PATIENCE_SECONDS, it is killed.
    """
    lock = lock_path(topology)
    pid = lock_holder(lock)
    if pid is None:
        return False
    _signal(pid, signal.SIGTERM)
    silent_since: float | None = None
    next_report = time.monotonic() + (PROGRESS_SECONDS if within_seconds is None else 0.0)
    while (pid := lock_holder(lock)) is not None:
        now = time.monotonic()
        if now >= next_report:
            next_report = now + PROGRESS_SECONDS
            try:
                if within_seconds is not None and ask(
                    topology, "feedbus-down", seconds=within_seconds
                ):
                    within_seconds = None  # the supervisor has got the limit
                progress(busy(state(topology) or NOTHING))
                silent_since = None
            except FeedbusError:  # the supervisor is starting, or hangs
                silent_since = silent_since or now
                if now - silent_since > PATIENCE_SECONDS:
                    _signal(pid, signal.SIGKILL)
        time.sleep(CHECK_SECONDS)
    return True


def _end_holders(topology: Topology, within_seconds: float | None, progress: Progress) -> bool:
    """End the processes that still hold a lock file, by SIGTERM; kill one after its stop time.

    The lock files are in the run folder; the process of each slot holds one. A slot is the number
    of a process among the processes of its consumer.

    Returns:
        Whether there was such a process.

    """
    started = shown = time.monotonic()
    patience = {
        lock: _patience_seconds(topology, _holder_name(lock), within_seconds)
        for lock in slot_locks(run_folder(topology))
    }
    holders = {lock: pid for lock in patience if (pid := lock_holder(lock)) is not None}
    any_held = bool(holders)
    for pid in holders.values():
        _signal(pid, signal.SIGTERM)
    while holders:
        elapsed = time.monotonic() - started
        for lock, pid in holders.items():
            if elapsed >= patience[lock]:
                _signal(pid, signal.SIGKILL)
        if time.monotonic() - shown > PROGRESS_SECONDS:
            shown = time.monotonic()
            progress(
                [
                    Busy(_holder_name(lock), pid, elapsed, max(patience[lock] - elapsed, 0.0))
                    for lock, pid in holders.items()
                ]
            )
        time.sleep(CHECK_SECONDS)
        holders = {lock: pid for lock in holders if (pid := lock_holder(lock)) is not None}
    return any_held


def _holder_name(lock: Path) -> str:
    """Return the name of the consumer or process that holds a slot's lock."""
    return lock.name.rsplit(".", 2)[0].replace("%2F", "/")


def _patience_seconds(topology: Topology, name: str, within_seconds: float | None) -> float:
    """Return how long the holder of a slot may take to end before it is killed."""
    from feedbus.supervisor.watcher_options import stop_seconds

    consumer = topology.consumers.get(name)
    source = consumer.queue if consumer else topology.supervised.get(name)
    patience = PATIENCE_SECONDS if source is None else stop_seconds(source)
    return patience if within_seconds is None else min(patience, within_seconds)


def _signal(pid: int, number: int) -> None:
    if pid:  # 0 if the id of the holder is not known
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
