"""Find folders that cannot be written to, on full disks or read-only file systems."""

from __future__ import annotations

from pathlib import Path

from feedbus.errors import FeedbusError
from feedbus.process.private_files import unwritable
from feedbus.topology import Topology


def folders(topology: Topology) -> list[Path]:
    """Return the folders to which a topology's processes write on this host.

    These are folders in `var`. If the broker or the store is a SQLite file, the folder of this file
    is one of them, too.
    """
    found = [topology.var / name for name in ("run", "log", "metrics")]
    urls = (topology.broker_url, topology.store_url)
    found += [url.file.parent for url in urls if url is not None and url.file is not None]
    return list(dict.fromkeys(found))


def unwritable_folders(topology: Topology) -> list[str]:
    """Return a text for each folder that cannot be written to now: the folder and the reason.

    /readyz, `feedbus status` and others call it. It writes a small file to each folder.
    """
    reasons = []
    for folder in folders(topology):
        try:
            why = unwritable(folder)
        except FeedbusError as error:
            why = str(error)
        if why:
            reasons.append(why)
    return reasons
