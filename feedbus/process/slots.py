"""The slots of consumers and processes: each slot has a lock that one process holds at a time.

A slot is the number of a process among the processes of its consumer. Each slot has files:

- "lock": the lock file.
- "ready", "holding": the status of the process; see status_files.
- "waiting": how many records wait in the process; see feedbus.metrics.waiting_counts.
- "handler": the messages that are in the handler; see watchdog.
- "exit": how the last process that failed has ended; see status_files.
- "url": the URL of the operations process; see operations.url_file.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from feedbus.errors import FeedbusError
from feedbus.process.file_locks import take_lock
from feedbus.process.private_files import private_folder
from feedbus.process.process_setup import SUPERVISED

# The environment variable with the file in which this process records that it is ready.
READY_FILE = "FEEDBUS_READY_FILE"
# The socket in run_folder() on which a supervisor takes commands.
SUPERVISOR_SOCKET = "circus.sock"
PATIENCE_SECONDS = 15.0  # how long a supervised process waits for its slot
SLOT_LOCK = re.compile(r".+\.\d+\.lock")


class HasVar(Protocol):
    """The interface of an object with the folder of a system's state, such as a Topology."""

    @property
    def var(self) -> Path:
        """The folder of the system's state, as an absolute path."""


class SlotTaken(FeedbusError):  # noqa: N818 -- it names a state, as Outage does
    """Another process holds the slot and did not release it in time.

    A slot is the number of a process among the processes of its consumer.
    """


def run_folder(topology: HasVar) -> Path:
    """Return the folder `run` in `var`, for sockets, locks and ready files; create it if missing.

    Raises:
        NotPrivate: another user owns the folder, or may write to it.

    """
    private_folder(topology.var)
    return private_folder(topology.var / "run")


def slot_path(folder: Path, name: str, slot: int, kind: str) -> Path:
    """Return the path of a file of a slot; the module's docstring lists the kinds of files.

    Args:
        folder: the run folder, which run_folder() returns.
        name: the name of the consumer or process.
        slot: the number of the slot, from 1.
        kind: "lock", "ready", "holding", "waiting", "handler", "exit" or "url".

    """
    return folder / f"{name.replace('/', '%2F')}.{slot}.{kind}"


def slot_locks(folder: Path) -> list[Path]:
    """Return the paths of all lock files of slots, also of slots that are free now.

    Args:
        folder: the run folder, which run_folder() returns.

    """
    return sorted(path for path in folder.glob("*.lock") if SLOT_LOCK.fullmatch(path.name))


@contextmanager
def hold_slot(
    topology: HasVar, name: str, slot: int, *, patience_seconds: float | None = None
) -> Iterator[None]:
    """Hold the lock of a slot of a consumer or process in a `with` block.

    A consumer's process and the operations process do their work in such a block. In the block, the
    environment contains the path of the slot's ready file. At the end of the block the file is
    emptied, because the process is not ready any more.

    Args:
        topology: the topology; the lock is in the folder `run` of its `var`.
        name: the consumer's or process's name.
        slot: the number of this process among the processes of the consumer, from 1.
        patience_seconds: how long to wait while another process holds the slot. Without a
            supervisor, the default is 1 second. Under a supervisor, the default is
            PATIENCE_SECONDS, because processes of an earlier supervisor, which was killed, may
            still run.

    Raises:
        SlotTaken: another process still holds the slot after `patience_seconds`.

    """
    if patience_seconds is None:
        patience_seconds = PATIENCE_SECONDS if SUPERVISED in os.environ else 1.0
    folder = run_folder(topology)
    lock = take_slot(folder, name, slot, patience_seconds)
    try:
        yield
    finally:
        os.environ.pop(READY_FILE, None)
        with contextlib.suppress(OSError):
            os.truncate(slot_path(folder, name, slot, "ready"), 0)
        os.close(lock)


def take_slot(folder: Path, name: str, slot: int, patience_seconds: float) -> int:
    """Lock a slot, and set the path of its ready file in the environment.

    Args:
        folder: the run folder, which run_folder() returns.
        name: the name of the consumer or process.
        slot: the number of the slot, from 1.
        patience_seconds: how long to wait while another process holds the slot.

    Returns:
        The descriptor of the lock; the caller closes it to release the slot.

    Raises:
        SlotTaken: another process still holds the slot after `patience_seconds`.

    """
    try:
        lock = take_lock(slot_path(folder, name, slot, "lock"), patience_seconds=patience_seconds)
    except BlockingIOError as error:
        msg = (
            f"{name} already runs as process {error.args[1]} in slot {slot}; choose another --slot,"
            " or stop that process first: `feedbus down` stops all processes, and `circusctl"
            f" --endpoint ipc://{os.path.relpath(folder / SUPERVISOR_SOCKET)} stop {name}` stops"
            " only this one"
        )
        raise SlotTaken(msg) from None
    os.environ[READY_FILE] = str(slot_path(folder, name, slot, "ready"))
    return lock
