"""Requests to the running supervisor from another process: state, restart, apply.

A watcher is the supervisor's object for the processes of one consumer or of one [processes.NAME]
table, or for the operations process.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feedbus.errors import FeedbusError
from feedbus.process.file_locks import lock_holder
from feedbus.supervisor.arbiter import lock_path
from feedbus.supervisor.watcher_options import endpoint
from feedbus.topology import Topology

# The longest wait for an answer. While the supervisor starts many processes, it does not answer.
ANSWER_SECONDS = 10.0
# A command that waits for the end of processes may take any time, while the supervisor reports its
# state. SILENT_SECONDS is the longest time without a report. A supervisor that works needs less
# time for a report, also on a slow and busy machine.
SILENT_SECONDS = 60.0
# The time between two requests of restart(), and between two checks in the module shutdown.
CHECK_SECONDS = 0.05
CHECK_MILLISECONDS = 50  # the time between two checks whether the supervisor still runs
PROGRESS_SECONDS = 1.0  # the time between two calls of the argument `progress`
NOTHING: Mapping[str, Any] = {"watchers": {}}  # the state if no supervisor runs


@dataclass(frozen=True, slots=True)
class Busy:
    """A process that was asked to end and has not ended yet; commands show it as progress.

    Attributes:
        name: the name of its consumer or process.
        pid: the process id.
        seconds: the time since the request.
        left_seconds: the time until the supervisor kills it.

    """

    name: str
    pid: int
    seconds: float
    left_seconds: float

    def __str__(self) -> str:
        """Return a description for the operator."""
        return (
            f"{self.name} (process {self.pid}) is still busy after {self.seconds:.0f} s,"
            f" and is killed in {self.left_seconds:.0f} s"
        )


Progress = Callable[[Sequence[Busy]], None]


def state(topology: Topology) -> dict[str, Any] | None:
    """Ask the supervisor for the state of all watchers; return None if no supervisor runs.

    Returns:
        The answer to the command `feedbus`. Its key "watchers" maps the name of each watcher to its
        state, which watcher_state.state() describes: for example, the key "state" is "running".

    Raises:
        FeedbusError: a supervisor runs, but does not answer.

    """
    return ask(topology, "feedbus")


def ask(
    topology: Topology,
    command: str,
    *,
    progress: Progress | None = None,
    **properties: Any,
) -> dict[str, Any] | None:
    """Send the supervisor a command and return its answer.

    None means that no supervisor runs, or that the supervisor has ended without an answer.

    Args:
        topology: the topology of the supervisor.
        command: the name of the command, such as "restart" of circus or feedbus's "feedbus-down".
        progress: called repeatedly with the processes that are still busy. The argument is for a
            command that waits for the end of processes. Such a command may take any time, as long
            as the supervisor reports its state. With None, the supervisor must answer within
            ANSWER_SECONDS.
        properties: the properties of the command. With `waiting=True`, circus answers only when the
            command has finished.

    Raises:
        FeedbusError: a supervisor runs, but does not answer within ANSWER_SECONDS. With `progress`:
            a supervisor runs, but has neither answered nor reported its state for SILENT_SECONDS.

    """
    pid = lock_holder(lock_path(topology))
    if pid is None:
        return None
    import zmq

    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    with contextlib.chdir(topology.root):  # the socket's address is relative
        try:
            socket.connect(endpoint(topology))
            message = {"id": uuid.uuid4().hex, "command": command, "properties": properties}
            socket.send(json.dumps(message).encode())
            answered = shown = time.monotonic()
            limit_seconds = ANSWER_SECONDS if progress is None else SILENT_SECONDS
            while not socket.poll(CHECK_MILLISECONDS):
                if lock_holder(lock_path(topology)) != pid:
                    return None
                now = time.monotonic()
                if now - answered > limit_seconds:
                    msg = f"the supervisor, process {pid}, does not answer; `feedbus down` ends it"
                    raise FeedbusError(msg)
                if progress is not None and now - shown > PROGRESS_SECONDS:
                    shown = now
                    # A supervisor that does not report its state now may still carry out the
                    # command, and answer later.
                    with contextlib.suppress(FeedbusError):
                        progress(busy(state(topology) or NOTHING))
                        answered = time.monotonic()
            answer: dict[str, Any] = json.loads(socket.recv())
        finally:
            socket.close()
            context.term()
    return answer


def busy(answer: Mapping[str, Any]) -> list[Busy]:
    """Return the processes that were asked to end and have not ended; the oldest request first.

    Args:
        answer: the supervisor's answer, which state() returns.

    """
    stopping = [
        Busy(name, one["pid"], one["stopping_seconds"], one["killed_in_seconds"])
        for name, watcher in answer["watchers"].items()
        for one in watcher["processes"]
        if one["stopping_seconds"] is not None
    ]
    return sorted(stopping, key=lambda one: -one.seconds)


class ApplyClient:
    """Sends the supervisor the requests of `feedbus apply`, which makes one ApplyClient object.

    Each method waits for the answer. Each method raises FeedbusError if the supervisor refuses the
    request, and does nothing if no supervisor runs.
    """

    def __init__(self, topology: Topology, text: str, progress: Progress = lambda _: None) -> None:
        """Create the client for a topology.

        Args:
            topology: the new topology.
            text: the content of its file.
            progress: called repeatedly with the processes that are still busy.

        """
        self._topology = topology
        self._text = text
        self._progress = progress

    def pause(self, consumers: Sequence[str]) -> None:
        """Stop consumers and wait for their end, because their queues will be replaced.

        Args:
            consumers: the names of the consumers.

        Raises:
            FeedbusError: the supervisor refuses the request, or does not answer.

        """
        self._ask(pause=list(consumers))

    def change_topology(self) -> None:
        """Make the supervisor add and restart watchers as the new topology needs; wait for it.

        Raises:
            FeedbusError: the supervisor refuses the request, or does not answer.

        """
        self._ask(text=self._text)

    def finish(self) -> None:
        """End the consumers that are not in the new topology; their queues are empty now.

        Raises:
            FeedbusError: the supervisor refuses the request, or does not answer.

        """
        self._ask()

    def _ask(self, **properties: Any) -> None:
        answer = ask(
            self._topology, "feedbus-apply", progress=self._progress, waiting=True, **properties
        )
        if answer is None:
            return  # the supervisor has ended; the next `feedbus up` reads the new topology.toml
        refused = answer.get("refused", answer.get("reason", "it gave no reason"))
        if refused:
            msg = f"the supervisor refused the change: {refused}"
            raise FeedbusError(msg)


def all_ready(watcher: Mapping[str, Any]) -> bool:
    """Whether no process of a watcher is missing, and all of them are ready.

    Args:
        watcher: the state of the watcher, as state() and restart() return it.

    """
    processes = watcher["processes"]
    return len(processes) == watcher["wanted_processes"] and all(one["ready"] for one in processes)


def restart(topology: Topology, name: str, progress: Progress) -> Iterator[Mapping[str, Any]]:
    """Restart one watcher, and yield its state repeatedly; the caller ends the iteration.

    `feedbus restart` calls the function for each consumer or process. The state is a mapping, which
    watcher_state.state() describes: for example, its key "state" is "running".

    Args:
        topology: the topology of the supervisor.
        name: the name of the watcher.
        progress: called repeatedly with the old processes that have not ended yet.

    Raises:
        FeedbusError: the supervisor refuses, or has ended.

    """
    answer = ask(topology, "restart", name=name, match="simple", waiting=True, progress=progress)
    if answer is None or answer.get("status") == "error":
        reason = "it has ended" if answer is None else answer["reason"]
        msg = f"{name}: the supervisor does not restart it: {reason}"
        raise FeedbusError(msg)
    while True:
        answer = state(topology)
        if answer is None:
            msg = f"{name}: the supervisor has ended"
            raise FeedbusError(msg)
        yield answer["watchers"].get(name, {"state": "stopped", "processes": []})
        time.sleep(CHECK_SECONDS)
