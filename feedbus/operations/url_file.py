"""A file with the process id and the URL of the operations process."""

from __future__ import annotations

import os

from feedbus.process.file_locks import lock_holder
from feedbus.process.private_files import open_private
from feedbus.process.slots import run_folder, slot_path
from feedbus.topology import OPERATIONS, Topology


def write_url(topology: Topology, url: str) -> None:
    """Write the URL of this operations process to a file in the topology's folder `var`.

    Other commands, such as `feedbus status`, read the file to show the URL.
    """
    path = slot_path(run_folder(topology), OPERATIONS, 1, "url")
    handle = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n{url}\n")


def last_url(topology: Topology) -> str:
    """Return the URL of the latest operations process of a topology, which may have ended.

    The result is "" if no operations process has run yet. If another program uses the standard port
    8672, the next operations process reads the port of the latest one from this URL.
    """
    try:
        text = slot_path(topology.var / "run", OPERATIONS, 1, "url").read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    return text.partition("\n")[2].strip()


def read_url(topology: Topology) -> str | None:
    """Return the URL of the running operations process of a topology, or None if none runs.

    The process that has written the file still runs if it holds the lock of the operations process.
    """
    folder = topology.var / "run"
    try:
        text = slot_path(folder, OPERATIONS, 1, "url").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    writer, _, url = text.partition("\n")
    holder = lock_holder(slot_path(folder, OPERATIONS, 1, "lock"))
    return url.strip() if writer == str(holder) else None
