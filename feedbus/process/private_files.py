"""Open or make files and folders that only this user can write to.

A file must not be a link. A folder can be a symbolic link that this user or root has made.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import threading
from pathlib import Path

from feedbus.errors import FeedbusError

PROBE_BYTES = 65_536  # the size of the file that unwritable() writes
_making = threading.Lock()


class NotPrivate(FeedbusError):  # noqa: N818 -- it names a state, as Outage does
    """A file or folder belongs to another user, is a link, or others may write to it."""


def private_folder(path: Path) -> Path:
    """Return a folder to which only this user can write; create it (0700) if it is missing.

    Root may own the folder, too.

    Raises:
        NotPrivate: another user owns the folder or may write to it, or the path is a file.
        OSError: the folder cannot be created.

    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        # A link that this user or root has made, for example to a larger disk, is allowed.
        _refuse_other_owner(path, found, "the symbolic link ")
        found = path.stat()
    if not stat.S_ISDIR(found.st_mode):
        msg = (
            f"{path}: expected a folder, found a file; remove the file, or set var to another"
            " folder"
        )
        raise NotPrivate(msg)
    _refuse_other_owner(path, found)
    if found.st_mode & 0o022:
        msg = (
            f"{path}: other users may write to this folder (mode {found.st_mode & 0o777:04o});"
            f" remove the files of other users from it, then run `chmod go-w {path}`"
        )
        raise NotPrivate(msg)
    return path


def open_private(path: str | os.PathLike[str], flags: int, *, any_owner: bool = False) -> int:
    """Open a regular file (0600) that this user or root owns, never through a link.

    Args:
        path: the file, in a folder that private_folder() has returned.
        flags: the flags of os.open(); O_TRUNC takes effect after the checks.
        any_owner: whether root may open a file that another user owns. For processes of another
            user, root makes files and gives them to this user. If this process does not run as
            root, the argument has no effect.

    Returns:
        The descriptor of the file.

    Raises:
        NotPrivate: the file is a symbolic link, has a second name (hard link), is not a regular
            file, or belongs to another user.
        OSError: the file cannot be opened, for example because it does not exist.

    """
    # With O_NONBLOCK, the open of a named pipe does not wait for another process. Pipes are refused
    # below.
    safe = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags & ~os.O_TRUNC | safe, 0o600)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK, errno.ENXIO}:
            _refuse(Path(path), os.lstat(path))
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            _refuse(Path(path), found)
        if not (any_owner and os.geteuid() == 0):
            _refuse_other_owner(Path(path), found)
        if flags & os.O_TRUNC:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_database_file(path: Path) -> None:
    """Make an empty file (0600) and its folders (0700) for SQLite, unless they exist.

    SQLite itself would make the file readable for all users.

    An existing file is not opened here, because connections of this process may use it. SQLite
    locks the file with record locks, and the close of any descriptor of the file would release all
    of this process's locks on it. Then another process that closes the database would delete the
    log that the connections still use (https://www.sqlite.org/howtocorrupt.html, section 2.2).

    Raises:
        NotPrivate: the file, or a file that SQLite keeps next to it, is a link or belongs to
            another user.
        OSError: a folder or the file cannot be created, or the file cannot be written to.

    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for suffix in ("", "-wal", "-shm", "-journal"):
        beside = Path(f"{path}{suffix}")
        try:
            found = beside.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(found.st_mode):
            continue  # SQLite reports that the path is a folder
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            _refuse(beside, found)
        _refuse_other_owner(beside, found)
    # This thread opens and closes a new file. Another thread of this process must not connect to
    # the database between the two: the close would release the locks of the connection. Every
    # thread calls this function before it connects, so it waits here.
    with _making:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            os.close(os.open(path, flags, 0o600))
        except FileExistsError:
            pass
    if not os.access(path, os.W_OK):
        frozen = os.statvfs(path).f_flag & os.ST_RDONLY
        number = errno.EROFS if frozen else errno.EACCES
        raise OSError(number, os.strerror(number), str(path))


def unwritable(folder: Path) -> str:
    """Try to write to a folder; return the folder and why the write failed, or "" if it worked.

    A folder that does not exist yet counts as writable.

    Raises:
        NotPrivate: the written file does not belong to this user.

    """
    probe = folder / f".probe.{os.getpid()}.{threading.get_ident()}"
    try:
        descriptor = open_private(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            written = os.write(descriptor, bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
            os.close(descriptor)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{folder}: {error.strerror}"
    if written < PROBE_BYTES:
        return f"{folder}: {os.strerror(errno.ENOSPC)}"
    return ""


def _refuse_other_owner(path: Path, found: os.stat_result, what: str = "") -> None:
    if found.st_uid not in {os.geteuid(), 0}:
        me = _user(os.geteuid())
        msg = (
            f"{what}{path} belongs to {_user(found.st_uid)}, but feedbus runs as {me}: run it as"
            " its owner, or set var to another folder, or, if you trust its content, run"
            f" `chown -R {me} {path}`"
        )
        raise NotPrivate(msg)


def _refuse(path: Path, found: os.stat_result) -> None:
    owner = _user(found.st_uid)
    if stat.S_ISLNK(found.st_mode):
        what = f"is a symbolic link, made by {owner}"
    elif stat.S_ISREG(found.st_mode):
        what = f"has a second name (hard link) elsewhere, and belongs to {owner}"
    else:
        what = f"is not a regular file, and belongs to {owner}"
    msg = f"{path} {what}: nothing is written to it; find out where it comes from, and remove it"
    raise NotPrivate(msg)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user id {uid}"
