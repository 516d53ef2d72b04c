"""The options of circus watchers.

A watcher is the part of circus that starts and restarts equal processes. There is one watcher for
each consumer, each table [processes.NAME], and the operations process.
"""

from __future__ import annotations

import os
import pwd
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feedbus.config import APPLIED
from feedbus.errors import UsageError
from feedbus.process.private_files import private_folder
from feedbus.process.process_setup import RUN_FOLDER, SUPERVISED
from feedbus.process.slots import SUPERVISOR_SOCKET, run_folder
from feedbus.supervisor.rotated_log import RotatedLog
from feedbus.topology import OPERATIONS, Consumer, Process, Queue, Topology

# Python must write the files of compiled modules. Otherwise each process compiles the same modules
# at each start, which takes seconds longer for fifteen processes.
KEEP_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
# The name of the supervisor's log, and the value of the field `consumer` in its own events.
SUPERVISOR = "supervisor"
LOG_BYTES = 10 * 2**20  # the size at which a log file is rotated
LOG_BACKUPS = 3  # how many older log files are kept
# The default time in which a process must end. For a consumer, the time limit of its handler is
# added.
STOP_SECONDS = 5.0
LONGEST_SOCKET_PATH = 100  # in bytes; unix sockets allow 107, and circusctl makes the path longer


def watchers(topology: Topology) -> list[dict[str, Any]]:
    """Return the options of circus for every watcher, one mapping for each.

    First come the consumers, then the [processes.NAME] tables, then the operations process.

    Raises:
        UsageError: the option `user` of a watcher names no user of this machine, or it names
            another user although feedbus does not run as root.

    """
    consumers = [_consumer(topology, consumer) for consumer in topology.consumers.values()]
    processes = [_process(topology, process) for process in topology.processes.values()]
    if topology.operations is not None:
        processes.append(_own_process(topology, topology.supervised[OPERATIONS]))
    return [*consumers, *processes]


def _consumer(topology: Topology, consumer: Consumer) -> dict[str, Any]:
    run = _feedbus(topology, "run", consumer.name, "--slot", "$(circus.wid)")
    # If a shard has one process, a second one could break the order of each key's records. With
    # "singleton", circus refuses `circusctl incr`, which would start a second process.
    alone = consumer.shard is not None and consumer.queue.processes == 1
    return _watcher(topology, consumer.name, consumer.queue, run) | {"singleton": alone}


def _own_process(topology: Topology, process: Process) -> dict[str, Any]:
    """Return the options of the watcher of one of feedbus's own processes.

    circus refuses to start a second such process.

    Args:
        topology: the topology.
        process: the process; its command is, for example, ("feedbus", "operations").

    """
    command = _feedbus(topology, *process.command[1:])
    return _watcher(topology, process.name, process, command) | {"singleton": True}


def _feedbus(topology: Topology, *words: str) -> list[str]:
    return ["-m", "feedbus", "--topology", str(topology.path), *words]


def _process(topology: Topology, process: Process) -> dict[str, Any]:
    # This module takes a slot, sets the memory limit, and then executes the project's command.
    in_slot = ["-m", "feedbus.process.project_command", "--run", str(topology.var / "run")]
    in_slot += ["--name", process.name, "--slot", "$(circus.wid)"]
    if process.memory_limit_bytes is not None:
        in_slot += ["--memory-limit", str(process.memory_limit_bytes)]
    first, *rest = process.command
    program = sys.executable if first in {"python", "python3"} else first
    options = _watcher(topology, process.name, process, [*in_slot, "--", program, *rest])
    options["env"] |= process.environment
    return options


def _watcher(
    topology: Topology, name: str, source: Any, arguments: Sequence[str]
) -> dict[str, Any]:
    return {
        "name": name,
        "cmd": shlex.quote(sys.executable),
        "args": list(arguments),
        "numprocesses": source.processes,
        "start_retries": source.start_retries,
        "uid": _other_user(name, source.user),
        "stop_signal": signal.SIGTERM,
        "graceful_timeout": stop_seconds(source),
        "working_dir": str(topology.root),
        "copy_env": True,
        "env": {
            SUPERVISED: str(os.getpid()),
            RUN_FOLDER: str(topology.var / "run"),
            "FEEDBUS_TOPOLOGY": str(topology.path),
            APPLIED: str(applied_path(topology)),
            "PYTHONUNBUFFERED": "1",
            **KEEP_BYTECODE,
        },
        "respawn": True,
        # If the operating system refuses to start a process, circus makes this number of attempts.
        # Restarts of a process that has ended are limited by start_retries.
        "max_retry": 2,
        "stdout_stream": {
            "class": "feedbus.supervisor.rotated_log.RotatedLog",
            "filename": str(log_path(topology, name)),
            "max_bytes": LOG_BYTES,
            "backup_count": LOG_BACKUPS,
            "consumer": name,
            "log_format": topology.logging.format,
        },
    }


def stop_seconds(source: Queue | Process) -> float:
    """Return after how many seconds a process that was asked to end is killed.

    Args:
        source: the queue or the [processes.NAME] table of the process.

    """
    if source.stop_timeout_seconds is not None:
        return source.stop_timeout_seconds
    return STOP_SECONDS + (source.handler_timeout_seconds if isinstance(source, Queue) else 0.0)


def applied_path(topology: Topology) -> Path:
    """Return the path of the file with the supervisor's copy of topology.toml.

    The processes that the supervisor starts read the copy, because they may start while somebody
    edits topology.toml.
    """
    return topology.var / "run" / "applied.toml"


def broker_file(topology: Topology) -> Path:
    """Return the path of the file with the URL of the broker that the supervisor uses.

    Commands compare this URL with the one that they use, and report a difference.
    """
    return topology.var / "run" / "broker.url"


def supervisor_lock(topology: Topology) -> Path:
    """Return the path of the lock file that the supervisor holds while it runs; create nothing."""
    return topology.var / "run" / "supervisor.lock"


def _other_user(name: str, user: str | None) -> str | None:
    """Return the user to which a process must change; None if it runs as the current user.

    Args:
        name: the name of the consumer or process, for the text of an error.
        user: the option `user`; None if it is not set.

    Raises:
        UsageError: there is no such user, or feedbus does not run as root, so it cannot start a
            process as another user.

    """
    if user is None:
        return None
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        msg = f"{name}: user: no user named '{user}' on this machine"
        raise UsageError(msg) from None
    if uid == os.getuid():
        return None
    if os.getuid() != 0:
        msg = f"{name}: user: only root can start processes as user '{user}'"
        raise UsageError(msg)
    return user


def log_path(topology: Topology, name: str) -> Path:
    """Return the path of the log file for a watcher's stdout and stderr; create its folder.

    Args:
        topology: the topology; the folder is in its `var`.
        name: the name of the watcher, which is the name of its consumer or process.

    """
    run_folder(topology)
    private_folder(topology.var / "log")
    return log_file(topology, name)


def log_file(topology: Topology, name: str) -> Path:
    """Return the path of the log file of a watcher or of the supervisor; create nothing.

    Args:
        topology: the topology; the file is in its `var`.
        name: the name of the watcher, or SUPERVISOR.

    """
    return topology.var / "log" / f"{name.replace('/', '%2F')}.log"


def removed_logs(topology: Topology) -> list[str]:
    """Return the names of consumers and processes that have a log, but are not in the topology.

    Args:
        topology: the topology; the files are in its `var`.

    """
    found = {
        path.name.removesuffix(".log").replace("%2F", "/")
        for path in (topology.var / "log").glob("*.log")
    }
    return sorted(found - {*topology.consumers, *topology.supervised, SUPERVISOR})


def own_log(topology: Topology) -> RotatedLog:
    """Open the log file of the supervisor, and return it.

    The stdout and stderr of the calling process, the supervisor, are redirected to the file.
    """
    path = str(log_path(topology, SUPERVISOR))
    return RotatedLog(
        path,
        LOG_BYTES,
        LOG_BACKUPS,
        consumer=SUPERVISOR,
        log_format=topology.logging.format,
        descriptors=(1, 2),
    )


def endpoint(topology: Topology, socket: str = SUPERVISOR_SOCKET) -> str:
    """Return the address of one of the supervisor's sockets.

    The address can be relative to the topology's root folder. So a process that uses the address
    must have this folder as its working directory.

    Args:
        topology: the topology.
        socket: SUPERVISOR_SOCKET for commands, or "pubsub.sock" for circus's events.

    Raises:
        UsageError: the path of the socket is too long for a unix socket.

    """
    path = topology.var / "run" / socket
    relative = os.path.relpath(path, topology.root)
    shortest = min(str(path), relative, key=len)
    if len(shortest.encode()) > LONGEST_SOCKET_PATH:
        msg = (
            f"{shortest} is too long for a unix socket (at most {LONGEST_SOCKET_PATH} bytes):"
            " set a shorter path as var in the topology, or in FEEDBUS_VAR"
        )
        raise UsageError(msg)
    return f"ipc://{shortest}"
