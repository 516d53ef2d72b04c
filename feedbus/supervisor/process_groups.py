"""Process groups: each supervised process leads a group of itself and its child processes.

The id of a group is the process id of its leader. When the leader has ended, the supervisor ends
the rest of the group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

import psutil

from feedbus.process.file_locks import last_holder, lock_holder
from feedbus.process.process_setup import RUN_FOLDER
from feedbus.process.slots import slot_locks

GRACE_SECONDS = 1.0  # the time between SIGTERM and SIGKILL
CHECK_SECONDS = 0.02  # the time between two checks whether the processes have ended


def exists(group: int) -> bool:
    """Return whether a process group has any process, also an ended one that was not reaped.

    Args:
        group: the id of the group, which is the process id of its leader.

    """
    return send(group, 0)


def send(group: int, signal_number: int) -> bool:
    """Send a signal to every process of a group; return False if the group has no process.

    Args:
        group: the id of the group, which is the process id of its leader.
        signal_number: the signal; 0 only checks whether the group has a process.

    """
    try:
        os.killpg(group, signal_number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # the group has processes, but they have changed their user
    return True


async def end(group: int) -> bool:
    """End the remaining processes of a group by SIGTERM, and after a second by SIGKILL.

    The leader has ended already. This function does not reap the processes that end.

    Args:
        group: the id of the group, which is the process id of its leader.

    Returns:
        Whether SIGKILL was necessary.

    """
    if not send(group, signal.SIGTERM):
        return False
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        await asyncio.sleep(CHECK_SECONDS)
        if not exists(group):
            return False
    send(group, signal.SIGKILL)
    return True


async def end_descendants(spared: Collection[int], reap: Callable[[], None]) -> None:
    """End every descendant of this process by SIGTERM, and after a second by SIGKILL.

    The supervisor calls the function at its end. Descendants that have left their group are ended,
    too. This process finds all descendants, because it becomes the parent of a descendant whose
    parent ends.

    Args:
        spared: ids of processes that are not to be ended.
        reap: takes the exit codes of children that have ended.

    """
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        signalled = set(spared)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            reap()
            left = psutil.Process().children(recursive=True)
            for one in left:
                if one.pid not in signalled:
                    _signal(one, signal_number)
                    signalled.add(one.pid)
            if all(one.pid in spared for one in left):
                return
            await asyncio.sleep(CHECK_SECONDS)


def _signal(process: psutil.Process, signal_number: int) -> None:
    with contextlib.suppress(psutil.Error):  # the process has ended, or belongs to another user
        process.send_signal(signal_number)


def end_strays(run_folder: Path) -> list[int]:
    """End the process groups of an earlier supervisor that was killed.

    The supervisor calls the function at its start, and `feedbus down` at its end. The leaders end
    by themselves when their supervisor ends, but their child processes may not. Each leader has
    written its process id, which is the id of the group, into the lock file of its slot. Since
    then, the kernel may have given the same id to the group of another program. So only those
    processes of a group are ended that have inherited the variable RUN_FOLDER from the supervisor.

    Args:
        run_folder: the folder of the lock files.

    Returns:
        The ids of the processes that were ended.

    """
    groups = {
        group
        for lock in slot_locks(run_folder)
        if lock_holder(lock) is None and (group := last_holder(lock))
    }
    strays = [one for group in groups if exists(group) for one in _members(group, run_folder)]
    for one in strays:
        _signal(one, signal.SIGTERM)
    _, alive = psutil.wait_procs(strays, timeout=GRACE_SECONDS)
    for one in alive:
        _signal(one, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=GRACE_SECONDS)
    return [one.pid for one in strays]


def _members(group: int, run_folder: Path) -> list[psutil.Process]:
    """Return the running processes of a group that a supervisor of this folder has started."""
    found = []
    for one in psutil.process_iter():
        try:
            in_group = os.getpgid(one.pid) == group and one.status() != psutil.STATUS_ZOMBIE
            if in_group and one.environ().get(RUN_FOLDER) == str(run_folder):
                found.append(one)
        except (psutil.Error, OSError):
            continue  # the process has ended meanwhile, or belongs to another user
    return found
