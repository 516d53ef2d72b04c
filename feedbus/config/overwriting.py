"""Replace the content of a file, but keep its path, owner, mode, links and attributes."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def overwrite(path: Path, content: bytes) -> None:
    """Replace a file's content: by renaming a new file if possible, otherwise in place.

    The function writes a new file in the same folder, and gives it the owner, mode, access lists
    and other attributes of the old file. Then it renames the new file to the name of the old file.

    The function writes into the old file instead if the old file has hard links or is a mount
    point, or if no such new file can be created. Before it writes into the old file, it reserves
    the disk space, so that a full disk changes nothing.

    `feedbus balance` uses the function to write new weights into topology.toml.

    Args:
        path: the file; a symbolic link is followed, and stays a link.
        content: the new content.

    Raises:
        OSError: the file is read-only, or cannot be written, for example because the disk is full.
            In these cases, its content has not changed. Only a disk that fails during a write into
            the old file can leave an incomplete content.

    """
    target = Path(os.path.realpath(path))
    before = target.stat()
    if not before.st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        # A rename would replace a read-only file, and root can write into it. But the owner of the
        # file has forbidden changes.
        raise PermissionError(errno.EACCES, "it is read-only", str(target))
    if before.st_nlink > 1 or not _replace(target, before, content):
        _write_in_place(target, content)


def _replace(target: Path, before: os.stat_result, content: bytes) -> bool:
    """Rename a new file with this content over the target; return whether this was possible.

    It is impossible if the new file cannot be created, or would lack attributes of the target.

    Args:
        target: the file.
        before: the status of the file, with its owner.
        content: the new content.

    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError:
        return False
    new = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chown(new, before.st_uid, before.st_gid)
        shutil.copystat(target, new)
        os.utime(new)  # copystat() has also copied the old time of modification
        if _attributes(new) != _attributes(target):
            return False
        new.replace(target)
    except OSError:
        return False
    else:
        return True
    finally:
        with suppress(FileNotFoundError):
            new.unlink()


def _attributes(path: Path) -> tuple[object, ...]:
    """Return the owner, the group, the mode and the extended attributes, such as access lists."""
    status = path.stat()
    names = sorted(os.listxattr(path)) if hasattr(os, "listxattr") else []
    extended = [(name, os.getxattr(path, name)) for name in names]
    return status.st_uid, status.st_gid, status.st_mode, extended


def _write_in_place(target: Path, content: bytes) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0))
    try:
        size_before = os.fstat(descriptor).st_size
        try:
            os.posix_fallocate(descriptor, 0, max(len(content), 1))
        except OSError:
            os.ftruncate(descriptor, size_before)
            raise
        written = 0
        while written < len(content):
            written += os.pwrite(descriptor, content[written:], written)
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
