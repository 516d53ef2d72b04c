"""Find processes that run old options, old code, or another version of feedbus.

A watcher is the supervisor's object for the processes of one consumer or of one [processes.NAME]
table, or for the operations process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from feedbus.errors import FeedbusError
from feedbus.name_list import listed
from feedbus.plan.changes import Watchers
from feedbus.process.slots import run_folder, slot_path
from feedbus.process.slow_server_notices import notices
from feedbus.process.status_files import changed_code
from feedbus.supervisor.client import all_ready, state
from feedbus.topology import Topology

# How long to wait for a removed consumer that is starting. A consumer that is not ready then is
# perhaps never ready.
START_SECONDS = 30.0
CHECK_SECONDS = 0.1


def compare_watchers(topology: Topology) -> tuple[Watchers, str] | None:
    """Compare the running watchers with a topology; return None if no supervisor runs.

    If a consumer that the topology no longer has is still starting, the function first waits until
    the consumer reads its queue. Without this wait, the plan would find a queue that no consumer
    empties.

    Returns:
        The differences, and a note about changed code, or "" if no code has changed.

    Raises:
        FeedbusError: a supervisor runs, but does not answer, or has another version of feedbus.

    """
    answer = state(topology)
    if answer is None:
        return None
    watchers = _difference(topology, answer)
    starting = [name for name in watchers.removed if _is_starting(name, answer)]
    if starting:
        answer = _await_start(topology, starting)
        if answer is None:
            return None
        watchers = _difference(topology, answer)
    return watchers, outdated_note(
        changed_files_by_watcher(topology, answer), reloads=reloads(answer)
    )


def _await_start(topology: Topology, consumers: Sequence[str]) -> dict[str, Any] | None:
    """Wait until consumers are ready, at most START_SECONDS; return the supervisor's new answer.

    The result is None if the supervisor has ended.
    """
    deadline = time.monotonic() + START_SECONDS
    wait = f"waiting for {listed(consumers)} to start, at most {START_SECONDS:.0f} s"
    with notices.during(wait):
        while True:
            time.sleep(CHECK_SECONDS)
            answer = state(topology)
            if (
                answer is None
                or not any(_is_starting(name, answer) for name in consumers)
                or time.monotonic() > deadline
            ):
                return answer


def _is_starting(name: str, answer: Mapping[str, Any]) -> bool:
    watcher = answer["watchers"].get(name)
    return watcher is not None and (
        watcher["state"] == "starting" or (watcher["state"] == "holding" and not all_ready(watcher))
    )


def _difference(topology: Topology, answer: Mapping[str, Any]) -> Watchers:
    """Return the differences between the running watchers and a topology.

    Args:
        topology: the topology.
        answer: the result of state().

    Raises:
        FeedbusError: the supervisor has another version of feedbus.

    """
    if note := other_version(answer):
        raise FeedbusError(note)
    from feedbus.supervisor.applied_settings import AppliedSettings

    # A supervisor that is still starting has no settings. Then each of its watchers is shown as
    # changed.
    applied = answer.get("settings") or {"watchers": dict.fromkeys(answer["watchers"], "")}
    running = AppliedSettings(
        applied["watchers"], applied.get("exchanges", {}), applied.get("schedules", {})
    )
    watchers = running.difference(AppliedSettings.of(topology), answer["pid"], answer["watchers"])
    return replace(watchers, reloads=reloads(answer))


def other_version(answer: Mapping[str, Any]) -> str:
    """Return what to do if the supervisor runs another version of feedbus than this process.

    Args:
        answer: the supervisor's answer, from client.state().

    Returns:
        One sentence for the operator; "" if both run the same version.

    """
    from feedbus.supervisor.applied_settings import PROTOCOL

    if answer.get("protocol") == PROTOCOL:
        return ""
    return (
        f"the supervisor, process {answer['pid']}, is of another version of feedbus: run"
        " `feedbus down`, then `feedbus up`"
    )


def reloads(answer: Mapping[str, Any]) -> bool:
    """Whether the supervisor runs with `feedbus up --reload`.

    Args:
        answer: the supervisor's answer, from client.state().

    """
    return bool(answer.get("reloads"))


def unapplied_names(topology: Topology, answer: Mapping[str, Any]) -> list[str]:
    """Return the consumers and processes of a topology that the supervisor does not have yet.

    Args:
        topology: the topology of the file.
        answer: the result of state().

    """
    applied = answer.get("settings")
    if not applied:  # the supervisor is still starting
        return []
    return [
        name
        for name in (*topology.consumers, *topology.supervised)
        if name not in applied["watchers"]
    ]


def unapplied_note(names: Sequence[str], *, reloads: bool) -> str:
    """Return a note that consumers or processes are not applied, and what applies them.

    Args:
        names: the names, from unapplied_names(). Without names, the note is "".
        reloads: whether the supervisor applies changes of the file without a command.

    """
    if not names:
        return ""
    applies = "`feedbus up --reload` applies the file" if reloads else "run `feedbus apply`"
    verb = "is" if len(names) == 1 else "are"
    return f"{listed(names)} {verb} in the topology, but not applied: {applies}"


def changed_files_by_watcher(topology: Topology, answer: Mapping[str, Any]) -> dict[str, list[str]]:
    """Map the name of each watcher to the code files that have changed since its processes started.

    The paths of the files are sorted, and relative to the project's folder. Watchers without
    changed files are left out.

    Args:
        topology: the topology of the watchers.
        answer: the supervisor's answer, from client.state().

    """
    folder = run_folder(topology)
    changed = {}
    for name, watcher in answer["watchers"].items():
        files = {
            os.path.relpath(path, topology.root)
            for one in watcher["processes"]
            for path in changed_code(slot_path(folder, name, one["slot"], "ready"), one["pid"])
        }
        if files:
            changed[name] = sorted(files)
    return changed


def outdated_consumers_note(topology: Topology, queue: str) -> str:
    """Return a note about the consumers of a queue that run changed code; "" if there are none.

    The note has the changed files, and says how the consumers are restarted. It is only about
    consumers of this host.

    Args:
        topology: the topology.
        queue: the name of the queue in topology.toml.

    Raises:
        FeedbusError: a supervisor runs, but does not answer.

    """
    answer = state(topology)
    if answer is None:
        return ""
    changed = changed_files_by_watcher(topology, answer)
    of_queue = {
        name: changed[name]
        for name, consumer in topology.consumers.items()
        if consumer.queue.name == queue and name in changed
    }
    return outdated_note(of_queue, reloads=reloads(answer))


def outdated_note(changed: Mapping[str, Sequence[str]], *, reloads: bool) -> str:
    """Return a note about watchers that run changed code, and how they are restarted.

    Args:
        changed: maps the name of each watcher to its changed files.
        reloads: whether the supervisor restarts them without a command.

    Returns:
        One sentence for `feedbus status`, `plan` and others; "" if no code has changed.

    """
    if not changed:
        return ""
    files = sorted({file for one in changed.values() for file in one})
    restarts = (
        "`feedbus up --reload` restarts processes with changed code"
        if reloads
        else "run `feedbus restart` to run the current code"
    )
    return f"code has changed ({listed(files)}) since {listed(list(changed))} started: {restarts}"
