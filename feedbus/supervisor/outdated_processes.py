"""Find processes that run old options, old code, or another version of feedbus."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from feedbus.errors import FeedbusError
from feedbus.name_list import listed
from feedbus.plan.changes import Watchers
from feedbus.process.slots import run_folder, slot_path
from feedbus.process.status_files import changed_code
from feedbus.supervisor.client import state
from feedbus.topology import Topology


def watched(topology: Topology) -> tuple[Watchers, str] | None:
    """Compare the running watchers with a topology; return None if nothing runs.

    Returns:
        The differences, and a note about changed code, or "" if no code has changed.

    Raises:
        FeedbusError: a supervisor runs, but does not answer, or has another version of feedbus.

    """
    found = state(topology)
    if found is None:
        return None
    if note := other_version(found):
        raise FeedbusError(note)
    from feedbus.supervisor.applied_settings import AppliedSettings

    known = found.get("settings") or {"watchers": dict.fromkeys(found["watchers"], "")}
    running = AppliedSettings(known["watchers"], known.get("exchanges", {}))
    watchers = running.difference(AppliedSettings.of(topology), found["pid"], found["watchers"])
    watchers = replace(watchers, reloads=reloads(found))
    return watchers, outdated_note(outdated(topology, found), reloads=reloads(found))


def other_version(found: Mapping[str, Any]) -> str:
    """Return what to do if the supervisor is of another version of feedbus, else ""."""
    from feedbus.supervisor.applied_settings import PROTOCOL

    if found.get("protocol") == PROTOCOL:
        return ""
    return (
        f"the supervisor, process {found['pid']}, is of another version of feedbus: run"
        " `feedbus down`, then `feedbus up`"
    )


def reloads(found: Mapping[str, Any]) -> bool:
    """Whether the supervisor follows the project's files, as `feedbus up --reload` does."""
    return bool(found.get("reloads"))


def outdated(topology: Topology, found: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return, for each watcher, the files that have changed since one of its processes started.

    Args:
        topology: the topology of the watchers.
        found: the result of state().

    """
    folder = run_folder(topology)
    changed = {}
    for name, watcher in found["watchers"].items():
        files = {
            os.path.relpath(path, topology.root)
            for one in watcher["processes"]
            for path in changed_code(slot_path(folder, name, one["slot"], "ready"), one["pid"])
        }
        if files:
            changed[name] = sorted(files)
    return changed


def outdated_note(changed: Mapping[str, Sequence[str]], *, reloads: bool) -> str:
    """Return a note about watchers that run changed code, and what restarts them, or "".

    Args:
        changed: the changed files of each watcher.
        reloads: whether the supervisor restarts them without a command.

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
