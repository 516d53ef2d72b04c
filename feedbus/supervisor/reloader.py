"""Apply changes of a project's files while it runs, for `feedbus up --reload`.

The reloader reads the times of the files twice a second. A library that gets events from the
operating system (watchfiles) would notice a change earlier. But such a library gets no events if
another machine or the host of a container changes the files, and it would be another dependency.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

from feedbus.errors import FeedbusError
from feedbus.logs import EventLog
from feedbus.name_list import listed
from feedbus.supervisor.run_command import run_command
from feedbus.supervisor.supervision import Supervision
from feedbus.supervisor.watcher import ProcessWatcher
from feedbus.supervisor.watcher_options import SUPERVISOR
from feedbus.supervisor.watcher_state import changed_files

events = EventLog(__name__)

CHECK_SECONDS = 0.5  # the time between two readings of the files' times
SKIPPED = {"__pycache__", "node_modules"}  # folders that are not read
# The longest time of `feedbus check`. For `feedbus apply`, the longest stop time of a process is
# added, because it waits until the processes with changed options have ended.
COMMAND_SECONDS = 60.0
SHOWN = 5  # the largest number of changed files that a log line names

Times = dict[str, int]


def file_times(root: Path, topology: Path, state: Path) -> Times:
    """Return the modification times of the topology file and of all Python files in a folder.

    The result maps each path to its time, in nanoseconds since 1970. The reloader compares two
    results. Hidden folders and virtual environments are left out.

    Args:
        root: the folder of the project.
        topology: the topology file.
        state: the folder `var`, which is left out.

    """
    times = {}
    for path in (str(topology), *_python_files(str(root), str(state))):
        try:
            times[path] = os.stat(path).st_mtime_ns  # noqa: PTH116 -- hundreds of texts
        except OSError:
            continue  # deleted just now
    return times


def _python_files(folder: str, state: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:
        return
    if any(entry.name == "pyvenv.cfg" for entry in found):
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in SKIPPED and entry.name[0] != "." and entry.path != state:
                yield from _python_files(entry.path, state)
        elif entry.name.endswith(".py"):
            yield entry.path


class Reloader:
    """Applies a changed topology, and restarts processes whose code has changed.

    `feedbus up --reload` has one Reloader object while it runs. First, `feedbus check` checks the
    files in a separate process. If there is a problem, it is logged, and the running system is not
    changed. Then `feedbus apply` applies a changed topology. If it fails, the system may be changed
    in part.

    If a topology could not be applied, the reloader tries again after the next change of any file,
    because this file may have been the problem: for example, a missing module. The imports of a
    process of [processes] are not known, so each change of a Python file restarts such a process.
    """

    def __init__(self, supervision: Supervision) -> None:
        """Create the reloader for the files of a running system."""
        self._supervision = supervision
        self._times = self._file_times()
        self._unapplied = False  # whether the topology has changed and could not be applied yet

    def _file_times(self) -> Times:
        topology = self._supervision.topology
        return file_times(topology.root, topology.path, topology.var)

    async def run(self) -> None:
        """Check the times of the files twice a second, and apply changes.

        Changes are applied when no further file has changed for half a second. The task ends when
        the supervisor stops.
        """
        changed: set[str] = set()
        while not self._supervision.stopping:
            await asyncio.sleep(CHECK_SECONDS)
            before, self._times = self._times, self._file_times()
            newly_changed = {path for path, _ in before.items() ^ self._times.items()}
            if changed and not newly_changed:
                try:
                    await self._follow(changed)
                except (FeedbusError, OSError) as error:
                    text = f"{error}; feedbus tries again when files change the next time"
                    events.warning("reload_failed", text, consumer=SUPERVISOR)
            changed = changed | newly_changed if newly_changed else set()

    async def _follow(self, changed: set[str]) -> None:
        topology = self._supervision.topology
        self._unapplied = self._unapplied or str(topology.path) in changed
        step = "applies the topology" if self._unapplied else "restarts the processes that use them"
        text = f"files have changed: {_list_paths(changed, topology.root)}; feedbus {step}"
        events.info("files_changed", text, consumer=SUPERVISOR)
        if not (self._unapplied or self._outdated_watchers(changed)):
            return
        if failure := await self._run("check", limit_seconds=COMMAND_SECONDS):
            text = f"{failure}; the running system was not changed; correct the files and save them"
            events.warning("reload_refused", text, consumer=SUPERVISOR)
            return
        if self._unapplied and not self._supervision.stopping:
            # With --no-wait, the command does not wait until old queues are drained. Such a queue
            # may drain only after the next change of the files, for example of its handler. The
            # reloader applies this next change only after the command has ended.
            stop_seconds = (float(one.graceful_timeout) for one in self._supervision.watchers)
            limit_seconds = COMMAND_SECONDS + max(stop_seconds, default=0.0)
            if failure := await self._run(
                "apply", "--yes", "--no-wait", limit_seconds=limit_seconds
            ):
                text = (
                    f"{failure}, and may have made a part of the changes; correct the cause and"
                    " save a file: feedbus then applies the topology again"
                )
                events.warning("reload_failed", text, consumer=SUPERVISOR)
                return
            self._unapplied = False
        outdated = self._outdated_watchers(changed)
        if outdated and not self._supervision.stopping:
            await self._supervision.restart(outdated)

    def _outdated_watchers(self, changed: set[str]) -> list[ProcessWatcher]:
        """Return the watchers to restart: they may run changed code, or have given up.

        A watcher gives up after too many failures of its processes right after their start.

        Args:
            changed: the paths of the files that have changed.

        """
        supervision = self._supervision
        code_changed = any(path.endswith(".py") for path in changed)
        # It is not known which Python files these processes have imported.
        unknown = supervision.topology.processes if code_changed else ()
        return [
            watcher
            for watcher in supervision.watchers
            if not watcher.leaving
            and (watcher.gave_up or watcher.name in unknown or changed_files(watcher))
        ]

    async def _run(self, *words: str, limit_seconds: float) -> str:
        """Run a command of feedbus; return how it has failed, or "" if it has succeeded.

        The lines of the command are logged, but not those of a `feedbus check` without a problem.
        If the command has failed, they are warnings, because they have the reason.
        """
        printed, code = await run_command(
            self._supervision.topology.path, *words, limit_seconds=limit_seconds
        )
        if self._supervision.stopping:
            return ""  # a terminal sends Ctrl-C to the command, too: its exit code says nothing
        if words[0] != "check" or code != 0:
            for line in filter(None, printed.splitlines()):
                if code == 0:
                    events.info("command_output", line, consumer=SUPERVISOR, command=words[0])
                else:
                    events.warning("command_output", line, consumer=SUPERVISOR, command=words[0])
        if code is None:
            return f"`feedbus {words[0]}` got SIGTERM after {limit_seconds:.0f} s"
        return f"`feedbus {words[0]}` has failed" if code else ""


def _list_paths(paths: set[str], root: Path) -> str:
    return listed(sorted(os.path.relpath(path, root) for path in paths), SHOWN)
