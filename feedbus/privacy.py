"""Make the files of SQLite for their owner alone, before SQLite makes them for all."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path

_making = threading.Lock()


def make_private(path: Path) -> None:
    """Make an empty file (0600) and its folders (0700) where they are missing.

    A file that exists is not so much as opened: closing it would take from this process all the
    locks that it holds on the file, other connections' included. The next process to close the
    database would think itself the last one and delete the log from under those connections
    (https://www.sqlite.org/howtocorrupt.html, section 2.2).

    Raises:
        OSError: a folder or the file cannot be made, or the file not be written.

    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _making, contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    if not os.access(path, os.W_OK):
        frozen = os.statvfs(path).f_flag & os.ST_RDONLY
        number = errno.EROFS if frozen else errno.EACCES
        raise OSError(number, os.strerror(number), str(path))
