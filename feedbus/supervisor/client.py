"""Ask the running supervisor, from another process, what runs; and end it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from feedbus.errors import FeedbusError
from feedbus.lifeline import lock_holder, run_folder, take_lock
from feedbus.plan.changes import Watchers
from feedbus.supervisor.arbiter import lock_path
from feedbus.supervisor.watchers import endpoint
from feedbus.topology import Topology

ANSWER_SECONDS = 3.0
PATIENCE_SECONDS = 20.0  # four times what a watcher may take to stop
LOOK_SECONDS = 0.05


def state(topology: Topology) -> dict[str, Any] | None:
    """Return each watcher's state, processes and restarts, or None when no supervisor runs.

    Raises:
        FeedbusError: one runs, but does not answer.

    """
    return ask(topology, "feedbus")


def ask(
    topology: Topology, command: str, *, timeout_seconds: float = ANSWER_SECONDS, **properties: Any
) -> dict[str, Any] | None:
    """Send the supervisor a command and return its answer, None when no supervisor runs.

    Raises:
        FeedbusError: one runs, but does not answer.

    """
    pid = lock_holder(lock_path(topology))
    if pid is None:
        return None
    import zmq
    from circus.client import CircusClient
    from circus.exc import CallError

    os.chdir(topology.root)  # the socket's address is relative
    context = zmq.Context()
    client = CircusClient(context, endpoint(topology), timeout=timeout_seconds)
    try:
        answer: dict[str, Any] = client.send_message(command, **properties)
    except CallError:
        msg = f"the supervisor, process {pid}, does not answer; `feedbus down` ends it"
        raise FeedbusError(msg) from None
    finally:
        client.stop()
        context.term()
    return answer


def watched(topology: Topology) -> Watchers | None:
    """Say how the running watchers differ from a topology's, None when no supervisor runs.

    Raises:
        FeedbusError: one runs, but does not answer.

    """
    found = state(topology)
    if found is None:
        return None
    from feedbus.supervisor.settings import Settings

    told = found.get("settings") or {"watchers": dict.fromkeys(found["watchers"], "")}
    running = Settings(told["watchers"], told.get("exchanges", {}))
    return running.difference(Settings.of(topology), found["pid"])


class Follower:
    """The running supervisor, as apply speaks to it."""

    def __init__(self, topology: Topology, text: str) -> None:
        """Lead it to a topology, which is what the text says."""
        self._topology = topology
        self._text = text

    def pause(self, consumers: Sequence[str]) -> None:
        """Stop consumers whose queue is to be replaced."""
        self._tell(pause=list(consumers))

    def follow(self) -> None:
        """Take the new topology over: add, remove and restart what differs."""
        self._tell(text=self._text)

    def finish(self) -> None:
        """End the consumers that the topology has no more."""
        self._tell()

    def _tell(self, **properties: Any) -> None:
        answer = ask(
            self._topology,
            "feedbus-apply",
            timeout_seconds=PATIENCE_SECONDS,
            waiting=True,
            **properties,
        )
        if answer is None:
            return  # it has ended meanwhile: the next `feedbus up` goes by the file
        refused = answer.get("refused", answer.get("reason", "it does not say why"))
        if refused:
            msg = f"the supervisor refuses: {refused}"
            raise FeedbusError(msg)


def stop(topology: Topology) -> bool:
    """End the supervisor and whatever holds a slot, and clear their files away.

    Returns:
        False when nothing ran.

    """
    supervised = _end(lock_path(topology))
    # A killed supervisor's processes are ending by themselves, but may need a while.
    slots = [_end(lock) for lock in _slot_locks(topology)]
    for lock in _slot_locks(topology):
        with contextlib.suppress(BlockingIOError):
            handle = take_lock(lock)
            lock.unlink(missing_ok=True)
            os.close(handle)
    for pattern in ("*.ready", "*.sock"):
        for path in run_folder(topology).glob(pattern):
            path.unlink(missing_ok=True)
    return supervised or any(slots)


def _slot_locks(topology: Topology) -> Iterator[Path]:
    for path in sorted(run_folder(topology).glob("*.lock")):
        if path != lock_path(topology):
            yield path


def _end(lock: Path) -> bool:
    """Send SIGTERM, in the end SIGKILL, to a lock's holder until it is gone."""
    ran = False
    started = asked = 0.0
    while (pid := lock_holder(lock)) is not None:
        now = time.monotonic()
        started = started or now
        ran = True
        if pid and now - asked > 1.0:
            asked = now
            late = now - started > PATIENCE_SECONDS
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(LOOK_SECONDS)
    return ran
