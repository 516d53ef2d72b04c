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
    """Replace a file's content: atomically if this changes nothing else, otherwise in place.

    If a new file can have the same owner, mode, access lists and other attributes, it is renamed to
    the name of the old file. Otherwise the old file is written in place. This happens if the file
    has hard links, if it is a mount point, or if its folder or owner does not allow a copy. The
    disk space is reserved first, so that a full disk changes nothing.

    Args:
        path: the file; a symbolic link is followed, and stays a link.
        content: the new content.

    Raises:
        OSError: the file is read-only or cannot be written; it was not changed.

    """
    target = Path(os.path.realpath(path))
    before = target.stat()
    if not before.st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        # A rename, or root, could replace a read-only file. But its owner has forbidden changes.
        raise PermissionError(errno.EACCES, "it is read-only", str(target))
    if before.st_nlink > 1 or not _replaced(target, before, content):
        _write_in_place(target, content)


def _replaced(target: Path, before: os.stat_result, content: bytes) -> bool:
    """Rename a new file over the target; return False if it would lack attributes of the target."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError:
        return False
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chown(draft, before.st_uid, before.st_gid)
        shutil.copystat(target, draft)
        os.utime(draft)
        if _attributes(draft) != _attributes(target):
            return False
        draft.replace(target)
    except OSError:
        return False
    else:
        return True
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()


def _attributes(path: Path) -> tuple[object, ...]:
    found = path.stat()
    names = sorted(os.listxattr(path)) if hasattr(os, "listxattr") else []
    extended = [(name, os.getxattr(path, name)) for name in names]
    return found.st_uid, found.st_gid, found.st_mode, extended


def _write_in_place(target: Path, content: bytes) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0))
    try:
        before = os.fstat(descriptor).st_size
        try:
            os.posix_fallocate(descriptor, 0, max(len(content), 1))
        except OSError:
            os.ftruncate(descriptor, before)
            raise
        written = 0
        while written < len(content):
            written += os.pwrite(descriptor, content[written:], written)
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
