"""The ties of a supervised process to its supervisor: parent death, slot lock, memory, readiness.

`python -m feedbus.process.lifeline --run DIR --name NAME --slot N -- COMMAND …` does the same for a
process that is not feedbus's own, and then becomes that command.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from feedbus.errors import FeedbusError, UsageError
from feedbus.process import loaded_code
from feedbus.process.file_locks import lock_holder, take_lock
from feedbus.process.private_files import open_private, private_folder

SUPERVISED = "FEEDBUS_SUPERVISED"  # the supervisor's process id, set by its watchers
READY_FILE = "FEEDBUS_READY_FILE"  # where this process says that it is ready
RUN_FOLDER = (
    "FEEDBUS_RUN_FOLDER"  # the supervisor's; whatever has it was started by a supervised process
)
PR_SET_PDEATHSIG = 1
PATIENCE_SECONDS = 15.0
SLOT_LOCK = re.compile(r".+\.\d+\.lock")


class HasVar(Protocol):
    """An object with the folder of a system's state, such as a Topology."""

    @property
    def var(self) -> Path:
        """The folder, absolute."""


class SlotTaken(FeedbusError):  # noqa: N818 -- a state of the world, as Outage is
    """Another process holds the slot and did not release it in time."""


def run_folder(topology: HasVar) -> Path:
    """Return the folder of sockets, locks and ready files, created if it is missing.

    Raises:
        NotPrivate: another user owns it, or may write to it.

    """
    private_folder(topology.var)
    return private_folder(topology.var / "run")


def slot_path(folder: Path, name: str, slot: int, kind: str) -> Path:
    """Return the path of a slot's file, such as its "lock" or "ready" file."""
    return folder / f"{name.replace('/', '%2F')}.{slot}.{kind}"


def slot_locks(folder: Path) -> list[Path]:
    """Return the lock files of all slots that were ever taken."""
    return sorted(path for path in folder.glob("*.lock") if SLOT_LOCK.fullmatch(path.name))


def default_signals() -> None:
    """Restore the default action of every signal that the supervisor ignores or blocks.

    A supervisor under nohup ignores SIGHUP, and Python SIGPIPE; a program that was started with
    them ignored would ignore them too.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def follow_parent() -> bool:
    """Request SIGTERM for the supervisor's death; return whether there is a supervisor.

    Raises:
        SystemExit: the supervisor was gone before this could be arranged.

    """
    parent_id = os.environ.get(SUPERVISED, "")
    if not parent_id:
        return False
    os.environ[SUPERVISED] = ""  # what this process starts has this one for a parent
    default_signals()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python has it: a closed socket is an error
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so is a file that grows too large
    parent = int(parent_id)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()
    if os.getppid() != parent:
        msg = "the supervisor has ended"
        raise SystemExit(msg)
    return True


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def limit_memory(limit_bytes: int | None) -> None:
    """Make allocations beyond limit_bytes fail (MemoryError in Python); None is no limit."""
    if limit_bytes is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    ceiling = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (ceiling, hard))


@contextmanager
def hold_slot(
    topology: HasVar, name: str, slot: int, *, patience_seconds: float | None = None
) -> Iterator[None]:
    """Hold the lock of a slot of a consumer or process while the block runs.

    Args:
        topology: with the folder of state.
        name: the consumer's or process's name.
        slot: which of its processes this is, from 1.
        patience_seconds: how long an earlier holder may take to end; by default long under a
            supervisor, whose predecessor may have been killed, and short by hand.

    Raises:
        SlotTaken: the other process did not end.

    """
    if patience_seconds is None:
        patience_seconds = PATIENCE_SECONDS if SUPERVISED in os.environ else 1.0
    folder = run_folder(topology)
    lock = _take(folder, name, slot, patience_seconds)
    ready = slot_path(folder, name, slot, "ready")
    os.environ[READY_FILE] = str(ready)
    try:
        yield
    finally:
        os.environ.pop(READY_FILE, None)
        with contextlib.suppress(OSError):
            os.truncate(ready, 0)
        os.close(lock)


def _take(folder: Path, name: str, slot: int, patience_seconds: float) -> int:
    try:
        return take_lock(slot_path(folder, name, slot, "lock"), patience_seconds=patience_seconds)
    except BlockingIOError as error:
        msg = (
            f"{name} already runs as process {error.args[1]} in slot {slot}; stop that one first"
            f" (circusctl stop {name}, or feedbus down), or choose another --slot"
        )
        raise SlotTaken(msg) from None


def mark_ready() -> None:
    """Report to the supervisor that this process is ready; does nothing without a slot."""
    path = os.environ.get(READY_FILE)
    if path:
        code = loaded_code.write(loaded_code.imported_files())
        handle = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(handle, f"{os.getpid()}\n{code}\n".encode())
        os.close(handle)


def mark_holding(reason: str) -> None:
    """Record why this process holds, "" when it continues; does nothing without a slot."""
    _mark(".holding", reason)


def mark_waiting(records: int) -> None:
    """Record how many records wait in this process; does nothing without a slot."""
    _mark(".waiting", str(records) if records else "")


def _mark(suffix: str, said: str) -> None:
    path = os.environ.get(READY_FILE)
    if path:
        text = f"{os.getpid()}\n{said}\n" if said else ""
        beside = Path(path).with_suffix(suffix)
        handle = open_private(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)


def holding(folder: Path, name: str, slot: int, pid: int) -> str:
    """Return why a process holds, or "" if it does not."""
    try:
        text = slot_path(folder, name, slot, "holding").read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    noted, _, reason = text.partition("\n")
    return reason.strip() if noted == str(pid) else ""


def all_holding(folder: Path) -> dict[str, list[str]]:
    """Return the reasons of all processes that hold, by process name."""
    return _marked(folder, ".holding")


def all_waiting(folder: Path) -> dict[str, int]:
    """Return how many records wait in all processes of a name, by process name."""
    found = _marked(folder, ".waiting")
    return {name: sum(map(int, filter(str.isdecimal, said))) for name, said in found.items()}


def _marked(folder: Path, suffix: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob(f"*{suffix}")):
        noted, _, reason = path.read_text(encoding="utf-8").partition("\n")
        # A look at a lock of this process's own would release it.
        if reason and (noted == str(os.getpid()) or noted == _lock_holder_beside(path)):
            name, _, _ = path.name.rsplit(".", 2)
            found.setdefault(name.replace("%2F", "/"), []).append(reason.strip())
    return found


def _lock_holder_beside(path: Path) -> str:
    return str(lock_holder(path.with_suffix(".lock")))


def ready_since(path: Path, pid: int) -> float | None:
    """Return when the process became ready, in seconds since the epoch, or None."""
    try:
        with path.open() as file:
            if file.readline().strip() == str(pid):
                return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        pass
    return None


def runs_ready(folder: Path, name: str, slot: int) -> bool:
    """Whether a process that does its work holds a slot."""
    try:
        with slot_path(folder, name, slot, "ready").open() as file:
            noted = file.readline().strip()
    except FileNotFoundError:
        return False
    return bool(noted) and noted == str(lock_holder(slot_path(folder, name, slot, "lock")))


def changed_code(path: Path, pid: int) -> list[Path]:
    """Return the files that have changed since the process with this ready file imported them."""
    try:
        first, _, rest = path.read_text().partition("\n")
    except OSError:
        return []
    return loaded_code.changed(rest.partition("\n")[0]) if first.strip() == str(pid) else []


def become(arguments: Sequence[str]) -> None:
    """Follow the supervisor, take the slot, limit memory, and become the command."""
    parser = argparse.ArgumentParser(prog="python -m feedbus.process.lifeline")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--memory-limit", type=int, metavar="BYTES")
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args(arguments)
    follow_parent()
    default_signals()
    # A record lock survives exec as long as its descriptor does.
    os.set_inheritable(_take(asked.run, asked.name, asked.slot, PATIENCE_SECONDS), True)
    os.environ[READY_FILE] = str(slot_path(asked.run, asked.name, asked.slot, "ready"))
    limit_memory(asked.memory_limit)
    try:
        os.execvp(asked.command[0], asked.command)  # noqa: S606 -- no shell is meant
    except OSError as error:
        msg = f"cannot start {asked.command[0]}: {error.strerror}"
        raise UsageError(msg) from None


if __name__ == "__main__":
    try:
        become(sys.argv[1:])
    except FeedbusError as error:
        sys.exit(f"error: {error}")
