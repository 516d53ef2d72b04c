"""The state of a watcher and of its processes, as `feedbus status` shows it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from feedbus.process.status_files import changed_code, hold_reason
from feedbus.supervisor.watched_process import WatchedProcess
from feedbus.supervisor.watcher import ProcessWatcher


def state(watcher: ProcessWatcher) -> dict[str, Any]:
    """Return the state of a watcher for `feedbus status`, as JSON values.

    The key "state" is the first of these that is true for the watcher:

    - "stopping": its processes are being stopped.
    - "leaving": the topology no longer has it; its consumer empties its queue.
    - "gave up": too many processes in a row have failed right after their start, or the operating
      system has refused to start a process.
    - "stopped": an operator has stopped it, or `feedbus apply` has paused it.
    - "restarting": a process has ended by itself, and is started again after a wait.
    - "holding": a process holds: it waits during an outage, or it handles only waiting records,
      because the limit `waiting_limit` of its queue is reached. A process can hold before it is
      ready, for example if a resource of its handler cannot be opened.
    - "starting": not all processes are ready.
    - "running".

    The key "processes" has a list with the state of each process. The other keys are the wanted
    number of processes, the number of restarts, and how the last process that ended has ended.
    """
    activity = _activity(watcher)
    processes = [
        {
            "pid": process.pid,
            "slot": process.wid,
            "ready": process.pid in watcher.ready_pids,
            "uptime_seconds": round(process.age(), 1),
            "holding": _hold_reason(watcher, process),
            "stopping_seconds": _seconds_since(process.stop_asked_at),
            "killed_in_seconds": _seconds_until_kill(process),
        }
        for process in watcher.processes.values()
    ]
    return {
        "state": activity,
        "processes": processes,
        "wanted_processes": watcher.numprocesses,
        "restarts": watcher.restarts,
        "last_exit": watcher.last_exit,
    }


def _activity(watcher: ProcessWatcher) -> str:
    if watcher.is_stopping():
        return "stopping"
    if watcher.leaving or watcher.gave_up:
        return "leaving" if watcher.leaving else "gave up"
    if not watcher.is_active():
        return str(watcher.status())
    if watcher.waits_to_restart:
        return "restarting"
    if _is_holding(watcher):
        return "holding"
    return "running" if watcher.all_ready else "starting"


def _is_holding(watcher: ProcessWatcher) -> bool:
    """Whether a process of a watcher holds; such a process continues by itself."""
    return any(_hold_reason(watcher, one) for one in watcher.processes.values())


def is_ready_or_holding(watcher: ProcessWatcher) -> bool:
    """Whether a watcher has all its processes, and each of them is ready or holds."""
    processes = watcher.processes.values()
    return (
        not watcher.gave_up
        and bool(watcher.is_active())
        and len(processes) == watcher.numprocesses
        and all(one.pid in watcher.ready_pids or _hold_reason(watcher, one) for one in processes)
    )


def hold_reasons(watcher: ProcessWatcher) -> list[str]:
    """Return a line for each different reason for which processes of a watcher hold.

    A consumer holds during an outage of the broker, the store or another service, and while
    `waiting_limit` is reached. A watcher that has given up ends its processes, so it has no line.
    """
    if watcher.gave_up:
        return []
    processes = watcher.processes.values()
    reasons = dict.fromkeys(_hold_reason(watcher, process) for process in processes)
    return [f"{watcher.name} holds: {reason}" for reason in reasons if reason]


def why_not_ready(watcher: ProcessWatcher) -> str:
    """Return a line for the operator about why a watcher is not ready, with the path of its log."""
    where = f"its log is {watcher.stdout_stream.path}"
    if watcher.gave_up:
        why = watcher.gave_up_because
        return f"{watcher.name} is not restarted any more, because {why}; {where}"
    last = f", its last process ended with {watcher.last_exit}" if watcher.last_exit else ""
    return f"{watcher.name} is not ready yet{last}; {where}"


def changed_files(watcher: ProcessWatcher) -> list[Path]:
    """Return the paths of the code files that have changed since a process imported them.

    Args:
        watcher: the watcher of the processes.

    """
    return [
        path
        for process in watcher.processes.values()
        for path in changed_code(watcher.files.path(process.wid, "ready"), process.pid)
    ]


def _hold_reason(watcher: ProcessWatcher, process: WatchedProcess) -> str:
    return hold_reason(watcher.files.folder, watcher.name, process.wid, process.pid)


def _seconds_since(since: float | None) -> float | None:
    return None if since is None else round(time.monotonic() - since, 1)


def _seconds_until_kill(process: WatchedProcess) -> float | None:
    if process.stop_asked_at is None:
        return None
    return round(max(process.kill_at - time.monotonic(), 0.0), 1)
