"""Remove feedbus's own calls from the beginning of a traceback."""

from __future__ import annotations

import os
import sysconfig
from traceback import TracebackException
from types import TracebackType

FEEDBUS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")  # noqa: PTH118, PTH120, PTH100 -- file names of frames are texts
STANDARD_LIBRARY = tuple(
    os.path.join(sysconfig.get_path(name), "")  # noqa: PTH118 -- as above
    for name in ("stdlib", "platstdlib")
)
INSTALLED = ("/site-packages/", "/dist-packages/")  # folders of installed libraries


def user_traceback(error: BaseException) -> TracebackType | None:
    """Return the traceback of an exception from the first frame of the user's code on.

    Logs and dead letters use it, so they begin with the code of the project. If no frame is in the
    user's code, the whole traceback is returned: it is the only hint.
    """
    found = error.__traceback__
    while found is not None and not is_of_user(found.tb_frame.f_code.co_filename):
        found = found.tb_next
    return found or error.__traceback__


def from_user_code(error: TracebackException) -> TracebackException:
    """Remove the frames before the first frame of the user's code, and return the same object.

    The frames of the causes of the exception, and of the exceptions in an exception group, are
    removed in the same way. If no frame of an exception is in the user's code, all its frames are
    kept, as by user_traceback().
    """
    to_do: list[TracebackException | None] = [error]
    seen_ids = set[int]()
    while to_do:
        each = to_do.pop()
        if each is None or id(each) in seen_ids:
            continue
        seen_ids.add(id(each))
        for position, frame in enumerate(each.stack):
            if is_of_user(frame.filename):
                del each.stack[:position]
                break
        to_do += [each.__cause__, each.__context__, *(each.exceptions or ())]
    return error


def is_of_user(file: str) -> bool:
    """Whether a file does not belong to feedbus, Python or an installed library."""
    if file.startswith((FEEDBUS, "<", *STANDARD_LIBRARY)):
        return False
    return not any(folder in file for folder in INSTALLED)
