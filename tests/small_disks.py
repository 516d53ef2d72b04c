"""Small disks of a test's own, which it can fill."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class CannotMount(Exception):  # noqa: N818 -- what is the case
    """This system mounts no disk for a test."""


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a disk on a folder, which only root can.

    Raises:
        CannotMount: this system does not allow it.

    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = f"size={megabytes}M,mode=0700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        msg = "this system mounts no disk; only root can mount one"
        raise CannotMount(msg)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte on a disk, and return the file whose removal gives it back."""
    filler = folder / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for size in (1 << 20, 4096, 1):
        with suppress(OSError):
            while True:
                os.write(descriptor, bytes(size))
    os.close(descriptor)
    return filler
