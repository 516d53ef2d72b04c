"""The Python files of a project that a process has imported, and later changes to these files."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from pathlib import Path


def imported_files() -> dict[str, int]:
    """Return the project's files that this process has imported, and when each was last changed.

    The files of Python itself and of installed packages are left out: only the project's own files
    are edited while the project runs.

    Returns:
        Maps each path to the time of the file's last change, in nanoseconds since 1970.

    """
    installed = tuple(
        os.path.join(folder, "")  # noqa: PTH118 -- a prefix of texts
        for folder in {*sysconfig.get_paths().values(), sys.prefix}
        if folder
    )
    found = {}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and path.endswith(".py") and not path.startswith(installed):
            try:
                found[os.path.abspath(path)] = os.stat(path).st_mtime_ns  # noqa: PTH100, PTH116 -- faster than Path
            except OSError:
                continue
    return found


def write(files: dict[str, int]) -> str:
    """Return imported files and their times as one line of text, for the ready file of a process.

    Args:
        files: maps each path to the time of its last change, in nanoseconds since 1970.

    """
    return json.dumps(files)


def changed_files(line: str) -> list[Path]:
    """Return the imported files that were changed or deleted since write(), sorted.

    Args:
        line: the text that write() has returned, with the files and their times. For another text,
            the result is empty.

    """
    try:
        files = json.loads(line)
        return sorted(Path(path) for path, time in files.items() if _time(path) != time)
    except (ValueError, AttributeError):
        return []  # not a line of write(), or the file has only the line's beginning yet


def _time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 -- faster than Path
    except OSError:
        return 0
