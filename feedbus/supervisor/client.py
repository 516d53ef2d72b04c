"""Ask the running supervisor, from another process, what runs; and end it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feedbus.errors import FeedbusError
from feedbus.plan.changes import Watchers
from feedbus.process.file_locks import lock_holder, take_lock
from feedbus.process.lifeline import (
    changed_code,
    run_folder,
    slot_locks,
    slot_path,
)
from feedbus.supervisor.arbiter import lock_path
from feedbus.supervisor.watcher_options import endpoint
from feedbus.topology import Topology

ANSWER_SECONDS = 10.0  # it answers nothing while it forks processes
PATIENCE_SECONDS = 10.0  # beyond the time that its processes may take
LOOK_SECONDS = 0.05
LOOK_MILLISECONDS = 50
PROGRESS_SECONDS = 1.0
SHOWN = 3
NOTHING: Mapping[str, Any] = {"watchers": {}}


@dataclass(frozen=True, slots=True)
class Busy:
    """A process that has been asked to end and still works.

    Attributes:
        name: of its consumer or process.
        pid: its process id.
        seconds: since it was asked.
        left_seconds: until it is killed.

    """

    name: str
    pid: int
    seconds: float
    left_seconds: float

    def __str__(self) -> str:
        """Describe it for people."""
        return (
            f"{self.name} (process {self.pid}) has been busy for {self.seconds:.0f} s,"
            f" killed in {self.left_seconds:.0f} s"
        )


Progress = Callable[[Sequence[Busy]], None]


def state(topology: Topology) -> dict[str, Any] | None:
    """Return each watcher's state, processes and restarts, or None when no supervisor runs.

    Raises:
        FeedbusError: one runs, but does not answer.

    """
    return ask(topology, "feedbus")


def ask(
    topology: Topology,
    command: str,
    *,
    progress: Progress | None = None,
    **properties: Any,
) -> dict[str, Any] | None:
    """Send the supervisor a command and return its answer, None when no supervisor runs.

    Args:
        topology: whose supervisor.
        command: as circusctl knows it.
        progress: for a command that waits for processes to end: called now and then with those
            that are still busy. Without it the answer has to come at once.
        properties: the command's.

    Raises:
        FeedbusError: one runs, but does not answer.

    """
    pid = lock_holder(lock_path(topology))
    if pid is None:
        return None
    import zmq

    os.chdir(topology.root)  # the socket's address is relative
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    try:
        socket.connect(endpoint(topology))
        message = {"id": uuid.uuid4().hex, "command": command, "properties": properties}
        socket.send(json.dumps(message).encode())
        started = shown = time.monotonic()
        while not socket.poll(LOOK_MILLISECONDS):
            if lock_holder(lock_path(topology)) != pid:
                return None
            now = time.monotonic()
            if progress is None and now - started > ANSWER_SECONDS:
                msg = f"the supervisor, process {pid}, does not answer; `feedbus down` ends it"
                raise FeedbusError(msg)
            if progress is not None and now - shown > PROGRESS_SECONDS:
                shown = now
                with contextlib.suppress(FeedbusError):  # it is at work: the answer will come
                    progress(busy(state(topology) or NOTHING))
        answer: dict[str, Any] = json.loads(socket.recv())
    finally:
        socket.close()
        context.term()
    return answer


def busy(found: Mapping[str, Any]) -> list[Busy]:
    """Return which processes have been asked to end and still work, the longest first."""
    waiting = [
        Busy(name, one["pid"], one["stopping_seconds"], one["killed_in_seconds"])
        for name, watcher in found["watchers"].items()
        for one in watcher["processes"]
        if one["stopping_seconds"] is not None
    ]
    return sorted(waiting, key=lambda one: -one.seconds)


def watched(topology: Topology) -> tuple[Watchers, str] | None:
    """Return how the running watchers differ from a topology's, None when no supervisor runs.

    The text is a note about code that has changed, "" when none has.

    Raises:
        FeedbusError: one runs, but does not answer, or is of another version of feedbus.

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
    return watchers, outdated_note(outdated(topology, found))


def other_version(found: Mapping[str, Any]) -> str:
    """Return what to do where a supervisor of another version of feedbus answered, else ""."""
    from feedbus.supervisor.applied_settings import PROTOCOL

    if found.get("protocol") == PROTOCOL:
        return ""
    return (
        f"the supervisor, process {found['pid']}, is of another version of feedbus: run"
        " `feedbus down`, then `feedbus up`"
    )


def outdated(topology: Topology, found: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return, by watcher, which of its files have changed since one of its processes began.

    Args:
        topology: whose watchers.
        found: what state() has returned.

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


def outdated_note(changed: Mapping[str, Sequence[str]]) -> str:
    """Describe which watchers run code that has changed, and what to do; "" when none does."""
    if not changed:
        return ""
    files = sorted({file for one in changed.values() for file in one})
    return (
        f"code has changed ({_few(files)}) since {_few(list(changed))} started:"
        " `feedbus restart` runs it as it is now"
    )


def _few(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


class Follower:
    """The running supervisor, as apply speaks to it."""

    def __init__(self, topology: Topology, text: str, progress: Progress = lambda _: None) -> None:
        """Have it follow a topology, which is what the text says."""
        self._topology = topology
        self._text = text
        self._progress = progress

    def pause(self, consumers: Sequence[str]) -> None:
        """Stop consumers whose queue is to be replaced."""
        self._ask(pause=list(consumers))

    def follow(self) -> None:
        """Take the new topology over: add, remove and restart what differs."""
        self._ask(text=self._text)

    def finish(self) -> None:
        """End the consumers that the topology has no more."""
        self._ask()

    def _ask(self, **properties: Any) -> None:
        answer = ask(
            self._topology, "feedbus-apply", progress=self._progress, waiting=True, **properties
        )
        if answer is None:
            return  # it has ended meanwhile: the next `feedbus up` goes by the file
        refused = answer.get("refused", answer.get("reason", "it does not say why"))
        if refused:
            msg = f"the supervisor refuses: {refused}"
            raise FeedbusError(msg)


def stop(
    topology: Topology, *, within_seconds: float | None = None, progress: Progress = lambda _: None
) -> bool:
    """End the supervisor and whatever holds a slot, and clear their files away.

    Args:
        topology: whose.
        within_seconds: the longest that a process may take, None for its own stop time.
        progress: called now and then with what is still busy.

    Returns:
        False when nothing ran.

    """
    from feedbus.supervisor.groups import end_strays

    supervised = _end_supervisor(topology, within_seconds, progress)
    # A killed supervisor's processes are ending by themselves, but may need a while.
    folder = run_folder(topology)
    slots = [_end_holder(topology, lock, within_seconds, progress) for lock in slot_locks(folder)]
    strays = end_strays(folder)
    for lock in slot_locks(folder):
        with contextlib.suppress(BlockingIOError):
            handle = take_lock(lock)
            lock.unlink(missing_ok=True)
            os.close(handle)
    for pattern in ("*.ready", "*.sock", "*.url"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    return supervised or any(slots) or bool(strays)


def _end_supervisor(topology: Topology, within_seconds: float | None, progress: Progress) -> bool:
    """Have the supervisor end; kill one that does not answer."""
    lock = lock_path(topology)
    pid = lock_holder(lock)
    if pid is None:
        return False
    _signal(pid, signal.SIGTERM)
    silent_since: float | None = None
    next_look = time.monotonic() + (PROGRESS_SECONDS if within_seconds is None else 0.0)
    while (pid := lock_holder(lock)) is not None:
        now = time.monotonic()
        if now >= next_look:
            next_look = now + PROGRESS_SECONDS
            try:
                if within_seconds is not None and ask(
                    topology, "feedbus-down", seconds=within_seconds
                ):
                    within_seconds = None
                progress(busy(state(topology) or NOTHING))
                silent_since = None
            except FeedbusError:  # it is starting, or hangs
                silent_since = silent_since or now
                if now - silent_since > PATIENCE_SECONDS:
                    _signal(pid, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)
    return True


def _end_holder(
    topology: Topology, lock: Any, within_seconds: float | None, progress: Progress
) -> bool:
    """End the process that holds a slot: SIGTERM, and SIGKILL when its time is over."""
    from feedbus.supervisor.watcher_options import stop_seconds

    name = lock.name.rsplit(".", 2)[0].replace("%2F", "/")
    consumer = topology.consumers.get(name)
    source = consumer.queue if consumer else topology.supervised.get(name)
    patience = PATIENCE_SECONDS if source is None else stop_seconds(source)
    if within_seconds is not None:
        patience = min(patience, within_seconds)
    started = shown = time.monotonic()
    pid = lock_holder(lock)
    if pid is None:
        return False
    _signal(pid, signal.SIGTERM)
    while (pid := lock_holder(lock)) is not None:
        now = time.monotonic()
        if now - started >= patience:
            _signal(pid, signal.SIGKILL)
        elif now - shown > PROGRESS_SECONDS:
            shown = now
            progress([Busy(name, pid, now - started, patience - (now - started))])
        time.sleep(LOOK_SECONDS)
    return True


def _signal(pid: int, number: int) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def restart(topology: Topology, name: str, progress: Progress) -> Iterator[Mapping[str, Any]]:
    """Restart one watcher, and give its state until its new processes are ready.

    Raises:
        FeedbusError: the supervisor refuses, or has ended.

    """
    answer = ask(topology, "restart", name=name, match="simple", waiting=True, progress=progress)
    if answer is None or answer.get("status") == "error":
        reason = "it has ended" if answer is None else answer["reason"]
        msg = f"{name}: the supervisor does not restart it: {reason}"
        raise FeedbusError(msg)
    while True:
        found = state(topology)
        if found is None:
            msg = f"{name}: the supervisor has ended"
            raise FeedbusError(msg)
        yield found["watchers"].get(name, {"state": "stopped", "processes": []})
        time.sleep(LOOK_SECONDS)
