"""The files in which a process records its status, for example that it is ready or holds.

Each slot has such files. A slot is the number of a process among the processes of its consumer.
A process *holds* if it waits during an outage, or if it handles only waiting records, because the
limit `waiting_limit` of its queue is reached. The first line of each file is the id of the process
that wrote the file. If that process has ended, its file is ignored.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from feedbus.process import loaded_code
from feedbus.process.file_locks import lock_holder
from feedbus.process.private_files import NotPrivate, open_private
from feedbus.process.slots import READY_FILE, slot_path


def mark_ready() -> None:
    """Write to the ready file of this process that it is ready; without a slot, do nothing.

    The supervisor reads the file. Its second line contains the Python files that this process has
    imported.
    """
    path = os.environ.get(READY_FILE)
    if path:
        code = loaded_code.write(loaded_code.imported_files())
        handle = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(handle, f"{os.getpid()}\n{code}\n".encode())
        os.close(handle)


def mark_holding(reason: str) -> None:
    """Write to the status file of this process why it holds; without a slot, do nothing.

    Args:
        reason: the reason; "" if the process continues.

    """
    write_status("holding", reason)


def write_status(kind: str, line: str) -> None:
    """Write a line to a status file of this process; without a slot, do nothing.

    Args:
        kind: the kind of the file, such as "holding".
        line: the line; "" empties the file.

    """
    path = os.environ.get(READY_FILE)
    if path:
        text = f"{os.getpid()}\n{line}\n" if line else ""
        beside = Path(path).with_suffix(f".{kind}")
        handle = open_private(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)


def write_exit(path: Path, pid: int, ending: str) -> None:
    """Write to the "exit" file of a slot how its process has ended; only the supervisor knows it.

    If the file cannot be written, for example because the disk is full, do nothing.

    Args:
        path: the "exit" file of the slot.
        pid: the id of the process.
        ending: how it ended, such as "exit code 1".

    """
    with contextlib.suppress(OSError, NotPrivate):
        handle = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, any_owner=True)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"{pid}\n{ending}\n")


def read_exit(path: Path, pid: int) -> str:
    """Return how a process has ended, or "" if it is not known.

    Args:
        path: the "exit" file of its slot.
        pid: the id of the process. If the file is about another process, the result is "".

    """
    ended, ending = _content(path)
    return ending.strip() if ended == str(pid) else ""


def hold_reason(run_folder: Path, name: str, slot: int, pid: int) -> str:
    """Return why a process holds, or "" if it does not hold.

    Args:
        run_folder: the folder with the files of the slots, which slots.run_folder() returns.
        name: the name of the consumer or process in topology.toml.
        slot: the number of the slot, from 1.
        pid: the id of the process. A file of another process is ignored.

    """
    writer, reason = _content(slot_path(run_folder, name, slot, "holding"))
    return reason.strip() if writer == str(pid) else ""


def hold_reasons(run_folder: Path) -> dict[str, list[str]]:
    """Return why processes hold, by the name of their consumer.

    Consumers without such a process are left out.

    Args:
        run_folder: the folder with the files of the slots, which slots.run_folder() returns.

    Returns:
        Maps each consumer to one reason for each of its processes that hold.

    """
    return read_statuses(run_folder, "holding")


def read_statuses(run_folder: Path, kind: str) -> dict[str, list[str]]:
    """Return the lines in the status files of all processes that run, by their consumers.

    Consumers without a line are left out.

    Args:
        run_folder: the folder with the files of the slots, which slots.run_folder() returns.
        kind: the kind of the files, such as "holding".

    """
    found: dict[str, list[str]] = {}
    for path in sorted(run_folder.glob(f"*.{kind}")):
        writer, text = _content(path)
        # If this process opens and closes its own lock file, the kernel releases the lock. So the
        # own process id is compared first, and only the locks of other processes are read.
        if text and (writer == str(os.getpid()) or writer == _lock_holder_beside(path)):
            name, _, _ = path.name.rsplit(".", 2)
            found.setdefault(name.replace("%2F", "/"), []).append(text.strip())
    return found


def _content(path: Path) -> tuple[str, str]:
    """Return the process id in the first line of a file, and the other lines.

    Both are "" if the file cannot be read.
    """
    try:
        first, _, rest = path.read_text(encoding="utf-8").partition("\n")
    except OSError:
        return "", ""
    return first.strip(), rest


def _lock_holder_beside(path: Path) -> str:
    return str(lock_holder(path.with_suffix(".lock")))


def ready_since(path: Path, pid: int) -> float | None:
    """Return when a process became ready, in seconds since 1970; None if it is not ready.

    Args:
        path: the "ready" file of its slot.
        pid: the process id.

    """
    try:
        with path.open() as file:
            if file.readline().strip() == str(pid):
                return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        pass
    return None


def runs_ready(run_folder: Path, name: str, slot: int) -> bool:
    """Whether the process in a slot runs and is ready.

    Args:
        run_folder: the folder with the files of the slots, which slots.run_folder() returns.
        name: the name of the consumer or process in topology.toml.
        slot: the number of the slot, from 1.

    """
    path = slot_path(run_folder, name, slot, "ready")
    writer, _ = _content(path)
    return bool(writer) and writer == _lock_holder_beside(path)


def changed_code(path: Path, pid: int) -> list[Path]:
    """Return the Python files that have changed since a process imported them.

    Args:
        path: the "ready" file of the slot; the process has written the imported files there.
        pid: the process id; if another process has written the file, the result is empty.

    """
    writer, rest = _content(path)
    return loaded_code.changed_files(rest.partition("\n")[0]) if writer == str(pid) else []
