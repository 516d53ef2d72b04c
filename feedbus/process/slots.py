"""The slots of consumers and processes: each slot is a lock that one process holds at a time.

The number of a slot is the number of the process among the processes of its consumer.
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

READY_FILE = "FEEDBUS_READY_FILE"  # the file in which this process records that it is ready
PATIENCE_SECONDS = 15.0  # how long a supervised process waits for its slot
SLOT_LOCK = re.compile(r".+\.\d+\.lock")


class HasVar(Protocol):
    """An object with the folder of a system's state, such as a Topology."""

    @property
    def var(self) -> Path:
        """The folder of the system's state, as an absolute path."""


class SlotTaken(FeedbusError):  # noqa: N818 -- it names a state, as Outage does
    """Another process holds the slot and did not release it in time."""


def run_folder(topology: HasVar) -> Path:
    """Return the folder of sockets, locks and ready files, created if it is missing.

    Raises:
        NotPrivate: another user owns the folder, or may write to it.

    """
    private_folder(topology.var)
    return private_folder(topology.var / "run")


def slot_path(folder: Path, name: str, slot: int, kind: str) -> Path:
    """Return the path of a file of a slot.

    Args:
        folder: the result of run_folder().
        name: the name of the consumer or process.
        slot: the number of the slot.
        kind: "lock", "ready", "holding", "waiting" or "handler".

    """
    return folder / f"{name.replace('/', '%2F')}.{slot}.{kind}"


def slot_locks(folder: Path) -> list[Path]:
    """Return the lock files in the result of run_folder(), also of slots that are free now."""
    return sorted(path for path in folder.glob("*.lock") if SLOT_LOCK.fullmatch(path.name))


@contextmanager
def hold_slot(
    topology: HasVar, name: str, slot: int, *, patience_seconds: float | None = None
) -> Iterator[None]:
    """Hold the lock of a slot of a consumer or process in a `with` block.

    Args:
        topology: the topology with the folder of state.
        name: the consumer's or process's name.
        slot: the number of this process among the processes of the consumer, from 1.
        patience_seconds: how long an earlier holder may take to end. The default without a
            supervisor is 1. Under a supervisor it is PATIENCE_SECONDS, because processes of a
            killed earlier supervisor may still run.

    Raises:
        SlotTaken: the other process did not end.

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
        folder: the result of run_folder().
        name: the name of the consumer or process.
        slot: the number of the slot.
        patience_seconds: how long to wait while another process holds the slot.

    Returns:
        The descriptor of the lock; the caller closes it to release the slot.

    Raises:
        SlotTaken: the other process did not end.

    """
    try:
        lock = take_lock(slot_path(folder, name, slot, "lock"), patience_seconds=patience_seconds)
    except BlockingIOError as error:
        msg = (
            f"{name} already runs as process {error.args[1]} in slot {slot}; stop that process"
            f" first (circusctl stop {name}, or feedbus down), or choose another --slot"
        )
        raise SlotTaken(msg) from None
    os.environ[READY_FILE] = str(slot_path(folder, name, slot, "ready"))
    return lock
